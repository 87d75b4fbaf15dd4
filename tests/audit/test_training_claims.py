"""Reports of training: tokens/s, step, MFU, memory and optimality against the planned step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.audit.finding import Audit, Finding
from optimizer.audit.job import audit
from optimizer.audit.judging import judge_all
from optimizer.audit.quantities.steps import step_works
from optimizer.audit.reading import read_case
from optimizer.errors import SpecError
from optimizer.pipeline import optimize
from optimizer.spec.reading import read_model

RUN = {"global_batch": 256, "sequence_length": 4096}
TOKENS = 256 * 4096


def written(folder: Path, claims: list[dict[str, Any]], **case: Any) -> Path:
    """Claims on Llama 3.1 8B, trained on 16 H100s."""
    document = {
        "case": "run",
        "hardware": "h100-sxm",
        "gpus": 16,
        "model": "llama-3.1-8b",
        "strategy": "TP8_DP2",
        "workload": RUN,
        **case,
        "claims": [{"claim": f"claim {index}", **claim} for index, claim in enumerate(claims)],
    }
    file = folder / "claims.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def of(folder: Path, *claims: dict[str, Any], **case: Any) -> Audit:
    return audit([written(folder, list(claims), **case)])


def one(folder: Path, claim: dict[str, Any], **case: Any) -> Finding:
    return of(folder, claim, **case).findings[0]


def contradictions(found: Audit) -> list[Finding]:
    return [each for each in found.findings if each.quantity == "contradiction"]


@pytest.mark.parametrize(
    ("quantity", "unit"),
    [("throughput", "tokens/s"), ("step_time", "s"), ("mfu", "%"), ("compute_rate", "TFLOP/s")],
)
def test_a_claimed_rate_of_training_holds_within_the_steps_interval(
    quantity: str, unit: str, tmp_path: Path
) -> None:
    claim = {"quantity": quantity, "value": 1, "unit": unit}
    if quantity == "compute_rate":
        claim["component"] = "total"
    planned = one(tmp_path, claim).derived_value
    assert isinstance(planned, float)
    for factor, verdict in ((1.03, "confirmed"), (3.0, "refuted"), (0.3, "refuted")):
        assert one(tmp_path, {**claim, "value": f"{planned * factor:.6g}"}).verdict == verdict


def test_the_planned_step_is_the_planners_own(tmp_path: Path) -> None:
    file = written(tmp_path, [{"quantity": "step_time", "value": "1.0 s"}])
    case = read_case(file)
    plan = optimize(case.cluster, case.model, case.workload, top=1, strategy="TP8_DP2").best
    step = audit([file]).findings[0]
    assert step.derived_value == pytest.approx(plan.predictions["step_s"].value, rel=1e-6)
    assert plan.name in step.arithmetic


def test_tokens_a_second_may_be_stated_per_gpu(tmp_path: Path) -> None:
    whole = one(tmp_path, {"quantity": "throughput", "value": "1 tokens/s"}).derived_value
    each = one(tmp_path, {"quantity": "throughput", "value": "1 tokens/s/GPU"}).derived_value
    assert isinstance(whole, float)
    assert each == pytest.approx(whole / 16, rel=1e-6)


def test_a_better_plan_of_training_is_named_with_its_gain(tmp_path: Path) -> None:
    """Eight-way tensor parallelism on an 8B model talks more than it computes."""
    found = of(tmp_path, {"quantity": "optimal"})
    better = found.better[0]
    assert (found.findings[0].verdict, better.phase) == ("refuted", "training")
    assert better.times is not None
    assert better.times > 1.1
    assert f"= {better.times:.2f} x" in found.findings[0].arithmetic
    assert better.plan in found.findings[0].arithmetic


def test_the_best_plan_of_training_is_confirmed_as_optimal(tmp_path: Path) -> None:
    best = of(tmp_path, {"quantity": "optimal"}).better[0].plan
    assert one(tmp_path, {"quantity": "optimal"}, strategy=best).verdict == "confirmed"


def test_how_the_report_runs_a_step_does_not_bind_the_better_plan(tmp_path: Path) -> None:
    free = of(tmp_path, {"quantity": "optimal"})
    best = free.better[0].plan
    slow = {**RUN, "recompute": "full", "micro_batch": 1, "schedules": ["1f1b"]}
    bound = of(tmp_path, {"quantity": "optimal"}, strategy=best, workload=slow)
    assert bound.better[0].plan == best
    assert bound.better[0].times is not None
    assert bound.better[0].times > 1.2  # a third of the passes is repeated
    assert bound.findings[0].verdict == "refuted"
    assert "all recomputed" in bound.findings[0].arithmetic


def test_mfu_follows_from_the_reports_own_tokens_per_second(tmp_path: Path) -> None:
    """32 layers of 2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336 and a head of 4096 x 128256:
    7.504 B parameters; attention reads 2048 tokens in the mean: 12 x 4096 x 2048 x 32 FLOP."""
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    a_token = 6 * (32 * layer + 4096 * 128256) + 32 * 12 * 4096 * 2048
    case = read_case(written(tmp_path, [{"quantity": "optimal"}]))
    works = {work.label: work.flops for work in step_works(case)}
    assert works[""] == pytest.approx(TOKENS * a_token, rel=1e-6)
    share = 100 * a_token * 9000 / 989e12
    rate = {"id": "rate", "quantity": "throughput", "value": "9,000 tokens/s/GPU"}
    for claimed, wrong in ((share, 0), (share / 2, 1)):
        mfu = {"quantity": "mfu", "value": f"{claimed:.1f} %"}
        found = of(tmp_path, rate, mfu)
        assert len(contradictions(found)) == wrong
    assert "under no convention" in contradictions(found)[0].arithmetic


def test_hardware_flops_are_those_of_the_megatron_paper(tmp_path: Path) -> None:
    """96 B s l h^2 (1 + s / 6h + V / 16lh), all recomputed (Narayanan et al., 2021, equation 3)."""
    load = {"global_batch": 1536, "sequence_length": 2048, "recompute": "full"}
    layers, hidden, length, batch = 96, 12288, 2048, 1536
    vocab = read_model("gpt3-175b").model.vocab_size
    flops = 96 * batch * length * layers * hidden**2
    flops *= 1 + length / (6 * hidden) + vocab / (16 * layers * hidden)
    claims = written(
        tmp_path,
        [{"quantity": "optimal"}],
        model="gpt3-175b",
        hardware="a100-sxm",
        gpus=96,
        strategy="TP8_PP12",
        workload=load,
    )
    works = {work.label: work.flops for work in step_works(read_case(claims))}
    whole = next(size for label, size in works.items() if "whole" in label and "hardware" in label)
    assert whole == pytest.approx(flops, rel=1e-4)


def test_step_and_tokens_per_second_must_make_the_batch(tmp_path: Path) -> None:
    """1,048,576 tokens in 8 s are 131,072 a second and 8,192 a GPU."""
    step = {"quantity": "step_time", "value": "8.00 s"}
    for rate, wrong in (("131,072", 0), ("262,144", 1)):
        claims = (step, {"quantity": "throughput", "value": f"{rate} tokens/s"})
        found = contradictions(of(tmp_path, *claims))
        assert len(found) == wrong
    per_gpu = {"quantity": "throughput", "value": "8,192 tokens/s/GPU"}
    assert not contradictions(of(tmp_path, step, per_gpu))


def test_the_bubble_is_counted_over_the_step_or_over_the_work(tmp_path: Path) -> None:
    """4 stages, 32 micro-batches: 3 / 35 of the step, 3 / 32 of the time without waiting."""
    load = {**RUN, "micro_batch": 2}
    case = {"workload": load, "strategy": "TP1_PP4_DP4"}
    claim = {"quantity": "bubble", "unit": "%"}
    # 256 sequences / dp 4 / 2 = 32 micro-batches
    assert one(tmp_path, {**claim, "value": "8.57"}, **case).verdict == "confirmed"
    over = one(tmp_path, {**claim, "value": "9.38"}, **case)
    assert (over.verdict, over.reading) == (
        "confirmed-under-reading",
        "over the time without waiting",
    )
    assert one(tmp_path, {**claim, "value": "20.0"}, **case).verdict == "refuted"


def test_states_are_counted_by_parameter(tmp_path: Path) -> None:
    """8.03 B parameters / TP 8 in 2 and 4 bytes, 12 of Adam shared by 2 ranks; the padding of the
    vocabulary is 0.1 %."""
    share = 8.030e9 / 8
    for part, size in (("weights", 2), ("gradients", 4), ("optimizer state", 12 / 2)):
        claim = {"quantity": "memory_per_gpu", "component": part, "unit": "GB", "value": 1}
        figure = one(tmp_path, claim).derived_value
        assert figure == pytest.approx(share * size / 1e9, rel=2e-3), part
        assert one(tmp_path, {**claim, "value": f"{figure:.2f}"}).verdict == "confirmed"


def test_training_memory_holds_within_its_interval(tmp_path: Path) -> None:
    claim = {"quantity": "memory_per_gpu", "component": "total", "value": 1, "unit": "GB"}
    planned = one(tmp_path, claim).derived_value
    assert isinstance(planned, float)
    assert one(tmp_path, {**claim, "value": f"{planned * 1.02:.3f}"}).verdict == "confirmed"
    assert one(tmp_path, {**claim, "value": f"{planned * 4:.3f}"}).verdict == "refuted"


def test_a_run_that_does_not_fit_is_not_ready_and_the_plan_that_runs_is_named(
    tmp_path: Path,
) -> None:
    """70 billion parameters, 18 bytes each, on 16 GPUs of 80 GB with whole copies."""
    load = {**RUN, "sharding": "none"}
    found = of(
        tmp_path,
        {"quantity": "readiness", "value": "READY"},
        {"quantity": "throughput", "value": "9,000 tokens/s"},
        model="llama-3.1-70b",
        workload=load,
    )
    assert not found.readiness[0].ready
    assert any(limit.startswith("memory") for limit in found.readiness[0].limits)
    assert [each.verdict for each in found.findings] == ["refuted", "unverifiable"]
    assert found.better[0].plan
    assert found.better[0].claimed_plan == ""


def test_a_workload_that_trains_is_no_forward_pass(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is forward, but the workload trains"):
        of(tmp_path, {"quantity": "optimal"}, phase="forward")


def test_a_step_of_a_serving_report_is_missing(tmp_path: Path) -> None:
    load = {"input_len": 512, "output_len": 128, "concurrency": 8}
    claim = {"quantity": "step_time", "value": "1 s"}
    finding = one(tmp_path, claim, workload=load, phase="serving", strategy="TP8")
    assert finding.verdict == "unverifiable"
    assert finding.missing == ("a training step; the report is of serving",)


def test_chunks_that_the_strategy_does_not_say_are_a_reading_of_the_bubble(tmp_path: Path) -> None:
    """3 / 2 turns of waiting in two chunks beside 32 micro-batches: 4.48 % of the step."""
    load = {**RUN, "micro_batch": 2}
    claim = {"quantity": "bubble", "value": "4.48 %"}
    finding = one(tmp_path, claim, workload=load, strategy="TP1_PP4_DP4")
    assert finding.verdict == "confirmed-under-reading"
    assert finding.reading == "2 chunks of a stage, which the strategy does not say"


def test_no_step_computes_more_than_the_gpus_can(tmp_path: Path) -> None:
    """1,048,576 tokens x 48.2 GFLOP in 3 s on 16 GPUs are 1,050 TFLOP/s each, of 989."""
    for seconds, wrong in (("3.00 s", 1), ("8.00 s", 0)):
        found = contradictions(of(tmp_path, {"quantity": "step_time", "value": seconds}))
        assert len(found) == wrong
    found = contradictions(of(tmp_path, {"quantity": "step_time", "value": "3.00 s"}))
    assert found[0].claim.startswith("more than the GPUs can compute")


def test_states_of_a_run_that_does_not_fit_are_counted_all_the_same(tmp_path: Path) -> None:
    load = {**RUN, "sharding": "none"}
    claim = {"quantity": "memory_per_gpu", "component": "optimizer state", "value": "1 GB"}
    finding = one(tmp_path, claim, model="llama-3.1-70b", workload=load)
    assert finding.arithmetic.startswith("training, if it fitted")
    assert finding.derived_value == pytest.approx(12 * 70.55 / 8, rel=2e-3)


def test_what_the_workload_says_of_the_phase_need_not_be_said_again(tmp_path: Path) -> None:
    load = {"input_len": 512, "output_len": 128, "concurrency": 8}
    found = of(tmp_path, {"quantity": "fits"}, workload=load, strategy="TP8")
    assert [each.phase for each in found.readiness] == ["serving"]
    assert [each.phase for each in of(tmp_path, {"quantity": "fits"}).readiness] == ["training"]


def test_a_baseline_that_cannot_run_says_why(tmp_path: Path) -> None:
    claim = {"quantity": "speedup", "component": "throughput", "value": 2, "unit": "x"}
    finding = one(tmp_path, {**claim, "baseline": "TP3_DP5"})
    assert finding.verdict == "unverifiable"
    assert "TP3_DP5 cannot run" in finding.missing[0]
    assert "heads 32 cannot be cut by tp 3" in finding.missing[0]


def test_a_layout_that_leaves_no_choice_at_all_is_not_ready(tmp_path: Path) -> None:
    """Layers of two types, memory for none of them: nothing is left to cut."""
    load = {"global_batch": 16, "sequence_length": 4096}
    case = {"model": "deepseek-v3", "gpus": 8, "strategy": "PP2-VP2-DP4", "workload": load}
    assert not of(tmp_path, {"quantity": "fits"}, **case).readiness[0].ready


def test_a_training_report_counts_its_gpus_as_megatron_does(tmp_path: Path) -> None:
    """TP 1 x PP 4 x DP 16 = 64 GPUs, whose experts lie over 8 of a stage's 16."""
    claim = {"quantity": "gpus", "component": "needed", "value": 64, "unit": "GPUs"}
    case = {"model": "mixtral-8x7b", "gpus": 64, "strategy": "TP1_PP4_EP8_DP16"}
    finding = one(tmp_path, claim, **case)
    assert finding.verdict == "confirmed", finding.arithmetic
    assert of(tmp_path, claim, **case).better[0].claimed_plan.endswith("EP8-EDP2-DP16")


