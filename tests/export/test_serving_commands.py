"""Launch commands of serving plans: the audit reads each back as the plan's layout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from optimizer.audit.launch.job import read_launches
from optimizer.audit.launch.launch import Launch
from optimizer.export.serving import COMMANDS, why_not
from optimizer.pipeline import optimize
from optimizer.plan import Plan
from optimizer.report.guide import guide
from optimizer.spec.reading import read_job
from optimizer.spec.workload import Engine

JOBS = {
    "EP8-DP8-x2": ("deepseek-v3", 16),
    "EP16-TP4-DP4": ("deepseek-v3", 16),
    "ETP8-TP4-DP2-x2": ("deepseek-v3", 16),
    "EP4-ETP2-TP2-DP4": ("mixtral-8x22b", 8),
    "PP3-TP4": ("llama-3.1-70b", 12),
    "TP2-x4": ("llama-3.1-8b", 8),
    "TP1": ("gpt-oss-120b", 1),
}


@cache
def plan_of(name: str) -> Plan:
    model, gpus = JOBS[name]
    job = read_job("h200-sxm", model, flags={"concurrency": 64}, gpus=gpus)
    return optimize(job.cluster, job.model, job.workload, strategy=f"canonical:{name}").best


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("engine", COMMANDS)
def test_a_command_is_read_back_as_the_layout_that_it_launches(
    name: str, engine: Engine, tmp_path: Path
) -> None:
    plan = plan_of(name)
    command = COMMANDS[engine](plan, "serving")
    if command is None:
        assert why_not(plan, engine)
        return
    command, _, options = command.partition("   # options.yaml: ")
    (tmp_path / "options.yaml").write_text("\n".join(options.split("; ")) + "\n")
    command = command.replace("options.yaml", str(tmp_path / "options.yaml"))
    (found,) = read_launches([(engine, command)], plan.cluster, plan.model)
    assert isinstance(found, Launch)
    assert found.layout is not None
    assert found.layout.name == name.partition("-x")[0]
    assert found.sequences == plan.deployment.batch.sequences_per_rank
    assert found.context == 2048
    assert found.step_tokens == max(plan.deployment.batch.prefill_chunk, found.sequences)
    assert [rule for rule in found.rules if rule.kind == "refused"] == []
    if found.layout.pp > 1:
        assert found.stage_layers == tuple(
            stop - first for first, stop in plan.deployment.placement.stage_layers
        )


def test_what_an_engine_cannot_express_is_said_and_why() -> None:
    assert why_not(plan_of("EP4-ETP2-TP2-DP4"), "vllm").startswith("vLLM cuts experts")
    assert COMMANDS["trtllm"](plan_of("EP16-TP4-DP4"), "serving") is None


def test_the_guide_of_a_serving_plan_launches_it() -> None:
    job = read_job("h100-sxm", "llama-3.1-8b", flags={"concurrency": 8}, gpus=1)
    text = guide(optimize(job.cluster, job.model, job.workload, top=1))
    assert "\nvllm serve meta-llama/" in text
    assert "\ntrtllm-serve meta-llama/" in text
