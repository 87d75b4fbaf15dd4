"""Refusals: why there is no plan, and repairs that hold, are needed, and are the least."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from optimizer.cost.rows import Rows, expand
from optimizer.errors import InfeasibleError, SpecError
from optimizer.layout import enumerate_layouts
from optimizer.plan import read_plan
from optimizer.repairing import Job, Refusal, Repair, refusal_files, refusal_json, refuse, render
from optimizer.repairing.changes import (
    readable_above,
    with_count,
    with_gpu,
    with_gpus,
    with_limit,
    with_weights,
)
from optimizer.repairing.ladders import gpu
from optimizer.repairing.outlook import few_rows, price_few, works
from optimizer.repairing.refusing import NOT_REFUSED
from optimizer.search.conflicts import minimal
from optimizer.spec.reading import read_cluster, read_job
from optimizer.verify import verify_plan

CASE_E = "configs/cases/e"

# Jobs without a plan: one whose single changes suffice, and some where only pairs help.
HOPELESS: dict[str, tuple[str, str, int, dict[str, object]]] = {
    "memory": ("h100-sxm", "deepseek-v3", 8, {}),
    "memory and tpot": ("h100-sxm", "llama-3.1-405b", 8, {"tpot": "10ms"}),
    "concurrency": ("h100-sxm", "llama-3.1-70b", 8, {"concurrency": 4096}),
    "request rate": ("h100-sxm", "llama-3.1-70b", 8, {"request_rate": "200 req/s"}),
    "odd nodes": ("h100-sxm", "llama-3.1-70b", 21, {"concurrency": 64, "tpot": "3ms"}),
    "percentile": ("h200-sxm", "qwen3-235b-a22b", 4, {"tpot": "8ms p99"}),
    "context": ("h100-sxm", "llama-3.1-70b", 8, {"input_len": 200_000}),
}


@cache
def hopeless(name: str) -> Job:
    hardware, model, gpus, flags = HOPELESS[name]
    return Job(*read_job(hardware, model, "chat", flags, gpus))


@cache
def refusal_of(name: str) -> Refusal:
    return refuse(hopeless(name))


@cache
def case_e(strategy: str) -> Refusal:
    return refuse(Job(*read_job(CASE_E, CASE_E))._replace(strategy=strategy))


def has_plan(job: Job) -> bool:
    try:
        job.plan()
    except InfeasibleError:
        return False
    return True


def of_kind(refusal: Refusal, *kinds: str) -> Repair:
    """The one repair that changes just these kinds of things."""
    (found,) = [
        each for each in refusal.repairs if [change.kind for change in each.changes] == [*kinds]
    ]
    return found


def test_case_e_is_refused_with_64_gpus_needed_and_16_there() -> None:
    refusal = case_e("EP16_TP1_PP1_DP4")
    (conflict,) = refusal.conflicts
    (gpus,) = conflict.limits
    assert (gpus.limit, gpus.need, gpus.there) == ("GPUs", 64.0, 16.0)
    assert "GPUs: at least 64 needed (EP16-DP16-x4), 16 there" in render(refusal)


def test_the_nearest_plan_of_case_e_is_its_corrected_strategy() -> None:
    nearest = case_e("EP16_TP1_PP1_DP4").repairs[0]
    assert "EP16_TP1_PP1_DP1" in nearest.text
    assert nearest.plan.name == "EP16-DP16"
    assert nearest.plan.deployment.gpus == 16
    (gpus,) = [each for each in nearest.limits if each.limit == "GPUs"]
    assert (gpus.before, gpus.after) == ((64.0, 16.0), (16.0, 16.0))


def test_case_e_may_keep_its_strategy_on_48_more_gpus() -> None:
    repair = of_kind(case_e("EP16_TP1_PP1_DP4"), "GPUs")
    assert (repair.plan.name, repair.plan.deployment.gpus) == ("EP16-DP16-x4", 64)


def test_a_strategy_that_does_not_divide_says_so_and_names_its_neighbours() -> None:
    refusal = case_e("EP24_TP1_PP1_DP1")
    assert refusal.problems == ("experts 64 cannot be cut by ep 24",)
    assert refusal.conflicts == ()
    assert [repair.plan.name for repair in refusal.repairs] == ["EP16-DP16", "EP8-DP8", "EP4-DP4"]


def test_memory_and_gpus_are_in_conflict_where_the_model_does_not_fit() -> None:
    (conflict,) = refusal_of("memory").conflicts
    memory, gpus = conflict.limits
    assert (memory.limit, gpus.limit) == ("memory", "GPUs")
    # 671 B parameters, 8 bits each for the most part, over 8 GPUs: 78 GiB before anything else.
    assert memory.need > 78 * 2**30 > memory.there == pytest.approx(76 * 2**30)
    assert memory.where.startswith("stage 0 of ")
    assert gpus.need > gpus.there == 8


@pytest.mark.parametrize("name", HOPELESS)
def test_at_least_three_repairs_come_in_order_of_cost_and_pass_every_check(name: str) -> None:
    refusal = refusal_of(name)
    costs = [repair.cost for repair in refusal.repairs]
    assert len(costs) >= 3
    assert costs == sorted(costs)
    for repair in refusal.repairs:
        findings = verify_plan(repair.plan.model_dump(mode="json", by_alias=True))
        assert [finding for finding in findings if not finding.ok] == []
        assert len(findings) == repair.checks
        assert all(need <= there for need, there in (each.after for each in repair.limits))


@pytest.mark.parametrize("name", ["memory and tpot", "odd nodes"])
def test_a_pair_of_changes_needs_both(name: str) -> None:
    refusal = refusal_of(name)
    pairs = [repair.changes for repair in refusal.repairs if len(repair.changes) == 2]
    assert pairs
    for first, _ in pairs:
        assert not has_plan(first.job)


def test_no_repair_asks_for_all_that_another_asks_for() -> None:
    for name in HOPELESS:
        asked = [
            {change.what: change.cost for change in repair.changes}
            for repair in refusal_of(name).repairs
        ]
        for one in asked:
            others = [other for other in asked if other is not one]
            assert not any(
                all(one.get(what, -1.0) >= cost for what, cost in other.items()) for other in others
            )


def test_the_concurrency_offered_is_the_largest_that_works() -> None:
    change = of_kind(refusal_of("concurrency"), "load").changes[0]
    offered = change.job.workload.concurrency
    assert offered < 4096
    one_more = with_count(hopeless("concurrency"), "concurrency", offered + 1, "load")
    assert has_plan(change.job)
    assert not has_plan(one_more.job)


def test_the_limit_offered_is_the_least_of_two_digits_that_works() -> None:
    change = of_kind(refusal_of("percentile"), "tpot").changes[0]
    offered = change.job.workload.tpot.value_s
    assert f"{offered * 1e3:.0f} ms (p99)" in change.text
    less = with_limit(hopeless("percentile"), "tpot", (offered - 1.2e-3) / 8e-3)
    assert has_plan(change.job)
    assert not has_plan(less.job)


def test_the_gpus_offered_are_the_fewest_whole_nodes_that_work() -> None:
    job = hopeless("concurrency")
    change = of_kind(refusal_of("concurrency"), "GPUs").changes[0]
    more = change.job.cluster.num_live_gpus - job.cluster.num_live_gpus
    assert more % 8 == 0
    assert not has_plan(with_gpus(job, 0, more - 8).job)


def test_the_larger_gpu_offered_is_the_first_that_works() -> None:
    job = Job(*read_job("h100-sxm", "llama-3.1-70b", "chat", gpus=1))
    (ladder,) = gpu(job)
    number = ladder.mildest(works)
    assert number is not None
    assert number > 1
    assert "H100 SXM, 80.0 GiB -> B200 SXM, 180.0 GiB" in ladder.step(number).text
    for smaller in range(1, number):
        assert not has_plan(ladder.step(smaller).job)


def test_a_gpu_that_reads_its_memory_slower_is_not_offered() -> None:
    (ladder,) = gpu(hopeless("memory"))
    offered = [
        ladder.step(number).job.cluster.pools[0].gpu for number in range(1, ladder.count + 1)
    ]
    assert "H100 SXM 96GB" not in {each.name for each in offered}  # HBM2e: 2.4 of 3.35 TB/s
    sizes = [each.memory_bytes for each in offered]
    assert sizes == sorted(sizes)
    assert sizes[0] == 141 * 2**30


@pytest.mark.parametrize("name", HOPELESS)
def test_few_rows_decide_like_all_rows(name: str) -> None:
    job = hopeless(name)
    few = price_few(job, few_rows).candidates.broken()
    every = price_few(job, expand).candidates.broken()
    assert minimal(np.unique(few).tolist()) == minimal(np.unique(every).tolist())


def test_of_a_free_load_few_rows_are_those_of_one_sequence() -> None:
    job = hopeless("memory")
    layouts = enumerate_layouts(job.cluster, 0, job.model, job.workload).layouts
    for replicas in (None, 3):
        every = expand(layouts, job.workload, 8, replicas)
        every = every.take(every.sequences == 1)
        few = few_rows(layouts, job.workload, 8, replicas)
        assert _as_set(few) == _as_set(every)
        assert len(few) == len(every) == len(_as_set(few))


def _as_set(rows: Rows) -> set[tuple[int, ...]]:
    columns = [getattr(rows, column.name).tolist() for column in fields(rows)]
    return set(zip(*columns, strict=True))


def test_a_job_with_a_plan_is_not_refused() -> None:
    refusal = refuse(Job(*read_job(CASE_E, CASE_E))._replace(strategy=None))
    assert refusal.problems == (NOT_REFUSED,)
    assert refusal.repairs == ()


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("tpot", ["20ms", "80ms"])
@pytest.mark.parametrize("input_len", [1000, 60_000])
def test_a_job_is_refused_just_where_the_line_finds_no_plan(
    gpus: int, tpot: str, input_len: int
) -> None:
    flags = {"tpot": tpot, "input_len": input_len}
    job = Job(*read_job("l4", "llama-3.1-8b", "chat", flags, gpus))
    refusal = refuse(job)
    assert (refusal.problems == (NOT_REFUSED,)) == has_plan(job)
    assert bool(refusal.conflicts) == (refusal.problems == ())
    assert refusal.unproven == ()


def test_of_two_pools_the_one_that_grows_is_named(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(
        "name: two\npools:\n"
        "  - {name: big, preset: h100-sxm}\n"
        "  - {name: small, preset: l4, nodes: 1, gpus_per_node: 1}\n"
    )
    refusal = refuse(Job(*read_job(file, "deepseek-v3", "chat")))
    repair = of_kind(refusal, "GPUs")
    assert "8 more GPUs in pool big (9 -> 17)" in repair.text
    assert repair.plan.deployment.pool == "big"


def test_at_a_confidence_repairs_hold_at_that_confidence() -> None:
    job = hopeless("percentile")._replace(confidence=0.9)
    certain, nominal = refuse(job), refusal_of("percentile")
    assert "at confidence 0.9" in render(certain)
    limits = [
        of_kind(refusal, "tpot").changes[0].job.workload.tpot.value_s
        for refusal in (nominal, certain)
    ]
    assert limits[0] < limits[1]
    assert has_plan(of_kind(certain, "tpot").changes[0].job)
    assert not has_plan(of_kind(nominal, "tpot").changes[0].job._replace(confidence=0.9))


def test_same_job_same_refusal() -> None:
    again = refuse(hopeless("memory"))
    assert refusal_files(again) == refusal_files(refusal_of("memory"))
    assert render(again) == render(refusal_of("memory"))


def test_a_refusal_is_plain_json_and_its_plans_are_valid_plan_files() -> None:
    refusal = refusal_of("memory")
    files = refusal_files(refusal)
    document = json.loads(files["infeasible.json"])
    assert document == json.loads(json.dumps(refusal_json(refusal)))
    for repair in document["repairs"]:
        plan = read_plan(files[repair["plan"]["file"]])
        assert (plan.name, plan.hash) == (repair["plan"]["name"], repair["plan"]["hash"])


def test_the_table_of_costs_is_printed_with_its_reasons() -> None:
    text = render(refusal_of("memory"))
    for kind in ("weights", "GPUs", "gpu"):
        assert f"\n  {kind}" in text
    assert "another checkpoint, to be evaluated" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0334, 0.034), (0.034, 0.034), (0.00942, 0.0095), (1.96, 2.0), (0.0991, 0.1), (12.01, 13.0)],
)
def test_limits_are_rounded_up_to_two_digits(value: float, expected: float) -> None:
    assert readable_above(value) == expected


def test_no_repair_asks_for_more_gpus_than_are_planned_for() -> None:
    read = read_job("h100-sxm", "llama-3.1-8b", None, {"request_rate": "1e9 req/s"}, 8)
    job = Job(*read)._replace(strategy=None)
    assert not [each for each in refuse(job).repairs if each.changes[0].kind == "GPUs"]
    with pytest.raises(SpecError, match="1,000,000 GPUs"):
        with_gpus(job, 0, 999_999_999)


def test_more_gpus_fill_a_short_node_before_whole_nodes_are_added() -> None:
    job = hopeless("odd nodes")  # 8, 8, 5
    assert with_gpus(job, 0, 3).job.cluster.pools[0].sizes == (8, 8, 8)
    assert with_gpus(job, 0, 4).job.cluster.pools[0].sizes == (8, 8, 8, 8)
    assert with_gpus(job, 0, 2).job.cluster.pools[0].sizes == (8, 8, 7)


def test_a_new_gpu_brings_its_links_and_leaves_the_nodes() -> None:
    job, other = hopeless("odd nodes"), read_cluster("b200-sxm")
    pool = with_gpu(job, 0, other).job.cluster.pools[0]
    assert pool.gpu == other.pools[0].gpu
    assert pool.intra_node == other.pools[0].intra_node
    assert pool.sizes == (8, 8, 5)


def test_weights_that_are_narrow_already_stay() -> None:
    job = Job(*read_job("h100-sxm", "gpt-oss-120b", "chat"))  # experts in mxfp4, attention in bf16
    precision = with_weights(job, "fp8").job.model.precision
    assert (precision.experts, precision.attention) == ("mxfp4", "fp8")
