"""`optimize --current`: what stays, what moves, and from where."""

from __future__ import annotations

import json
from functools import cache
from itertools import permutations

import numpy as np
import pytest

from optimizer.errors import PlanError
from optimizer.moving import move_from, stay_close
from optimizer.pipeline import optimize
from optimizer.plan import Plan, Plans
from optimizer.search.moving import block_bytes, both_cuts, ranks_of, settle, shared_bytes
from optimizer.spec.reading import read_cluster, read_model, read_workload
from optimizer.spec.workload import ServingWorkload
from optimizer.verify import verify_plan


@cache
def plans(model: str = "mixtral-8x7b", gpus: int = 8, strategy: str | None = None) -> Plans:
    workload = read_workload(None, {"input_len": 512, "output_len": 64, "concurrency": 32})
    assert isinstance(workload, ServingWorkload)
    cluster = read_cluster("h100-sxm", gpus=gpus)
    return optimize(cluster, read_model(model).model, workload, top=3, strategy=strategy)


def without(plan: Plan, *gpus: str) -> Plan:
    """The plan as if other GPUs ran each of these ranks: their weights are gone."""
    deployment = plan.deployment
    placed = tuple(
        tuple("gone" if gpu in gpus else gpu for gpu in replica)
        for replica in deployment.placement.rank_gpu
    )
    placement = deployment.placement.model_copy(update={"rank_gpu": placed})
    changed = deployment.model_copy(update={"placement": placement})
    return plan.model_copy(update={"deployments": (changed,)})


def test_the_same_plan_moves_nothing() -> None:
    best = plans().best
    move = move_from(best, best)
    assert move.moved_bytes == 0
    assert move.seconds == 0
    assert move.plan.deployment.placement == best.deployment.placement


def test_what_every_gpu_finds_is_what_it_holds() -> None:
    old, new = plans(strategy="EP8-DP8").best, plans(strategy="EP4-ETP2-TP2-DP4").best
    move = move_from(old, new)
    components = new.deployment.memory.stages[0].components
    held = sum(
        components[name] for name in ("dense weights", "expert weights", "embedding and head")
    )
    assert move.found_bytes.sum(axis=1) == pytest.approx(held, rel=0.01)
    assert move.found_bytes[:, 3].sum() == 0  # every expert lives somewhere
    assert move.moved_bytes > 0


def test_lost_experts_come_from_storage_and_lost_attention_from_a_neighbour() -> None:
    best = plans(strategy="EP8-DP8").best
    lost = best.deployment.placement.rank_gpu[0][3]
    move = move_from(without(best, lost), best)
    row = move.found_bytes[move.gpus.index(lost)]
    components = best.deployment.memory.stages[0].components
    assert row[0] == 0
    assert row[3] == pytest.approx(components["expert weights"], rel=1e-9)
    dense = components["dense weights"] + components["embedding and head"]
    assert row[1] == pytest.approx(dense, rel=1e-9)
    assert np.delete(move.found_bytes, move.gpus.index(lost), axis=0)[:, 1:].sum() == 0


def test_ranks_settle_as_well_as_any_order_does() -> None:
    old, new = plans(gpus=4, strategy="EP2-ETP2-TP4").best, plans(gpus=4, strategy="EP4-DP4").best
    random = np.random.default_rng(0)
    names = [gpu for replica in new.deployment.placement.rank_gpu for gpu in replica]
    for _ in range(5):
        kept = random.integers(1, 1000, (4, 4)) * 2.0**20
        found = settle(new, kept, names)
        worth = sum(kept[rank, names.index(gpu)] for rank, gpu in enumerate(found[0]))
        orders = permutations(range(4))
        assert worth == max(sum(kept[rank, at] for rank, at in enumerate(o)) for o in orders)
    model = new.model
    cuts = both_cuts(old.deployment, new.deployment)
    before = ranks_of(old.deployment, model.num_layers, 8, cuts)
    after = ranks_of(new.deployment, model.num_layers, 8, cuts)
    shared = shared_bytes(after, before, block_bytes(model))
    assert (shared.sum(axis=1) > 0).all()


def test_a_settled_plan_still_verifies() -> None:
    old = plans(strategy="EP2-ETP2-TP4-x2").best
    found, text = stay_close(plans(), old, within=1.0)
    for plan in found.plans:
        assert all(
            finding.ok for finding in verify_plan(plan.model_dump(mode="json", by_alias=True))
        )
    document = json.loads(text)
    least = min(entry["moved_bytes"] for entry in document["plans"])
    assert document["chosen"]["name"] == found.best.name
    chosen = [entry for entry in document["plans"] if entry["name"] == found.best.name]
    assert chosen[0]["moved_bytes"] == least


def test_without_tolerance_the_best_plan_stays_the_best() -> None:
    found, _ = stay_close(plans(), plans(strategy="EP2-ETP2-TP4-x2").best, within=0.0)
    assert found.best.name == plans().best.name


def test_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match="leave --current out"):
        move_from(plans("llama-3.1-8b").best, plans().best)
