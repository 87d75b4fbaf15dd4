"""`optimize --current PLAN.json`: plans that move little from what runs, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from optimizer.errors import PlanError
from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.plan import Plan, Plans, sealed
from optimizer.search.moving import (
    BlockBytes,
    Holdings,
    block_bytes,
    both_cuts,
    ranks_of,
    settle,
    shared_bytes,
)
from optimizer.spec.cluster import Cluster
from optimizer.units import GIB

SOURCES = ("kept", "same domain", "other domains", "storage")


class Move(NamedTuple):
    """What one plan needs beside what runs, its ranks settled where most of it lies already.

    found_bytes: by source what each GPU ends up with [gpus, sources]; seconds: of the GPU that
    loads longest over the links, storage left out.
    """

    plan: Plan
    gpus: tuple[str, ...]
    found_bytes: Floats
    seconds: float

    @property
    def moved_bytes(self) -> float:
        return float(self.found_bytes[:, 1:].sum())

    def note(self, current: Plan) -> str:
        """The move in one line."""
        near, far, storage = (float(part) / GIB for part in self.found_bytes[:, 1:].sum(axis=0))
        kept = float(self.found_bytes[:, 0].sum()) / GIB
        many = int((self.found_bytes[:, 1:].sum(axis=1) > 0).sum())
        return (
            f"from {current.name} ({current.hash[:12]}): {kept:,.1f} GiB of weights stay where "
            f"they are; {many} GPUs load {near:,.1f} GiB inside their domain, {far:,.1f} GiB from "
            f"other domains, {storage:,.1f} GiB from storage: {self.seconds:.3g} s over the links"
        )


def stay_close(plans: Plans, current: Plan, within: float) -> tuple[Plans, str]:
    """(the plans, settled, the chosen one first; moves.json).

    Chosen is the plan that moves least of those whose objective lies within a share of the best
    one's; ranks stay as the objective has them. Raises PlanError where another model runs.
    """
    moves = [move_from(current, plan) for plan in plans.plans]
    values = [abs(plan.proof.value) for plan in plans.plans]
    near = [
        index
        for index, value in enumerate(values)
        if abs(value - values[0]) <= within * max(values[0], 1)
    ]
    chosen = min(near, key=lambda index: (moves[index].moved_bytes, index))
    settled = [
        sealed(move.plan.model_copy(update={"notes": (*move.plan.notes, move.note(current))}))
        for move in moves
    ]
    order = [chosen, *(index for index in range(len(settled)) if index != chosen)]
    found = Plans(tuple(settled[index] for index in order), plans.front)
    return found, moves_json(moves, current, chosen, within)


def move_from(current: Plan, plan: Plan) -> Move:
    """A plan with its ranks where most of their weights lie, and what is left to load."""
    if current.model.name != plan.model.name or current.model.layers != plan.model.layers:
        raise PlanError(
            f"the current plan runs {current.model.name}, not {plan.model.name}: nothing of it "
            "can stay; leave --current out"
        )
    model = plan.model.with_precision(plan.deployment.precision)
    size = block_bytes(model)
    experts = plan.model.moe.num_experts if plan.model.moe else 0
    cuts = both_cuts(current.deployment, plan.deployment)
    old, gpus = _placed(current, plan, experts, cuts)
    ranks = ranks_of(plan.deployment, model.num_layers, experts, cuts)
    placement = plan.deployment.placement
    rank_gpu = settle(plan, shared_bytes(ranks, old, size), gpus)
    changed = plan.deployment.model_copy(
        update={"placement": placement.model_copy(update={"rank_gpu": rank_gpu})}
    )
    rank_of = {gpu: rank for replica in rank_gpu for rank, gpu in enumerate(replica)}
    used = np.array([index for index, gpu in enumerate(gpus) if gpu in rank_of])
    new = ranks.take(np.array([rank_of[gpus[index]] for index in used]))
    domain = {gpu: index for index, each in enumerate(plan.cluster.domains) for gpu in each.gpus}
    domains = np.array([domain.get(gpu, -1) for gpu in gpus])
    found = sources(new, old, used, [domains, np.zeros_like(domains)], size)
    near, far = np.array([_link_rates(plan.cluster, domains[index]) for index in used]).T
    times = found[:, 1] / near + found[:, 2] / far
    settled = plan.model_copy(update={"deployments": (changed, *plan.deployments[1:])})
    names = tuple(gpus[index] for index in used)
    return Move(settled, names, found, float(times.max(initial=0.0)))


def _link_rates(cluster: Cluster, domain: int) -> tuple[float, float]:
    """Bytes/s of a GPU's links inside its domain and between domains."""
    pool = cluster.pools[cluster.domains[domain].pool]
    return pool.intra_node.bandwidth_bytes_per_s, pool.inter_node.bandwidth_bytes_per_s


