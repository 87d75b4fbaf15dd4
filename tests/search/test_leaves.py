"""Stages under leaf switches: priced together, placed together, against every other placement."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from search_instances import instance

from optimizer.layout import Layouts, ParallelLayout, boundary_leaf, leaf_gpus, leaf_offers
from optimizer.pipeline import optimize
from optimizer.plan import Plan, write_plan
from optimizer.search.leaves import leaf_stages
from optimizer.spec.cluster import Cluster, Leaf
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document
from optimizer.spec.reading import read_model, read_workload
from optimizer.verify import verify_plan
from optimizer.verify.checks import run
from optimizer.verify.counts import spans
from optimizer.verify.switches import switches
from optimizer.verify.traffic import collectives, floors


def h200(**changes: Any) -> Cluster:
    return cluster_of(Document(None, {"preset": "h200-sxm", **changes}))


def under(*alive: int, per_leaf: int = 4) -> Cluster:
    """Leaves of some nodes of one GPU each, so many of them alive."""
    dead = [
        f"node{leaf * per_leaf + node}"
        for leaf, live in enumerate(alive)
        for node in range(live, per_leaf)
    ]
    nodes = per_leaf * len(alive)
    return h200(nodes=nodes, gpus_per_node=1, dead=dead, leaf={"nodes": per_leaf})


def leaves_of(cluster: Cluster, pieces: int, together: int = 1) -> list[int]:
    """Leaves of each stage as placed."""
    home = {gpu: domain.leaf for domain in cluster.domains for gpu in domain.gpus}
    stages = list(leaf_stages(cluster, 0, pieces, 1, together))
    used = [gpu for stage in stages for gpu in stage]
    assert len(set(used)) == len(used)
    return [len({home[gpu] for gpu in stage}) for stage in stages]


@cache
def fewest(room: tuple[int, ...], pieces: int, stages: int) -> int:
    """The fewest leaves, summed over so many stages, of all ways to place them."""
    if stages == 0:
        return 0
    best = 10**6
    for taken in product(*(range(min(held, pieces) + 1) for held in room)):
        if sum(taken) == pieces:
            left = tuple(sorted(held - took for held, took in zip(room, taken, strict=True)))
            best = min(best, sum(took > 0 for took in taken) + fewest(left, pieces, stages - 1))
    return best


@pytest.mark.parametrize("pieces", [1, 2, 3, 4])
def test_no_placement_of_all_stages_spans_fewer_leaves(pieces: int) -> None:
    for alive in product(range(5), repeat=3):
        if sum(alive) < pieces:
            continue
        spans = leaves_of(under(*alive), pieces)
        assert len(spans) == sum(alive) // pieces
        assert spans.count(1) == sum(live // pieces for live in alive)
        least = fewest(tuple(sorted(alive)), pieces, len(spans))
        assert sum(spans) == least, (alive, pieces)


def ep(width: int, span: int) -> Layouts:
    return Layouts.of(ParallelLayout(ep=width, dp=width), span)


def promised(cluster: Cluster, width: int, span: int = 8) -> float:
    return float(leaf_gpus(cluster, 0, ep(width, span))[0])


def test_a_stage_keeps_under_one_leaf_what_costs_no_stage() -> None:
    four = h200(nodes=8, leaf={"nodes": 4, "oversubscription": 2})
    assert promised(four, 16) == 16
    assert promised(four, 32) == 32
    assert promised(four, 64) == 32  # two leaves, four nodes under each
    # three nodes a leaf: four stages of two nodes fit, but only three under one leaf each
    three = h200(nodes=9, leaf={"nodes": 3})
    assert promised(three, 16) == 8
    assert promised(h200(nodes=9, leaf={"nodes": 3}, dead=["node0", "node3", "node6"]), 16) == 16
    assert promised(h200(nodes=8), 16) == np.inf


def test_neighbouring_stages_share_a_leaf_where_there_is_one() -> None:
    assert boundary_leaf(h200(nodes=8), 0) == np.inf
    assert boundary_leaf(h200(nodes=8, leaf={"nodes": 8}), 0) == 2
    assert boundary_leaf(h200(nodes=8, leaf={"nodes": 4}), 0) == 1


def test_ranks_keep_their_rail_only_in_whole_nodes() -> None:
    railed = {"nodes": 8, "leaf": {"nodes": 8}, "rails": 8}
    assert promised(h200(**railed), 16) == 16
    assert promised(h200(**railed), 8, 4) == 4  # halves of nodes: other rails
    assert promised(h200(**railed, dead=["node1/gpu3"]), 16) == 8
    assert promised(h200(**railed, dead=["node1"]), 16) == 16


def test_groups_of_a_stage_are_cut_evenly_or_not_at_all() -> None:
    six = h200(nodes=12, leaf={"nodes": 3})
    # a stage of six nodes, three under a leaf: groups of two nodes would straddle
    layout = ParallelLayout(tp=16, dp=3, ep=48)
    assert leaf_gpus(six, 0, Layouts.of(layout, 8))[0] == 8
    assert promised(six, 48) == 24


def planned(oversubscription: float, strategy: str, **changes: Any) -> Plan:
    cluster = h200(**changes, leaf={"nodes": 4, "oversubscription": oversubscription})
    workload = read_workload(None, {"input_len": 2048, "output_len": 512})
    model = read_model("deepseek-v3").model
    return optimize(cluster, model, workload, top=1, strategy=f"canonical:{strategy}").best


def test_a_dead_node_does_not_push_every_second_stage_over_two_leaves() -> None:
    plan = planned(4, "EP16-DP16-x7", nodes=16, dead=["node1"])
    for gpus in plan.deployment.placement.rank_gpu:
        assert len({int(gpu.split("/")[0][4:]) // 4 for gpu in gpus}) == 1
    (leaf,) = {
        row.leaf for row in plan.deployment.phases["decode"].rows if row.kind == "all_to_all"
    }
    assert leaf == 16


def test_a_thinner_spine_is_never_faster_and_none_is_missed_under_one_leaf() -> None:
    wide, thin = (planned(o, "EP64-DP64", nodes=8).predictions for o in (1, 4))
    assert thin["tpot_s"].value > wide["tpot_s"].value
    wide, thin = (planned(o, "EP32-DP32-x2", nodes=8).predictions for o in (1, 4))
    assert thin == wide


@pytest.mark.parametrize("seed", range(24))
def test_small_jobs_under_leaves_lie_as_they_are_priced(seed: int) -> None:
    found = instance(seed)
    random = np.random.default_rng(seed)
    leaf = Leaf(nodes=int(random.integers(1, 3)), oversubscription=random.uniform(1, 6))
    size = int(random.integers(1, 5))
    changes = {
        "nodes": int(random.integers(2, 7)),
        "node_sizes": None,
        "gpus_per_node": size,
        "nvlink_domain": None,
        "dead": (),
        "leaf": leaf,
        "rails": size if seed % 3 == 0 else None,
    }
    (pool, *_) = found.cluster.pools
    gpu = pool.gpu.model_copy(update={"memory_bytes": 80e9})
    pool = type(pool)(**{name: getattr(pool, name) for name in type(pool).model_fields} | changes)
    cluster = Cluster(pools=(pool.model_copy(update={"gpu": gpu}),))
    limits = {"ttft": None, "tpot": None, "latency": None, "max_context_parallel": 4}
    known = {name: value for name, value in limits.items() if hasattr(found.workload, name)}
    workload = found.workload.model_copy(update=known)
    model = found.model.model_copy(update={"max_context": None})
    for plan in optimize(cluster, model, workload, top=3).plans:
        document = json.loads(write_plan(plan))
        for check in (spans, switches, collectives, floors):
            assert [each for each in run(check, document) if not each.ok] == []


def test_more_of_a_stage_under_one_leaf_is_a_choice_where_it_leaves_less_room() -> None:
    three = h200(nodes=9, leaf={"nodes": 3})
    found = leaf_offers(three, 0, ep(16, 8))
    assert found.leaf.tolist() == [2]
    assert leaf_gpus(three, 0, found)[0] == 16
    assert len(leaf_offers(three, 0, replace(ep(16, 8), pp=np.array([4])))) == 0
    assert len(leaf_offers(h200(nodes=8, leaf={"nodes": 4}), 0, ep(16, 8))) == 0
    assert len(leaf_offers(three, 0, ep(24, 8))) == 0
    # two stages of six pieces fit 12, and one of them where three or two keep to a leaf
    uneven = under(5, 4, 3, per_leaf=5)
    assert promised(uneven, 6, 1) == 1
    assert leaf_offers(uneven, 0, ep(6, 1)).leaf.tolist() == [3]


@pytest.mark.parametrize(("replicas", "leaf"), [(3, 16), (4, 8)])
def test_as_many_replicas_as_leaves_lie_under_one_each(replicas: int, leaf: int) -> None:
    cluster = h200(nodes=9, leaf={"nodes": 3, "oversubscription": 8})
    workload = read_workload(None, {"input_len": 2048, "output_len": 512})
    model = read_model("deepseek-v3").model
    strategy = f"canonical:EP16-DP16-x{replicas}"
    plan = optimize(cluster, model, workload, top=1, strategy=strategy).best
    rows = [row for row in plan.deployment.phases["decode"].rows if row.kind == "all_to_all"]
    assert {row.leaf for row in rows} == {leaf}
    homes = [
        {int(gpu.split("/")[0][4:]) // 3 for gpu in gpus}
        for gpus in plan.deployment.placement.rank_gpu
    ]
    assert (max(map(len, homes)) == 1) == (leaf == 16)
    assert [each for each in verify_plan(json.loads(write_plan(plan))) if not each.ok] == []


@pytest.mark.parametrize("oversubscription", [1.5, 12])
def test_fewer_stages_under_whole_leaves_win_where_the_spine_is_thin(
    oversubscription: float,
) -> None:
    cluster = h200(nodes=9, leaf={"nodes": 3, "oversubscription": oversubscription})
    workload = read_workload(None, {"input_len": 8192, "output_len": 64})
    model = read_model("deepseek-v3").model

    def rate(replicas: int) -> float:
        strategy = f"canonical:EP16-DP16-x{replicas}"
        best = optimize(cluster, model, workload, top=1, strategy=strategy).best
        return best.predictions["tokens_per_s"].value

    assert (rate(3) > rate(4)) == (oversubscription == 12)
