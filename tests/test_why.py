"""Why one layout and not another, and plans that hold at a confidence."""

from __future__ import annotations

import json

import pytest

from optimizer import Cluster, ModelSpec, Plans, optimize
from optimizer.errors import SpecError
from optimizer.explaining import why
from optimizer.plan import terms, write_plan
from optimizer.spec.reading import Job, read_job
from optimizer.spec.workload import Robust, ServingWorkload
from optimizer.verify import verify_plan

LIMITED = {"input_len": 1024, "output_len": 256, "ttft": "2s", "tpot": "40ms"}


@pytest.fixture(scope="module")
def job() -> Job:
    return read_job("h200-sxm", "qwen3-30b-a3b", flags=LIMITED, gpus=8)


@pytest.fixture(scope="module")
def plans(job: Job) -> Plans:
    return optimize(job.cluster, job.model, job.workload, top=4)


def test_every_runner_up_says_why_it_lost(plans: Plans) -> None:
    for other in plans.best.others:
        assert "tokens/s" in other.why or "equal" in other.why


def test_the_terms_of_a_step_sum_to_the_step(plans: Plans) -> None:
    loser, best = plans.plans[1], plans.best
    found = terms(loser, best)
    for phase, table in loser.deployment.phases.items():
        total = sum(term.here for term in found[f"{phase} step"])
        assert total == pytest.approx(table.total_seconds[0], rel=1e-9)


def test_an_explanation_shows_memory_limits_and_differences(plans: Plans) -> None:
    text = plans.explain(2)
    assert plans.best.name in text
    for word in ("decode step", "KV cache", "in all", "difference", "limit"):
        assert word in text
    with pytest.raises(SpecError, match="no rank 9"):
        plans.explain(9)


def under_tpot(job: Job, limit_s: float) -> str:
    """The best layout when every token must come so fast."""
    limit = job.workload.tpot.model_copy(update={"value_s": limit_s})
    changed = job.workload.model_copy(update={"tpot": limit})
    return optimize(job.cluster, job.model, changed, top=1).best.name


def test_why_finds_the_limit_under_which_a_layout_wins(job: Job, plans: Plans) -> None:
    quick = under_tpot(job, 0.010)
    assert quick != plans.best.name
    answer = why(job.cluster, job.model, job.workload, f"canonical:{quick}")
    assert answer.named is not None
    found = {even.setting.name: even for even in answer.break_evens}
    even = found["TPOT limit"]
    assert even.value is not None
    assert even.below
    assert "TPOT limit: at most" in answer.text()
    assert even.value >= 0.010
    assert under_tpot(job, even.value * 1.05) != quick


def test_why_says_that_nothing_in_range_helps_and_names_the_range(job: Job) -> None:
    text = why(job.cluster, job.model, job.workload, "TP8").text()
    assert "TPOT limit: nothing in range (2.5 ms to 640 ms)" in text


def test_why_names_both_numbers_of_a_layout_that_cannot_run(job: Job) -> None:
    answer = why(job.cluster, job.model, job.workload, "TP32")
    assert answer.named is None
    assert "GPUs: 32 needed, 8 there" in answer.text()


def robust(job: Job, confidence: float | None, **skews: float) -> Plans:
    workload = job.workload.model_copy(update={"robust": Robust(**skews) if skews else None})
    assert isinstance(workload, ServingWorkload)
    return optimize(job.cluster, job.model, workload, top=2, confidence=confidence)


def test_a_robust_plan_keeps_its_limits_at_the_high_end(job: Job) -> None:
    best = robust(job, 0.9).best
    assert best.robustness is not None
    assert best.predictions["tpot_s"].high <= 0.040 * (1 + 1e-9)
    assert best.predictions["ttft_s"].high <= 2.0 * (1 + 1e-9)
    assert all(finding.ok for finding in verify_plan(json.loads(write_plan(best))))


def test_robustness_costs_and_the_plan_says_how_much(job: Job, plans: Plans) -> None:
    found = robust(job, 0.9).best.robustness
    assert found is not None
    assert found.nominal_name == plans.best.name
    assert found.cost > 0
    assert "tpot" in found.binding


def test_more_confidence_and_more_skew_never_gain(job: Job) -> None:
    values = [
        robust(job, None).best.proof,
        robust(job, 0.7).best.proof,
        robust(job, 0.9).best.proof,
        robust(job, 0.9, expert_imbalance=2.0, context=1.5).best.proof,
    ]
    rates = [proof.value / proof.scale for proof in values]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_the_public_names_are_the_classes(job: Job) -> None:
    assert isinstance(job.cluster, Cluster)
    assert isinstance(job.model, ModelSpec)
