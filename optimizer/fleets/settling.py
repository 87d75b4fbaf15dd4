"""A fleet's choice on GPUs: parts around the replicas that stay, ranks where their weights lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optimizer.fleets.answer import document_of
from optimizer.fleets.parts import Part, parts_of, plan_of
from optimizer.fleets.planning import Asked
from optimizer.fleets.running import Runs, same_model
from optimizer.moving import sources
from optimizer.operators import Floats
from optimizer.plan import Plan, sealed
from optimizer.plan.fleet import FleetPlan
from optimizer.search.fleet import FleetChoice, Keeper, held_by, name_gpus_near
from optimizer.search.moving import Holdings, block_bytes, settle, shared_bytes
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Fleet

SOURCES = ("kept", "same domain", "other domains", "other pools", "storage")


class Move(NamedTuple):
    """What each GPU ends up with by where it finds it [gpus, sources], and the seconds of the GPU
    that loads longest over the links, storage left out."""

    gpus: tuple[str, ...]
    found_bytes: Floats
    seconds: float

    @property
    def kept_bytes(self) -> float:
        return float(self.found_bytes[:, 0].sum())

    @property
    def moved_bytes(self) -> float:
        return float(self.found_bytes[:, 1:].sum())


class Settled(NamedTuple):
    """A fleet with its ranks where most of their weights lie, and what each part loads."""

    fleet: FleetPlan
    parts: tuple[Move, ...]

    @property
    def moved_bytes(self) -> float:
        return sum(part.moved_bytes for part in self.parts)

    @property
    def seconds(self) -> float:
        return max((part.seconds for part in self.parts), default=0.0)


def settled(
    fleet: Fleet,
    asked: Asked,
    choice: FleetChoice,
    notes: Sequence[str],
    runs: Sequence[Runs],
    keepers: Sequence[Keeper],
) -> Settled:
    """A choice placed around what stays of what runs."""
    cluster, parts = fleet.cluster, parts_of(fleet, choice)
    keeper_of = dict(zip((demand.name for demand in fleet.demands), keepers, strict=True))
    wishes = [
        keeper_of[part.demand.name].wish(
            part.use.offer,
            [domain.gpus for domain in cluster.domains if domain.pool == part.use.offer.pool],
        )
        for part in parts
    ]
    gpus = name_gpus_near(cluster, asked.rooms, [part.use for part in parts], wishes)
    placed, moves = [], []
    for part, names in zip(parts, gpus, strict=True):
        plan, move = _settled_part(cluster, part, plan_of(cluster, part, names), runs)
        placed.append((part, names, plan))
        moves.append(move)
    return Settled(document_of(fleet, asked.asks, choice, placed, notes), tuple(moves))


def _settled_part(
    cluster: Cluster, part: Part, plan: Plan, runs: Sequence[Runs]
) -> tuple[Plan, Move]:
    """A part's plan with its ranks on the GPUs that hold most of their weights, and its move."""
    deployment, pool = plan.deployment, part.use.offer.pool
    model = plan.model.with_precision(deployment.precision)
    own = [
        each.replica
        for each in runs
        if same_model(each.model, model) and each.precision == deployment.precision
    ]
    held = held_by(model, block_bytes(model), own, [deployment.layout])
    ranks = held.ranks(deployment.layout, deployment.placement.ranks)
    prefix = f"{cluster.pools[pool].name}/" if len(cluster.pools) > 1 else ""
    here = [gpu for domain in plan.cluster.domains for gpu in domain.gpus]
    names = [prefix + gpu for gpu in here]
    names += [gpu for gpu in held.gpus if gpu not in set(names)]
    row = {gpu: index for index, gpu in enumerate(held.gpus)}
    empty = Holdings(*(np.zeros((1, column.shape[1]), dtype=bool) for column in ranks))
    known = held.parts if held.gpus else empty.take(np.zeros(0, dtype=np.int64))
    every = Holdings(*(np.concatenate(pair) for pair in zip(known, empty, strict=True)))
    old = every.take(np.array([row.get(gpu, len(held.gpus)) for gpu in names]))
    found_here = shared_bytes(ranks, old.take(np.arange(len(here))), held.size)
    rank_gpu = settle(plan, found_here, here)
    placement = deployment.placement.model_copy(update={"rank_gpu": rank_gpu})
    changed = deployment.model_copy(update={"placement": placement})
    rank_of = {gpu: rank for replica in rank_gpu for rank, gpu in enumerate(replica)}
    used = np.array([index for index, gpu in enumerate(here) if gpu in rank_of])
    new = ranks.take(np.array([rank_of[here[index]] for index in used]))
    found = sources(new, old, used, _levels(cluster, names), held.size)
    move = Move(tuple(names[index] for index in used), found, float(_seconds(cluster, pool, found)))
    settled_plan = plan.model_copy(update={"deployments": (changed, *plan.deployments[1:])})
    return sealed(settled_plan), move


def _levels(cluster: Cluster, names: Sequence[str]) -> list[np.ndarray]:
    """The domain and the pool of each GPU, and one group of all [gpus]."""
    domain = {gpu: index for index, each in enumerate(cluster.domains) for gpu in each.gpus}
    domains = np.array([domain[name] for name in names])
    pools = np.array([each.pool for each in cluster.domains])[domains]
    return [domains, pools, np.zeros_like(domains)]


def _seconds(cluster: Cluster, pool: int, found: Floats) -> float:
    """Seconds until every GPU has loaded over the links what it does not hold."""
    own = cluster.pools[pool]
    between = cluster.inter_pool or own.inter_node
    times = (
        found[:, 1] / own.intra_node.bandwidth_bytes_per_s
        + found[:, 2] / own.inter_node.bandwidth_bytes_per_s
        + found[:, 3] / between.bandwidth_bytes_per_s
    )
    return float(times.max(initial=0.0))
