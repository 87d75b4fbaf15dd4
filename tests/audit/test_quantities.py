"""Quantities beyond the five reports: presets, other strategies, properties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.audit.finding import Audit, Finding
from optimizer.audit.job import audit
from optimizer.audit.quantities import QUANTITIES
from optimizer.audit.quantities.balance import spread
from optimizer.audit.reading import read_case
from optimizer.audit.training import HELD, STATES, training_bytes, training_memory
from optimizer.spec.linears import total_parameters


def of(folder: Path, claims: list[dict[str, Any]], **case: Any) -> Audit:
    """The audit of claims on a preset."""
    document = {
        "case": "preset",
        "hardware": "h200-sxm",
        "gpus": 8,
        "model": "llama-3.1-8b",
        "strategy": "TP2",
        "workload": {"batch": 8, "seq_len": 1024},
        "phase": "forward",
        **case,
        "claims": [{"claim": f"claim {index}", **claim} for index, claim in enumerate(claims)],
    }
    file = folder / "claims.yaml"
    file.write_text(yaml.safe_dump(document))
    return audit([file])


def one(folder: Path, claim: dict[str, Any], **case: Any) -> Finding:
    return of(folder, [claim], **case).findings[0]


def test_the_attention_weights_of_llama_are_its_four_projections(tmp_path: Path) -> None:
    """32 layers x (2 x 4096 x 4096 + 2 x 4096 x 1024) x 2 B / TP 2 = 1.342 GB."""
    claim = {
        "quantity": "memory_per_gpu",
        "component": "attention weights",
        "value": "1.342",
        "unit": "GB",
    }
    finding = one(tmp_path, claim)
    assert finding.verdict == "confirmed"
    assert "(2 x 4096 x 4096 + 2 x 4096 x 1024) x 32 layers / 2 (TP) x 2 B" in finding.arithmetic


def test_a_value_may_carry_its_unit(tmp_path: Path) -> None:
    claim = {"quantity": "memory_per_gpu", "component": "attention weights", "value": "1.342 GB"}
    finding = one(tmp_path, claim)
    assert (finding.claimed_value, finding.claimed_unit) == (1.342, "GB")
    assert finding.verdict == "confirmed"


def test_the_same_figure_before_the_split_is_a_reading_unless_the_report_says_which(
    tmp_path: Path,
) -> None:
    claim = {
        "quantity": "memory_per_gpu",
        "component": "attention weights",
        "value": "2.684",
        "unit": "GB",
    }
    assert one(tmp_path, claim).reading == "before the TP split"
    pinned = one(tmp_path, {**claim, "reading": "after the TP split"})
    assert pinned.verdict == "refuted"
    assert pinned.readings == ("before the TP split",)


def test_a_dense_model_has_no_experts_to_claim(tmp_path: Path) -> None:
    finding = one(tmp_path, {"quantity": "experts_per_gpu", "value": 4, "unit": "experts"})
    assert finding.verdict == "unverifiable"
    assert "the model has none" in finding.missing[0]


def test_layers_that_differ_are_summed_before_they_are_cut(tmp_path: Path) -> None:
    claim = {
        "quantity": "memory_per_gpu",
        "component": "attention weights",
        "value": 1,
        "unit": "B",
    }
    finding = one(tmp_path, claim, model="qwen3.5-397b-a17b", strategy="TP8")
    assert "45 layers x" in finding.arithmetic
    assert "15 layers x" in finding.arithmetic


def test_the_work_of_a_token_is_two_flops_an_element(tmp_path: Path) -> None:
    """DeepSeek-V3's FFN: 3 dense layers, 58 with 8 routed experts and a shared one: 48.36 GFLOP."""
    claim = {"quantity": "flops_per_token", "component": "experts", "value": "48.36 GFLOP"}
    finding = one(tmp_path, claim, model="deepseek-v3", strategy="TP8")
    assert finding.verdict == "confirmed"
    dense, routed = 3 * 7168 * 18432, 3 * 7168 * 2048 * (8 + 1)
    assert finding.derived_value == pytest.approx(2 * (3 * dense + 58 * routed) / 1e9)
    assert "58 layers x (3 x 7168 x 2048 x top-8 + 3 x 7168 x 2048)" in finding.arithmetic


