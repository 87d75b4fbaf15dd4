"""Launches that share what others copy: decode context parallelism, experts in data parallel."""

from __future__ import annotations

import pytest
from launch_commands import DEEPSEEK, SGLANG, VLLM, launch

from optimizer.audit.launch import audit_launches
from optimizer.audit.launch.capacity import capacity_of
from optimizer.audit.launch.pricing import Served, served
from optimizer.spec.reading import read_cluster
from optimizer.spec.workload import ServingWorkload

QWEN_SMALL = "Qwen/Qwen3-30B-A3B"
CLUSTER = read_cluster("h200-sxm")


def run(engine: str, command: str, tokens: int, concurrency: int) -> Served:
    """What a command does on eight H200s."""
    found = launch(engine, command)
    load = ServingWorkload(input_len=tokens, output_len=256, concurrency=concurrency)
    result = served(found, CLUSTER, load, capacity_of(found, CLUSTER.pools[0].gpu.memory_bytes))
    assert result is not None
    return result


def test_a_shared_cache_decodes_long_contexts_sooner() -> None:
    """At 64k tokens the cache is most of what a step reads; each rank reads a half, a fourth."""
    command = f"{VLLM} {DEEPSEEK} -tp 8 -ep"
    found = [run("vllm", f"{command} -dcp {dcp}", 65_536, 4) for dcp in (1, 2, 4)]
    tpots = [each.tpot_s for each in found]
    assert tpots == sorted(tpots, reverse=True)
    assert tpots[0] - tpots[1] > tpots[1] - tpots[2]  # a half, then a fourth of the reading
    assert found[0].tokens_per_s < found[2].tokens_per_s


def test_a_shared_cache_costs_collectives_where_contexts_are_short() -> None:
    command = f"{VLLM} {DEEPSEEK} -tp 8 -ep"
    plain, shared = (run("vllm", f"{command} -dcp {dcp}", 64, 1).tpot_s for dcp in (1, 8))
    assert plain < shared
    # three small collectives a layer, none over 20 us inside a node
    assert shared - plain < 61 * 3 * 20e-6


def test_a_shared_cache_leaves_prefill_alone() -> None:
    command = f"{VLLM} {DEEPSEEK} -tp 8 -ep"
    plain, shared = (run("vllm", f"{command} -dcp {dcp}", 8192, 1).ttft_s for dcp in (1, 8))
    assert shared == pytest.approx(plain, rel=0.05)


def test_copies_of_experts_with_their_attention_ranks_are_replicas() -> None:
    """Eight attention ranks, experts over four: two replicas of four GPUs, second by second."""
    one = f"{SGLANG} {QWEN_SMALL} --mem-fraction-static 0.8 --chunked-prefill-size 8192"
    folded = run("sglang", f"{one} --tp 8 --attn-dp-size 8 --ep-size 4 --moe-dp-size 2", 1024, 64)
    apart = run("sglang", f"{one} --tp 4 --attn-dp-size 4 --ep-size 4 --dp-size 2", 1024, 64)
    assert (folded.ttft_s, folded.tpot_s) == (apart.ttft_s, apart.tpot_s)
    assert folded.tokens_per_s == apart.tokens_per_s


def test_what_is_not_priced_is_said() -> None:
    """One attention group over two copies of the experts; tokens cut where a window moves."""
    commands = (
        ("sglang", f"{SGLANG} {QWEN_SMALL} --tp 8 --ep-size 4 --moe-dp-size 2", "several copies"),
        ("vllm", f"{VLLM} openai/gpt-oss-120b -tp 16 -dcp 2", "of windows"),
    )
    for engine, command, words in commands:
        found = audit_launches([(engine, command)], "h200-sxm", gpus=16, flags=LOAD)
        assert words in found.readiness[0].arithmetic


LOAD = {"input_len": 512, "output_len": 128, "concurrency": 16}