def _placed(
    current: Plan, plan: Plan, experts: int, cuts: Ints
) -> tuple[Holdings, tuple[str, ...]]:
    """What every GPU holds now; GPUs that are dead by now hold nothing, and those of other number
    formats nothing of use."""
    gpus = tuple(gpu for domain in plan.cluster.domains for gpu in domain.gpus)
    ranks = ranks_of(current.deployment, plan.model.num_layers, experts, cuts)
    empty = Holdings(*(np.zeros((1, part.shape[1]), dtype=bool) for part in ranks))
    every = Holdings(*(np.concatenate(pair) for pair in zip(ranks, empty, strict=True)))
    rank_of = {
        gpu: rank
        for replica in current.deployment.placement.rank_gpu
        for rank, gpu in enumerate(replica)
    }
    nothing = len(ranks.blocks)
    if current.deployment.precision != plan.deployment.precision:
        rank_of = {}
    return every.take(np.array([rank_of.get(gpu, nothing) for gpu in gpus])), gpus


def sources(
    new: Holdings, old: Holdings, used: Ints, levels: Sequence[Ints], size: BlockBytes
) -> Floats:
    """Bytes of each used GPU by where they are found first [used, sources]: on itself, in its group
    of GPUs of one level after the other, nowhere. levels: the group of every GPU [gpus]."""
    found = np.zeros((len(used), len(levels) + 2))
    for block in range(new.blocks.shape[1]):
        for part, weight in (("dense", size.dense[block]), ("experts", size.experts[block])):
            slices, held = getattr(new, part), getattr(old, part)
            if not weight or not slices.shape[1]:
                continue
            left = slices & new.blocks[:, block, None]
            has = held & old.blocks[:, block, None]
            reached = [has[used]]
            for groups in levels:
                near = np.zeros((int(groups.max()) + 1, held.shape[1]), dtype=bool)
                np.logical_or.at(near, groups[has.any(axis=1)], has[has.any(axis=1)])
                reached.append(near[groups[used]])
            for source, there in enumerate(reached):
                found[:, source] += weight * (left & there).mean(axis=1)
                left = left & ~there
            found[:, -1] += weight * left.mean(axis=1)
    return found


def moves_json(moves: Sequence[Move], current: Plan, chosen: int, within: float) -> str:
    """moves.json: every ranked plan's move, and of the chosen one what each GPU loads."""
    move = moves[chosen]
    document: dict[str, Any] = {
        "from": {"name": current.name, "hash": current.hash},
        "within": within,
        "chosen": {"rank": move.plan.rank, "name": move.plan.name},
        "plans": [
            {
                "rank": each.plan.rank,
                "name": each.plan.name,
                "moved_bytes": each.moved_bytes,
                "seconds": each.seconds,
            }
            for each in moves
        ],
        "gpus": {
            gpu: dict(zip(SOURCES, map(float, row), strict=True))
            for gpu, row in zip(move.gpus, move.found_bytes, strict=True)
        },
    }
    return json.dumps(document, indent=1) + "\n"
