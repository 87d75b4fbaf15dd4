"""What the tests of launch commands share."""

from __future__ import annotations

from optimizer.audit.launch.job import read_launches
from optimizer.audit.launch.launch import Launch
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.layout import ParallelLayout
from optimizer.spec.reading import read_cluster

VLLM, SGLANG = "vllm serve", "python3 -m sglang.launch_server --model-path"
DEEPSEEK, QWEN = "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-235B-A22B"
LLAMA = "meta-llama/Llama-3.1-70B-Instruct"


def launch(engine: str, command: str, hardware: str = "h200-sxm") -> Launch:
    """The serving launch that one command means."""
    found = read_launches([(engine, command)], read_cluster(hardware), None)[0]
    assert isinstance(found, Launch)
    return found


def training(command: str, gpus: int = 32) -> TrainingLaunch:
    """The training launch that one command means, on H100s."""
    cluster = read_cluster("h100-sxm", gpus=gpus)
    found = read_launches([("megatron", command)], cluster, None)[0]
    assert isinstance(found, TrainingLaunch)
    return found


def layout(found: Launch | TrainingLaunch) -> ParallelLayout:
    assert found.layout is not None
    return found.layout


def broken(found: Launch | TrainingLaunch) -> list[tuple[str, str]]:
    """(kind, claim) of each broken rule."""
    return [(rule.kind, rule.claim) for rule in found.rules]