@pytest.mark.parametrize(
    ("strategy", "gpus", "rate", "share"),
    [("TP8_CP1_PP16_DP64", 8192, 430, 43), ("TP8_CP1_PP16_DP128", 16384, 400, 41)],
)
def test_the_rates_of_llama_3_are_confirmed(
    strategy: str, gpus: int, rate: int, share: int, tmp_path: Path
) -> None:
    """Grattafiori et al., 2024, table 4: 16 M tokens a step on H100s; chunks are not stated."""
    claims = [
        {"quantity": "compute_rate", "value": f"{rate} TFLOP/s/GPU"},
        {"quantity": "mfu", "value": f"{share} %"},
        {"quantity": "fits"},
    ]
    load = {"global_batch": 2048, "sequence_length": 8192}
    case = {"model": "llama-3.1-405b", "gpus": gpus, "strategy": strategy, "workload": load}
    findings, _ = judge_all(read_case(written(tmp_path, claims, **case)))
    assert [each.verdict for each in findings] == ["confirmed"] * 3
    assert findings[0].derived_value == pytest.approx(rate, rel=0.05)


def test_chunks_of_a_stage_are_searched_where_a_report_does_not_state_them(tmp_path: Path) -> None:
    """Names of our own state every degree, so silence means one chunk."""
    load = {"global_batch": 32, "sequence_length": 4096, "schedules": ["1f1b", "interleaved"]}
    step = {"quantity": "step_time", "value": "1.0 s"}
    theirs = one(tmp_path, step, workload=load, strategy="TP2_PP4_DP2")
    own = one(tmp_path, step, workload=load, strategy="PP4-TP2-DP2")
    assert "planned as PP4-VP" in theirs.arithmetic
    assert "planned as PP4-TP2-DP2" in own.arithmetic
    assert float(theirs.derived_value or 0) < float(own.derived_value or 0)
