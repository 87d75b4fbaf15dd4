"""`optimize --survive`: what outlives a loss, and what runs afterwards."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from optimizer.errors import InfeasibleError
from optimizer.pipeline import optimize
from optimizer.plan import Plans, read_plan
from optimizer.spec.cluster import Cluster
from optimizer.spec.reading import read_cluster, read_model, read_workload
from optimizer.surviving import losses_of, survive, without
from optimizer.verify.survival import survival


def job(gpus: int, **flags: Any) -> tuple[Any, Any, Any]:
    flags = {"input_len": 512, "output_len": 64, **flags}
    cluster = read_cluster("h100-sxm", gpus=gpus)
    return cluster, read_model("mixtral-8x22b").model, read_workload(None, flags)


@cache
def sixteen() -> tuple[Plans, dict[str, str]]:
    return survive(*job(16, concurrency=64), "node")


def test_every_loss_has_a_verified_plan_that_avoids_what_died() -> None:
    plans, files = sixteen()
    document = json.loads(files["fallbacks.json"])
    assert document["hash"] == plans.best.hash
    for row in document["fallbacks"]:
        assert row["verified"]
        fallback = read_plan(files[row["plan"]])
        used = {gpu for each in fallback.deployment.placement.rank_gpu for gpu in each}
        assert not any(gpu.startswith(row["lost"] + "/") for gpu in used)
        assert fallback.workload == plans.best.workload


def test_the_losses_stand_for_every_unit_once() -> None:
    cluster = read_cluster("h100-sxm", gpus=20)
    for unit, many in (("gpu", 20), ("node", 3)):
        units = [name for loss in losses_of(cluster, unit) for name in loss.units]
        assert len(units) == len(set(units)) == many
    assert [len(loss.units) for loss in losses_of(cluster, "node")] == [1, 2]


def test_a_node_that_breaks_both_replicas_has_a_fallback_of_its_own() -> None:
    # replicas of 12 GPUs on nodes of 8: the node in the middle holds a part of both
    cluster = read_cluster("h100-sxm", gpus=24)
    gpus = [gpu for domain in cluster.domains for gpu in domain.gpus]
    losses = losses_of(cluster, "node", [gpus[:12], gpus[12:]])
    assert [loss.units for loss in losses] == [("node0", "node2"), ("node1",)]


def test_another_layout_may_run_where_the_one_named_no_longer_fits() -> None:
    cluster, model, workload = job(24, concurrency=16)
    plans, files = survive(cluster, model, workload, "node", strategy="canonical:PP3-EP4-DP4-x2")
    assert plans.best.name == "PP3-EP4-DP4-x2"
    rows = json.loads(files["fallbacks.json"])["fallbacks"]
    outer = next(row for row in rows if row["lost"] == "node0")
    assert outer["moved_bytes"] == 0  # the replica that is left stays where it runs
    middle = next(row for row in rows if row["lost"] == "node1")
    assert middle["stands_for"] == ["node1"]
    assert middle["verified"]
    assert middle["moved_bytes"] > 0


def test_an_idle_gpu_is_not_lost_as_one_in_use_is() -> None:
    cluster = read_cluster("h100-sxm", gpus=8)
    gpus = cluster.domains[0].gpus
    losses = losses_of(cluster, "gpu", [gpus[:3], gpus[3:6]])
    assert [loss.units for loss in losses] == [
        ("node0/gpu6", "node0/gpu7"),
        tuple(gpus[:6]),
    ]


def test_no_node_holds_what_no_other_has() -> None:
    plans, _ = sixteen()
    for plan in plans.plans:
        document = plan.model_dump(mode="json", by_alias=True)
        assert all(ok for ok, _ in survival(document, "node"))


def test_one_replica_survives_nothing() -> None:
    cluster, model, workload = job(8)
    best = optimize(cluster, model, workload, top=1, strategy="EP8-DP8").best
    document = best.model_dump(mode="json", by_alias=True)
    outcomes = list(survival(document, "gpu"))
    assert len(outcomes) == 8
    assert not any(ok for ok, _ in outcomes)
    with pytest.raises(InfeasibleError, match="shards are gone"):
        survive(cluster, model, workload, "gpu", strategy="EP8-DP8")


def test_a_replica_across_both_nodes_does_not_survive_a_node() -> None:
    cluster, model, workload = job(16)
    with pytest.raises(InfeasibleError, match="loss of a node"):
        survive(cluster, model, workload, "node", strategy="PP2-EP8-DP8")


def test_a_load_that_the_rest_cannot_hold_is_refused() -> None:
    _, model, _ = job(16)
    cluster = read_cluster("h100-sxm", gpus=16)
    free = read_workload(None, {"input_len": 512, "output_len": 64, "tpot": "30ms"})
    most = optimize(cluster, model, free, top=1).best.deployment.batch.concurrency
    flags = {"input_len": 512, "output_len": 64, "tpot": "30ms", "concurrency": int(most)}
    full = read_workload(None, flags)
    assert optimize(cluster, model, full, top=1).plans
    with pytest.raises(InfeasibleError, match="no plan keeps every limit"):
        survive(cluster, model, full, "node")


def test_the_lost_unit_is_dead_afterwards() -> None:
    cluster = read_cluster("h100-sxm", gpus=16)
    (loss,) = losses_of(cluster, "gpu")
    left: Cluster = without(cluster, loss)
    assert left.num_live_gpus == 15
    assert cluster.num_live_gpus == 16
