"""The ways to serve one demand, ranked: the best of each kind, which is a mode and the pools that
each role lies in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Literal

from optimizer.search.fleet.choosing import FleetChoice, choose_fleet
from optimizer.search.fleet.reach import (
    Ask,
    Chosen,
    Objective,
    combinations_of,
    cost_of,
    served_steps,
)
from optimizer.search.fleet.room import PoolRoom
from optimizer.search.fleet.vectors import Vector, served_by
from optimizer.spec.fleet import Mode


def rank_alone(
    ask: Ask,
    rooms: Sequence[PoolRoom],
    prices: Sequence[float],
    objective: Objective,
    top: int,
    each: int = 1,
) -> list[FleetChoice]:
    """The best choices, `each` of every kind and of different layouts, in order: the first `top`
    and the best of each mode are sure to be among them, but no way that another beats in a part of
    its pools.

    The first choice's bound is that of all kinds together.
    """
    steps = served_steps([ask]) if objective == "served" else 1.0
    kinds = [(_bound(kind, prices, objective, steps), kind) for kind in kinds_of(ask)]
    found: list[FleetChoice] = []
    modes: set[Mode] = set()
    for bound, kind in sorted(kinds, key=lambda pair: pair[0]):
        (mode,) = kind.modes
        if mode in modes and len(found) >= top and found[top - 1].value <= bound:
            continue
        besides: list[Chosen] = []
        while len(besides) < each:
            choice = choose_fleet([kind], rooms, prices, objective, besides)
            if choice is None or choice.chosen[0] is None:
                break
            modes.add(mode)
            besides.append(choice.chosen)
            found.append(choice._replace(combinations=combinations_of([ask])))
        found.sort(key=lambda choice: (choice.value, gpus_of(choice)))
        found = [
            choice
            for place, choice in enumerate(found)
            if not any(_in_fewer_pools(other, choice) for other in found[:place])
        ]
    if not found:
        return []
    least = min(choice.bound for choice in found)
    status: Literal["OPTIMAL", "FEASIBLE"] = "OPTIMAL" if least == found[0].value else "FEASIBLE"
    return [found[0]._replace(bound=least, status=status), *found[1:]]


def _in_fewer_pools(choice: FleetChoice, other: FleetChoice) -> bool:
    """Whether every role of a choice lies in a part of the pools that it lies in in another."""
    pools = []
    for each in (choice, other):
        assert each.chosen[0] is not None
        mode, roles = each.chosen[0]
        pools.append({(mode, role, use.offer.pool) for role, own in roles.items() for use in own})
    return pools[0] < pools[1]


def _bound(kind: Ask, prices: Sequence[float], objective: Objective, steps: float) -> float:
    """What no choice of a kind goes below, as if its roles did not share room."""
    ((_, roles),) = kind.modes.items()
    if objective == "served":
        rates = [max(served_by(vector) for vector in own) for own in roles.values()]
        return -math.ceil(steps * kind.weight * min(kind.wanted_per_s, *rates))
    return sum(min(cost_of(vector, prices, objective) for vector in own) for own in roles.values())


def kinds_of(ask: Ask) -> Iterator[Ask]:
    """The ask once for each mode and each choice of pools for its roles, with the vectors of just
    those pools; a mode in which some role has no vector has none."""
    for mode, roles in ask.modes.items():
        by_pools = [_by_pools(vectors) for vectors in roles.values()]
        for picks in product(*(own.values() for own in by_pools)):
            yield ask._replace(modes={mode: dict(zip(roles, picks, strict=True))})


def _by_pools(vectors: Sequence[Vector]) -> Mapping[tuple[int, ...], list[Vector]]:
    found: dict[tuple[int, ...], list[Vector]] = {}
    for vector in vectors:
        found.setdefault(tuple(use.offer.pool for use in vector), []).append(vector)
    return found


def gpus_of(choice: FleetChoice) -> int:
    """GPUs that a choice takes in all."""
    return sum(
        use.gpus
        for answer in choice.chosen
        if answer is not None
        for vector in answer[1].values()
        for use in vector
    )