def test_a_speed_up_over_a_stated_baseline_is_planned(tmp_path: Path) -> None:
    """Two replicas of a GPU each pass twice the tokens of one."""
    claim = {"quantity": "speedup", "component": "throughput", "value": 2, "unit": "x"}
    assert one(tmp_path, claim).verdict == "unverifiable"
    finding = one(tmp_path, {**claim, "baseline": "TP1"}, strategy="TP1-x2")
    assert finding.verdict == "confirmed", finding.arithmetic


def test_a_claimed_rate_holds_within_the_predictions_interval(tmp_path: Path) -> None:
    claim = {"quantity": "throughput", "value": 1, "unit": "tokens/s"}
    rate = one(tmp_path, claim).derived_value
    assert isinstance(rate, float)
    for factor, verdict in ((1.05, "confirmed"), (3.0, "refuted")):
        figure = f"{rate * factor:.0f}"
        assert one(tmp_path, {**claim, "value": figure}).verdict == verdict


def test_with_one_request_in_flight_latency_is_throughput_turned_over(tmp_path: Path) -> None:
    """No contradiction at batch 1; with 8 in flight it is the time between two of their tokens."""
    claims = [
        {"id": "rate", "quantity": "throughput", "value": "50.0", "unit": "tokens/s"},
        {"quantity": "latency", "value": "20.0", "unit": "ms"},
    ]
    for concurrency, contradictions in ((1, 0), (8, 1)):
        load = {"input_len": 128, "output_len": 64, "concurrency": concurrency}
        found = of(tmp_path, claims, workload=load, phase="serving").findings
        assert sum(each.quantity == "contradiction" for each in found) == contradictions


def test_a_pass_has_all_its_tokens_in_flight(tmp_path: Path) -> None:
    """8 x 1024 tokens in 81.92 ms are 100,000 a second; ten times as many contradict the batch."""
    latency = {"quantity": "latency", "value": "81.92 ms"}
    for rate, contradictions in (("100000", 0), ("1000001", 1)):
        claims = [{"quantity": "throughput", "value": rate, "unit": "tokens/s"}, latency]
        found = of(tmp_path, claims).findings
        assert sum(each.claim.startswith("throughput x") for each in found) == contradictions


def test_components_in_other_units_are_added_as_they_are(tmp_path: Path) -> None:
    memory = {"quantity": "memory_per_gpu"}
    for total, contradictions in (("1.50 GB", 0), ("1.60 GB", 1)):
        claims = [
            {**memory, "id": "a", "component": "weights", "value": "1.00 GB"},
            {**memory, "id": "b", "component": "activations", "value": "500.0 MB"},
            {**memory, "component": "total", "value": total, "terms": ["a", "b"]},
        ]
        found = of(tmp_path, claims).findings
        wrong = [each for each in found if each.claim.startswith("components")]
        assert len(wrong) == contradictions


def test_eight_bits_halve_the_weights(tmp_path: Path) -> None:
    claim = {
        "quantity": "effect",
        "component": "weights",
        "change": {"precision": "fp8"},
        "direction": "less",
    }
    assert one(tmp_path, claim).verdict == "confirmed"
    assert one(tmp_path, {**claim, "direction": "more"}).verdict == "refuted"


def test_a_plan_that_cannot_run_leaves_its_rates_unverifiable_and_is_not_ready(
    tmp_path: Path,
) -> None:
    claim = {"quantity": "latency", "value": 5, "unit": "ms"}
    found = of(tmp_path, [claim], strategy="TP8-x2")
    assert found.findings[0].verdict == "unverifiable"
    assert "GPUs: 16 needed, 8 there" in found.findings[0].missing[0]
    assert not found.readiness[0].ready
    assert found.better[0].claimed_plan == ""


def test_the_best_plan_is_confirmed_as_optimal(tmp_path: Path) -> None:
    """What the planner finds, claimed as a report would claim it."""
    claim = {"quantity": "optimal"}
    best = of(tmp_path, [claim]).better[0].plan
    assert one(tmp_path, claim).verdict == "refuted"
    assert one(tmp_path, claim, strategy=best).verdict == "confirmed"


def test_components_that_do_not_add_up_are_found(tmp_path: Path) -> None:
    memory = {"quantity": "memory_per_gpu", "unit": "GB"}
    claims = [
        {**memory, "id": "a", "component": "weights", "value": "8.0"},
        {**memory, "id": "b", "component": "activations", "value": "1.0"},
        {**memory, "component": "total", "value": "12.0", "terms": ["a", "b"]},
    ]
    found = [each for each in of(tmp_path, claims).findings if "components" in each.claim]
    assert [each.arithmetic for each in found] == ["8.0 GB + 1.0 GB = 9 GB, not 12.0"]


