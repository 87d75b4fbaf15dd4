"""The commands of a guide, read back by each engine's own rules: the layout is the plan's."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch_commands import DEEPSEEK, launch, layout

from optimizer.export.serving import COMMANDS
from optimizer.pipeline import optimize
from optimizer.plan import Plan
from optimizer.spec.fleet import Role
from optimizer.spec.reading import read_job


def plan(strategy: str) -> Plan:
    job = read_job("h200-sxm", "deepseek-v3", flags={"tpot": "100ms"}, gpus=16)
    return optimize(job.cluster, job.model, job.workload, strategy=strategy, top=1).best


@pytest.mark.parametrize("engine", COMMANDS)
@pytest.mark.parametrize("name", ["EP8-DP8", "EP8-TP8", "EP16-DP16", "PP2-EP8-TP8"])
def test_a_command_means_its_plans_layout(
    engine: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plan(name)
    monkeypatch.chdir(tmp_path)
    for role in ("serving", "prefill", "decode"):
        command = COMMANDS[engine](found, role)
        assert command is not None
        command, _, options = command.partition("   # options.yaml: ")
        Path("options.yaml").write_text(options.replace("; ", "\n"))
        assert layout(launch(engine, command.replace("MODEL", DEEPSEEK))).name == name


@pytest.mark.parametrize(("engine", "name"), [("vllm", "EP4-ETP2-DP8"), ("trtllm", "EP8-TP2-DP4")])
def test_an_engine_without_flags_for_a_layout_says_none(engine: str, name: str) -> None:
    role: Role = "decode"
    assert COMMANDS[engine](plan(name), role) is None
    assert COMMANDS["sglang"](plan(name), role) is not None


def test_a_prefill_worker_takes_requests_with_their_whole_answer() -> None:
    found = plan("EP8-DP8")
    for command, flag in (("vllm", "--max-model-len"), ("sglang", "--context-length")):
        assert flag not in (COMMANDS[command](found, "prefill") or "")
        assert flag in (COMMANDS[command](found, "decode") or "")
