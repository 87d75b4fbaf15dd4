"""Rank order of tensor and context groups over domains: chosen, placed as chosen, verified."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import optimizer.cost.job as pricing
from optimizer.cost.parts import jobs_of
from optimizer.cost.price import price_operators
from optimizer.cost.rank_order import best_order, usual_order
from optimizer.layout import Layouts, ParallelLayout
from optimizer.operators import lower
from optimizer.pipeline import optimize
from optimizer.plan import Plan, write_plan
from optimizer.search.placing import stage_order
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document
from optimizer.spec.reading import read_model, read_workload
from optimizer.verify import verify_plan

LONG = {"kind": "forward", "batch": 1, "seq_len": 131072, "max_context_parallel": 32}
CLUSTER = cluster_of(Document(None, {"preset": "h200-sxm", "nodes": 32}))
(JOB,) = jobs_of(CLUSTER, read_model("deepseek-v3").model, read_workload(None, LONG))


def step(layout: ParallelLayout, span: int) -> dict[str, Any]:
    """The columns of one step of one sequence."""
    columns = pricing.degree_columns(JOB, Layouts.of(layout, span))
    own = {"tokens": np.ceil(131072 / layout.cp), "sequences": 1.0, "context": 131073 / 2}
    return {**columns, **{name: np.array([value]) for name, value in own.items()}}


def layer_s(columns: dict[str, Any], tp_inside: int, cp_inside: int) -> float:
    """Seconds of all layers, operator by operator."""
    order = {"tp_inside": np.array([tp_inside * 1.0]), "cp_inside": np.array([cp_inside * 1.0])}
    families = [each for each in lower(JOB.model) if each.part in JOB.model.layer_types]
    counts = {name: JOB.model.layer_names.count(name) for name in JOB.model.layer_types}
    priced = price_operators(families, {**columns, **order}, JOB.device, JOB.constants)
    return sum(counts[each.part] * each.seconds for each in priced)


@pytest.mark.parametrize("tp", [2, 4, 8, 16])
@pytest.mark.parametrize("cp", [2, 8, 16])
@pytest.mark.parametrize("span", [4, 8])
def test_no_other_split_of_a_domain_is_faster(tp: int, cp: int, span: int) -> None:
    layout = ParallelLayout(tp=tp, cp=cp, ep=tp * cp)
    layouts, columns = Layouts.of(layout, min(span, tp * cp)), step(layout, min(span, tp * cp))
    found = [columns[name][0] for name in ("tp_inside", "cp_inside")]
    splits = {
        (inside, span // inside)
        for inside in range(1, span + 1)
        if span % inside == 0 and tp % inside == 0 and cp % (span // inside) == 0
    }
    if tp * cp > span:
        least = min(layer_s(columns, *split) for split in splits)
        assert tuple(found) in splits
        assert layer_s(columns, *found) == pytest.approx(least, rel=1e-9)
    else:
        assert found == [usual_order(layouts)[name][0] for name in ("tp_inside", "cp_inside")]


def test_the_usual_order_stays_where_groups_fit_or_there_is_no_context_group() -> None:
    layouts = Layouts.concatenate(
        [
            Layouts.of(ParallelLayout(tp=tp, cp=cp, ep=tp * cp), min(8, tp * cp))
            for tp, cp in ((16, 1), (4, 2), (8, 1))
        ]
    )
    columns = pricing.degree_columns(JOB, layouts)
    found = best_order(JOB.model, 1024, JOB.device, JOB.constants, layouts, columns)
    usual = usual_order(layouts)
    assert all((found[name] == usual[name]).all() for name in usual)


def test_ranks_of_a_domain_are_two_context_ranks_of_four_tensor_ranks() -> None:
    order = stage_order(ParallelLayout(tp=8, cp=2, dp=2), 8, 2)
    assert order[:8] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert order[8:16] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert order[16:20] == [16, 17, 18, 19]
    assert stage_order(ParallelLayout(tp=8, cp=2), 8, None) == list(range(16))


def planned() -> Plan:
    strategy = "canonical:EP256-TP16-CP16"
    return optimize(CLUSTER, JOB.model, JOB.workload, top=1, strategy=strategy).best


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


def test_a_long_sequence_over_wide_groups_runs_faster_than_in_the_usual_order(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan.deployment.placement.cp_inside == 2
    (gpus,) = plan.deployment.placement.rank_gpu
    assert {gpus[rank].split("/")[0] for rank in (0, 7, 16, 23)} == {"node0", "node1"}
    assert gpus[0].split("/")[0] == gpus[16].split("/")[0] != gpus[4].split("/")[0]
    monkeypatch.setattr(pricing, "best_order", lambda *asked: usual_order(asked[-2]))
    usual = planned()
    assert usual.deployment.placement.cp_inside is None
    latencies = [each.predictions["latency_s"].value for each in (plan, usual)]
    assert latencies[0] < 0.95 * latencies[1]


def test_the_order_is_verified(plan: Plan) -> None:
    document = json.loads(write_plan(plan))
    assert [finding for finding in verify_plan(document) if not finding.ok] == []
    placement = document["deployments"][0]["placement"]
    for order in (1, 4, 8):
        placement["cp_inside"] = order
        broken = {finding.check for finding in verify_plan(document) if not finding.ok}
        assert {"spans", "collectives"} <= broken
    placement.pop("cp_inside")
    assert "spans" in {finding.check for finding in verify_plan(document) if not finding.ok}
    placement["cp_inside"] = 2
    (gpus,) = placement["rank_gpu"]
    gpus[0], gpus[4] = gpus[4], gpus[0]
    assert "spans" in {finding.check for finding in verify_plan(document) if not finding.ok}
