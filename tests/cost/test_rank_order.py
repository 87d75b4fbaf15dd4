"""Rank order over domains: all ways to fill one are weighed, the best is placed and verified."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from optimizer.cost.cuts import price_best_cut
from optimizer.cost.job import Job, degree_columns
from optimizer.cost.ordering import contenders, price_best_order
from optimizer.cost.parts import jobs_of
from optimizer.cost.price import part_seconds, step_of
from optimizer.cost.rank_order import Order, cut_evenly, other_orders, usual_order
from optimizer.cost.rows import Rows, expand
from optimizer.layout import Layouts, ParallelLayout
from optimizer.operators import lower
from optimizer.pipeline import optimize
from optimizer.plan import Plan, write_plan
from optimizer.search.placing import Share, _interleaved, stage_order
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document
from optimizer.spec.reading import read_model, read_workload
from optimizer.verify import verify_plan

LONG = {"kind": "forward", "batch": 1, "seq_len": 131072, "max_context_parallel": 32}
SERVING = {"input_len": 32768, "output_len": 512, "max_context_parallel": 16}


def job_on(model: str, workload: dict[str, Any], **cluster: Any) -> Job:
    found = cluster_of(Document(None, {"preset": "h200-sxm", **cluster}))
    return jobs_of(found, read_model(model).model, read_workload(None, workload))[0]


def pairs(layout: ParallelLayout, span: int, may_share: bool = True) -> set[tuple[int, int, int]]:
    """(tp, cp, pp) of all orders of one layout but the usual."""
    _, order = other_orders(Layouts.of(layout, span), np.array([may_share]))
    return set(zip(*(column.tolist() for column in order), strict=True))


def test_all_even_ways_to_fill_a_domain_are_there() -> None:
    layout = ParallelLayout(tp=8, cp=4, ep=32)
    assert usual_order(Layouts.of(layout, 8)) == (8, 1, 1)
    assert pairs(layout, 8) == {(4, 2, 1), (2, 4, 1)}
    assert pairs(layout.model_copy(update={"pp": 2}), 8) == {
        (4, 2, 1),
        (2, 4, 1),
        (4, 1, 2),
        (2, 2, 2),
        (1, 4, 2),
    }
    assert pairs(layout.model_copy(update={"pp": 2}), 8, False) == {(4, 2, 1), (2, 4, 1)}


def test_data_parallel_ranks_take_their_share_of_a_domain_too() -> None:
    layout = ParallelLayout(tp=4, cp=4, dp=2, ep=32)
    assert pairs(layout, 8) == {(2, 4, 1), (4, 1, 1), (2, 2, 1), (1, 4, 1)}


def test_groups_that_lie_in_one_domain_keep_the_usual_order() -> None:
    assert pairs(ParallelLayout(tp=4, cp=2, dp=2, ep=16), 8) == set()
    assert pairs(ParallelLayout(tp=16, ep=16), 8) == set()
    assert pairs(ParallelLayout(pp=3, tp=8), 8) == set()


def pass_s(job: Job, layout: ParallelLayout, near: dict[str, float]) -> float:
    """Seconds of one pass of one sequence where so many ranks of each group share a domain."""
    columns = degree_columns(job, Layouts.of(layout, 1))
    length = job.workload.seq_len
    step = {"tokens": np.ceil(length / layout.cp), "sequences": 1.0, "logits": 1.0}
    step |= {"context": (length + 1) / 2, **near}
    columns |= {name: np.array([value]) for name, value in step.items()}
    parts = part_seconds(lower(job.model), columns, job.device, job.constants)
    return float(step_of(job.model, parts, np.array([layout.pp])).total_s[0])


def lying(layout: ParallelLayout, first: set[int]) -> dict[str, float]:
    """Of ranks of which `first` lie in one domain and the others in another: the fewest of any
    group in a domain that it has any in."""
    width = layout.width
    ranks = range(layout.gpus_per_replica)
    keys = {
        "tp_inside": lambda rank: rank // layout.tp,
        "cp_inside": lambda rank: (rank // (layout.tp * layout.cp), rank % layout.tp),
        "span": lambda rank: rank // width,
    }
    found = {
        name: min(Counter((key(rank), rank in first) for rank in ranks).values())
        for name, key in keys.items()
    }
    together = all((rank in first) == (rank % width in first) for rank in ranks)
    return {**found, "pp_inside": 2.0 if together and layout.pp > 1 else 1.0}


@pytest.mark.parametrize("model", ["deepseek-v3", "gpt-oss-120b"])
@pytest.mark.parametrize("length", [4, 4096, 1 << 20])
@pytest.mark.parametrize(
    "layout",
    [
        ParallelLayout(tp=4, cp=2, ep=8),
        ParallelLayout(tp=2, cp=4, ep=8),
        ParallelLayout(cp=4, dp=2, ep=8),
        ParallelLayout(cp=8, ep=8),
        ParallelLayout(pp=2, tp=2, cp=2, ep=4),
        ParallelLayout(pp=2, dp=4, ep=4),
    ],
)
def test_no_assignment_of_ranks_to_gpus_is_faster(
    model: str, length: int, layout: ParallelLayout
) -> None:
    workload = {**LONG, "seq_len": length}
    slow = {"bandwidth": "3 GB/s", "latency": "10 us"}
    job = job_on(model, workload, nodes=2, gpus_per_node=4, inter_node=slow)
    places = {
        tuple(lying(layout, set(first)).items()) for first in combinations(range(8), 4)
    }  # which four of the eight ranks lie in the first node: all that GPUs of one node tell apart
    least = min(pass_s(job, layout, dict(place)) for place in places)
    layouts = Layouts.of(layout, min(4, layout.width))
    one = np.ones(1, dtype=np.int64)
    found = price_best_order(job, Rows(one - 1, one, 0 * one, one, one, one), layouts)
    assert found.latency_s[0] == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("workload", [SERVING, {**LONG, "batch": 4}])
def test_every_candidate_has_its_best_order_and_is_never_worse_than_in_the_usual(
    workload: dict[str, Any],
) -> None:
    job = job_on("deepseek-v3", workload, nodes=16)
    wide = (
        ParallelLayout(tp=tp, cp=cp, dp=dp, pp=pp, ep=tp * cp * dp)
        for tp, cp, dp, pp in (
            (8, 16, 1, 1),
            (16, 8, 1, 1),
            (4, 16, 2, 1),
            (8, 8, 1, 2),
            (2, 4, 8, 2),
            (1, 16, 1, 8),
        )
    )
    some = Layouts.concatenate([Layouts.of(layout, 8) for layout in wide])
    rows = expand(some, job.workload, job.cluster.live_gpus(0))
    rows = rows.take(np.arange(0, len(rows), 7))
    found = price_best_order(job, rows, some)
    best = price_best_cut(job, rows, some)
    assert (found.tokens_per_s >= best.tokens_per_s).all()
    most = np.where(best.broken() == 0, best.tokens_per_s, 0.0)
    row, order = other_orders(some, np.ones(len(some), dtype=bool))
    for index in range(len(row)):
        own = Order(*(np.full(len(some), column[index]) for column in order))
        mine = np.flatnonzero(rows.layout == row[index])
        if len(mine):
            job_so = job._replace(order=lambda layouts, own=own: own.take(np.arange(len(layouts))))
            other = price_best_cut(job_so, rows.take(mine), some)
            rate = np.where(other.broken() == 0, other.tokens_per_s, 0.0)
            most[mine] = np.maximum(most[mine], rate)
    fits = most > 0
    np.testing.assert_allclose(found.tokens_per_s[fits], most[fits], rtol=1e-8)
    assert (found.tokens_per_s > best.tokens_per_s * 1.001).any()
    assert len(contenders(job, some)[0]) < len(row)


def test_ranks_of_a_domain_are_two_context_ranks_of_four_tensor_ranks() -> None:
    near = {"tp": 4, "cp": 2, "dp": 1, "pp": 1}
    order = stage_order(ParallelLayout(tp=8, cp=2, dp=2), near)
    assert order[:8] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert order[8:16] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert order[16:20] == [16, 17, 18, 19]
    assert stage_order(ParallelLayout(tp=8, cp=2), None) == list(range(16))


def test_stages_that_share_domains_take_every_other_half() -> None:
    stages = [("a0", "a1", "a2", "a3"), ("b0", "b1", "b2", "b3")]
    assert list(_interleaved(stages, Share(0, 2, 4), 2)) == [
        ("a0", "a1", "b0", "b1"),
        ("a2", "a3", "b2", "b3"),
    ]


def planned(job: Job, strategy: str) -> Plan:
    return optimize(
        job.cluster, job.model, job.workload, top=1, strategy=f"canonical:{strategy}"
    ).best


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(job_on("deepseek-v3", SERVING, nodes=16), "EP128-TP8-CP16")


def test_serving_over_wide_groups_says_what_its_order_of_ranks_is_worth(plan: Plan) -> None:
    placement = plan.deployment.placement
    assert placement.inside == {"tp": 4, "cp": 2, "dp": 1, "pp": 1}
    (gpus,) = placement.rank_gpu
    assert len({gpus[rank].split("/")[0] for rank in (0, 3, 8, 11)}) == 1
    assert gpus[0].split("/")[0] != gpus[4].split("/")[0]
    note = "GPUs of a domain are 4 of tp x 2 of cp; in the usual order of ranks: "
    (told,) = (each for each in plan.notes if each.startswith(note))
    assert 2 < float(told.removeprefix(note).split("%")[0]) < 6


def test_the_order_is_verified(plan: Plan) -> None:
    document = json.loads(write_plan(plan))
    assert broken(document) == set()
    placement = document["deployments"][0]["placement"]
    usual = placement.pop("inside")
    assert "spans" in broken(document)
    for tp, cp in ((1, 8), (2, 4), (8, 1)):
        placement["inside"] = {**usual, "tp": tp, "cp": cp}
        assert {"spans", "collectives"} <= broken(document)
    placement["inside"] = usual
    (gpus,) = placement["rank_gpu"]
    gpus[0], gpus[4] = gpus[4], gpus[0]
    assert {"spans", "collectives"} <= broken(document)


def broken(document: Any) -> set[str]:
    return {finding.check for finding in verify_plan(document) if not finding.ok}


def test_stages_share_their_domains_where_hops_between_them_are_slow() -> None:
    serving = {"input_len": 1024, "output_len": 512, "concurrency": 16}
    far = {"bandwidth": "50 GB/s", "latency": "100 us"}
    job = job_on("gpt-oss-120b", serving, nodes=16, gpus_per_node=2, inter_node=far)
    plan = planned(job, "PP2-EP16-DP16")
    placement = plan.deployment.placement
    assert (placement.span, placement.inside) == (1, {"tp": 1, "cp": 1, "dp": 1, "pp": 2})
    (gpus,) = placement.rank_gpu
    homes = [gpu.split("/")[0] for gpu in gpus]
    assert homes[:16] == homes[16:]
    document = json.loads(write_plan(plan))
    assert broken(document) == set()
    document["deployments"][0]["placement"]["inside"]["pp"] = 1
    assert "collectives" in broken(document)


def test_under_leaf_switches_the_order_is_chosen_among_those_that_they_cut_evenly() -> None:
    leaf = {"nodes": 4, "oversubscription": 2}
    plan = planned(job_on("deepseek-v3", SERVING, nodes=16, leaf=leaf), "EP128-TP8-CP16")
    assert plan.deployment.placement.inside == {"tp": 4, "cp": 2, "dp": 1, "pp": 1}
    assert broken(json.loads(write_plan(plan))) == set()
    rows = plan.deployment.phases["prefill"].rows
    # four domains under a leaf: both halves of two rows of tensor groups
    assert {(row.axis, row.inside, row.leaf) for row in rows if row.axis in ("tp", "cp")} == {
        ("tp", 4, 8),
        ("cp", 2, 4),
    }
    layouts = Layouts.of(ParallelLayout(tp=8, cp=6, ep=48), 8)
    halves, quarters = (Order(*(np.array([n]) for n in (tp, 8 // tp, 1))) for tp in (4, 2))
    assert cut_evenly(np.array([32.0]), layouts, halves)[0] == 0  # of three rows two
    assert cut_evenly(np.array([16.0]), layouts, halves)[0] == 1
    assert cut_evenly(np.array([24.0]), layouts, quarters)[0] == 0
