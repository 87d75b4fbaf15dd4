"""The ways to serve one demand, ranked: the best of each kind, which is a mode and the pools that
each role lies in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from optimizer.search.fleet.choosing import Chosen, FleetChoice, choose_fleet
from optimizer.search.fleet.reach import Ask, Objective, combinations_of
from optimizer.search.fleet.room import PoolRoom
from optimizer.search.fleet.vectors import Vector


def rank_alone(
    ask: Ask, rooms: Sequence[PoolRoom], prices: Sequence[float], objective: Objective, each: int
) -> list[FleetChoice]:
    """The best `each` choices of every kind, of different layouts, all kinds in one order; a way
    that fewer pools beat may be missing.

    The first choice's bound is that of all kinds together.
    """
    found: list[FleetChoice] = []
    for kind in kinds_of(ask):
        besides: list[Chosen] = []
        while len(besides) < each:
            choice = choose_fleet([kind], rooms, prices, objective, besides)
            if choice is None or choice.chosen[0] is None:
                break
            besides.append(choice.chosen)
            found.append(choice._replace(combinations=combinations_of([ask])))
    found.sort(key=lambda choice: (choice.value, gpus_of(choice)))
    if not found:
        return []
    bound = min(choice.bound for choice in found)
    best = found[0]._replace(
        bound=bound, status="OPTIMAL" if bound == found[0].value else "FEASIBLE"
    )
    return [best, *found[1:]]


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