def test_a_ratio_that_is_not_its_terms_is_found(tmp_path: Path) -> None:
    claim = {
        "quantity": "share_of_capacity",
        "value": 20,
        "unit": "%",
        "terms": ["8 GB", "80 GB"],
    }
    found = [each for each in of(tmp_path, [claim]).findings if "terms" in each.claim]
    assert len(found) == 1
    assert "8 GB / 80 GB = 10 %" in found[0].arithmetic
    honest = of(tmp_path, [{**claim, "value": 10}])
    assert not [each for each in honest.findings if each.quantity == "contradiction"]


def test_training_states_are_eighteen_bytes_a_parameter(tmp_path: Path) -> None:
    """Llama 3.1 8B on one GPU: 16-bit weights, fp32 gradients, master weights and two moments."""
    of(tmp_path, [{"quantity": "acyclic"}], phase="training", strategy="TP1")
    case = read_case(tmp_path / "claims.yaml")
    parts = training_bytes(case, case.batch, HELD)
    states = sum(parts[name] for name in STATES)
    assert states == pytest.approx(18 * total_parameters(case.model), rel=0.001)
    kept, with_scores, recomputed = (float(each.value) for each in training_memory(case))
    assert states < recomputed < kept < with_scores


@pytest.mark.parametrize("phase", ["forward", "serving", "training", "not stated"])
def test_every_quantity_answers_in_every_phase(phase: str, tmp_path: Path) -> None:
    """No claim that the reader admits makes the audit fail."""
    claims = []
    for name, quantity in QUANTITIES.items():
        for component in quantity.components or ("",):
            claim: dict[str, Any] = {"quantity": name}
            if component:
                claim["component"] = component
            if quantity.dimension != "statement":
                claim |= {"value": 1, "unit": quantity.example or "%"}
            if name == "effect":
                claim["change"] = {"batch": 4}
            claims.append(claim)
    found = of(tmp_path, claims, phase=phase, model="deepseek-v3", strategy="EP8_TP1")
    assert len(found.findings) >= len(claims)
    assert all(each.arithmetic for each in found.findings)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=40)
def test_whole_modules_are_even_only_where_they_divide(modules: int, gpus: int) -> None:
    loads = [modules // gpus + (index < modules % gpus) for index in range(gpus)]
    assert sum(loads) == modules
    assert (spread(loads) == 0) == (modules % gpus == 0)


def test_whole_modules_need_a_cut_to_be_equal(tmp_path: Path) -> None:
    """40 modules on 16 GPUs: with TP 4 each GPU has 2 experts and 2 quarters; without it no GPU
    can."""
    folder = Path(__file__).parents[2] / "configs" / "cases" / "c"
    specs = {"hardware": str(folder / "hardware.yaml"), "model": str(folder / "model.yaml")}
    claim = {"quantity": "variance", "component": "modules", "value": 0, "unit": "%"}
    cut = one(tmp_path, claim, **specs, gpus=16, strategy="TP4+EP4+PP4")
    assert cut.verdict == "confirmed-under-reading"
    whole = one(tmp_path, claim, **specs, gpus=16, strategy="EP4-PP4-DP4")
    assert whole.verdict == "refuted"
    assert "8 GPUs hold 3, 8 hold 2" in whole.arithmetic


def test_a_unit_off_by_a_thousand_explains_and_does_not_confirm(tmp_path: Path) -> None:
    claim = {
        "quantity": "memory_per_gpu",
        "component": "attention weights",
        "value": "1.342",
        "unit": "MB",
    }
    finding = one(tmp_path, claim)
    assert finding.verdict == "refuted"
    assert "MB off by a thousand" in finding.readings


def test_what_is_counted_is_exact(tmp_path: Path) -> None:
    claim = {"quantity": "sequential_layers", "unit": "layers"}
    assert one(tmp_path, {**claim, "value": 32}).verdict == "confirmed"
    assert one(tmp_path, {**claim, "value": "31.6"}).verdict == "refuted"


def test_an_audit_of_one_case_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (of(tmp_path, [{"quantity": "optimal"}]) for _ in range(2))
    assert first == second
