"""Expert loads inside `optimize`: skew makes expert parallelism slower, redundancy costs memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.errors import SpecError
from optimizer.pipeline import optimize
from optimizer.placing_experts import files_of
from optimizer.plan import Plan
from optimizer.search.experts.balance import loads_of
from optimizer.spec.reading import read_cluster, read_job, read_model
from optimizer.spec.workload import ServingWorkload
from optimizer.verify import verify_plan
from optimizer.verify.experts import check_expert_placement

MODEL = read_model("qwen3-30b-a3b").model
CLUSTER = read_cluster("h100-sxm", gpus=8)
MOE_LAYERS, EXPERTS = 48, 128


def planned(strategy: str = "EP8-DP8", **changes: Any) -> Plan:
    workload = ServingWorkload(input_len=1024, output_len=256, concurrency=256, **changes)
    return optimize(CLUSTER, MODEL, workload, top=1, strategy=strategy).best


def step_s(plan: Plan) -> float:
    """Seconds of the experts in one prefill step."""
    return plan.deployment.phases["prefill"].by_group["experts"]


def one_hot(share: float) -> tuple[tuple[float, ...], ...]:
    """One expert is picked by this share of all pairs, the others by the rest."""
    return ((share, *[(1 - share) / (EXPERTS - 1)] * (EXPERTS - 1)),)


def test_skew_makes_expert_parallelism_slower() -> None:
    seconds = [step_s(planned(expert_loads=one_hot(share))) for share in (1 / 128, 0.25, 0.5)]
    assert seconds == sorted(seconds)
    assert seconds[2] > 1.5 * seconds[0]


def test_skew_does_not_matter_where_every_rank_has_all_experts() -> None:
    even, skewed = planned("ETP8-TP8"), planned("ETP8-TP8", expert_loads=one_hot(0.5))
    assert step_s(skewed) == step_s(even)
    assert skewed.deployment.placement.expert_slots is None


def test_the_hottest_rank_is_what_the_placement_says() -> None:
    """Half of all pairs meet one expert, and its rank of 8 has 15 others of 127 beside it."""
    plan = planned(expert_loads=one_hot(0.5))
    rows = [row for row in plan.deployment.phases["prefill"].rows if row.kind == "grouped_gemm"]
    even = planned().deployment.phases["prefill"].rows
    mean = next(row for row in even if row.name == rows[0].name)
    assert rows[0].m[0] == pytest.approx(8 * (0.5 + 15 * 0.5 / 127) * mean.m[0], rel=1e-9)


def test_second_copies_spread_a_hot_expert_and_cost_memory() -> None:
    bare = planned(expert_loads=one_hot(0.5))
    spread = planned(expert_loads=one_hot(0.5), redundant_experts=64)
    assert step_s(spread) < step_s(bare)
    weights = [
        plan.deployment.memory.stages[0].components["expert weights"] for plan in (bare, spread)
    ]
    assert weights[1] / weights[0] == pytest.approx((128 + 64) / 128)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert_skew": 1.2},
        {"expert_skew": 1.2, "redundant_experts": 32},
        {"expert_loads": one_hot(0.3), "redundant_experts": 8},
        {"redundant_experts": 16},
    ],
)
def test_plans_with_loads_verify(changes: dict[str, Any]) -> None:
    plan = planned(**changes)
    findings = verify_plan(plan.model_dump(mode="json", by_alias=True))
    assert [finding for finding in findings if not finding.ok] == []


def test_verify_finds_an_expert_that_was_lost_or_loads_that_changed() -> None:
    document = planned(expert_loads=one_hot(0.5)).model_dump(mode="json", by_alias=True)
    slots = document["deployments"][0]["placement"]["expert_slots"]
    slots[0][0], kept = slots[0][1], slots[0][0]
    assert "expert slots" in {each.check for each in verify_plan(document) if not each.ok}
    slots[0][0] = kept
    document["workload"]["expert_loads"] = [[1.0] * EXPERTS]
    assert "arithmetic" in {each.check for each in verify_plan(document) if not each.ok}


def test_zipf_loads_fall_as_their_exponent_says() -> None:
    workload = ServingWorkload(input_len=8, output_len=8, expert_skew=1.0)
    (row,) = loads_of(MODEL, workload) or ()
    assert row[3] / row[7] == pytest.approx(2.0)
    assert max(row) <= 1 / 8
    workload = ServingWorkload(input_len=8, output_len=8, expert_skew=0.0)
    assert len(set((loads_of(MODEL, workload) or ((),))[0])) == 1


def test_engines_get_the_placement_of_every_layer() -> None:
    files = files_of(planned(expert_skew=1.0, redundant_experts=8))
    document = json.loads(files["placement.json"])
    assert len(document["physical_to_logical_map"]) == MOE_LAYERS
    assert check_expert_placement(document) == []
    assert "sglang_expert_location.json" in files
    assert files_of(planned()) == {}


def test_a_workload_file_names_its_loads(tmp_path: Path) -> None:
    loads = np.random.default_rng(0).integers(1, 100, (MOE_LAYERS, EXPERTS))
    np.savetxt(tmp_path / "loads.csv", loads, fmt="%d", delimiter=",")
    path = tmp_path / "workload.yaml"
    path.write_text("{input_len: 64, output_len: 64, expert_loads: loads.csv}\n")
    job = read_job("h100-sxm", "qwen3-30b-a3b", str(path))
    assert job.workload.expert_loads is not None
    assert np.array_equal(np.array(job.workload.expert_loads), loads)


@pytest.mark.parametrize(
    ("model", "text", "says"),
    [
        ("llama-3.1-8b", "expert_skew: 1.0", "no routed experts"),
        ("qwen3-30b-a3b", "expert_loads: [[1, 2, 3]]", "1 layers x 3 experts"),
        ("qwen3-30b-a3b", "expert_loads: [[1, -2]]", "expert_loads"),
        ("qwen3-30b-a3b", "expert_loads: [[0, 0]]", "no expert is ever picked"),
        ("qwen3-30b-a3b", "expert_loads: nowhere.csv", "nowhere.csv"),
        ("qwen3-30b-a3b", "expert_loads: [[1]], expert_skew: 1", "one of the two"),
    ],
)
def test_wrong_loads_are_refused(tmp_path: Path, model: str, text: str, says: str) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(f"{{input_len: 64, output_len: 64, {text}}}\n")
    with pytest.raises(SpecError, match=says):
        read_job("h100-sxm", model, str(path))
