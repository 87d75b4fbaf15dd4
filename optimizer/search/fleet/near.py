"""Staying near what runs, as a criterion: bytes of weights that chosen replicas have to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from optimizer.search.fleet.keeping import Keeper
from optimizer.search.fleet.reach import (
    MONEY_STEPS,
    Ask,
    Chosen,
    Objective,
    cost_of,
    served_steps,
)
from optimizer.search.fleet.vectors import Near, served_by
from optimizer.spec.fleet import Mode, Role

MOVED = "moved"
MEGABYTE = 1e6  # the grid of moved bytes


class Moving(NamedTuple):
    """What each demand keeps of what runs [demands], and what a pool holds of a model by the number
    of its keeper."""

    keepers: Sequence[Keeper]
    held_bytes: Mapping[tuple[int, int], float]


def moved_terms(
    model: cp_model.CpModel,
    asks: Sequence[Ask],
    picked: Mapping[tuple[int, Mode, Role], Sequence[cp_model.IntVar]],
    moving: Moving,
) -> list[tuple[cp_model.IntVar, int]]:
    """Megabytes of all replicas less those that stay: no more than the replicas of a model find in
    a pool, nor than its GPUs hold."""
    found = []
    stay: dict[tuple[int, int], list[tuple[cp_model.IntVar, int]]] = {}
    for (index, mode, role), own in picked.items():
        keeper = moving.keepers[index]
        for x, vector in zip(own, asks[index].modes[mode][role], strict=True):
            for use in vector:
                keep = keeper.keep(use.offer)
                found.append((x, round(keep.replica_bytes * use.replicas / MEGABYTE)))
                kept = float(keep.kept_bytes(np.array([use.replicas]))[0])
                if kept:
                    group = keeper.number, use.offer.pool
                    stay.setdefault(group, []).append((x, round(kept / MEGABYTE)))
    for (number, pool), terms in stay.items():
        held = round(moving.held_bytes[number, pool] / MEGABYTE)
        kept_here = model.new_int_var(0, held, f"stay {number} {pool}")
        model.add(kept_here <= sum(weight * x for x, weight in terms))
        found.append((kept_here, -1))
    return found


def nearby(
    asks: Sequence[Ask],
    prices: Sequence[float],
    objective: Objective,
    most: int,
    keepers: Sequence[Keeper],
) -> list[Near]:
    """For each demand what a way to serve one of its roles may cost where the deciding criterion is
    no more than `most`: every other demand costs its least."""
    if objective == "served":
        return [Near(inf, prices, keeper.keep) for keeper in keepers]
    least = [
        min(
            sum(
                min(cost_of(vector, prices, objective) for vector in vectors)
                for vectors in roles.values()
            )
            for roles in ask.modes.values()
            if all(roles.values())
        )
        for ask in asks
    ]
    grid = [1.0 if objective == "gpus" else MONEY_STEPS * price for price in prices]
    spare = most - sum(least) + len(prices)  # money is rounded in each pool
    return [
        Near(float(spare + own), grid, keeper.keep)
        for own, keeper in zip(least, keepers, strict=True)
    ]


def value_of(
    asks: Sequence[Ask], chosen: Chosen, prices: Sequence[float], objective: Objective
) -> int:
    """The deciding criterion of a choice on its integer grid."""
    value, steps = 0, served_steps(asks)
    for ask, answer in zip(asks, chosen, strict=True):
        vectors = list(answer[1].values()) if answer is not None else []
        if objective == "served":
            per_s = steps * ask.weight
            rates = [round(per_s * served_by(vector)) for vector in vectors]
            value -= min([round(per_s * ask.wanted_per_s), *rates]) if rates else 0
        else:
            value += sum(cost_of(vector, prices, objective) for vector in vectors)
    return value
