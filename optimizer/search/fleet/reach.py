"""Which vectors a best choice can hold at all: those whose cost a first solve does not rule out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Literal, NamedTuple

from optimizer.search.fleet.vectors import Vector
from optimizer.spec.fleet import Mode, Role

Objective = Literal["gpus", "money", "served"]
FEW = 30  # vectors of a role in the first solve, which bounds the second
MONEY_STEPS = 1000  # the grid of money: thousandths an hour
SERVED_STEPS = 1_000_000  # the grid of the largest weighted demand


Chosen = tuple[tuple[Mode, Mapping[Role, Vector]] | None, ...]  # for each demand


class Ask(NamedTuple):
    """What one demand may be served by: for each mode its roles with their vectors."""

    name: str
    wanted_per_s: float
    weight: float
    modes: Mapping[Mode, Mapping[Role, Sequence[Vector]]]


def cost_of(vector: Vector, prices: Sequence[float], objective: Objective) -> int:
    """What a vector adds to the deciding criterion, where that is GPUs or money."""
    if objective == "gpus":
        return sum(use.gpus for use in vector)
    return sum(round(MONEY_STEPS * prices[use.offer.pool] * use.gpus) for use in vector)


def cheapest(
    ask: Ask, prices: Sequence[float], objective: Objective
) -> Mapping[Mode, Mapping[Role, Sequence[Vector]]]:
    """The FEW cheapest vectors of every role."""

    def few(vectors: Sequence[Vector]) -> Sequence[Vector]:
        return sorted(vectors, key=lambda vector: cost_of(vector, prices, objective))[:FEW]

    return {
        mode: {role: few(vectors) for role, vectors in roles.items()}
        for mode, roles in ask.modes.items()
    }


def within_reach(
    asks: Sequence[Ask], prices: Sequence[float], objective: Objective, reached: int
) -> list[Ask]:
    """The asks without vectors that no choice as good as `reached` can hold: with all others at
    their least they cost more (reduced-cost fixing)."""
    costs = [
        {
            mode: {
                role: [cost_of(vector, prices, objective) for vector in vectors]
                for role, vectors in roles.items()
            }
            for mode, roles in ask.modes.items()
            if all(roles.values())
        }
        for ask in asks
    ]
    least = [
        {mode: sum(min(own) for own in roles.values()) for mode, roles in each.items()}
        for each in costs
    ]
    spare = reached - sum(min(each.values()) for each in least)
    found = []
    for ask, each, modes in zip(asks, costs, least, strict=True):
        kept = {
            mode: {
                role: _within(
                    ask.modes[mode][role], own, spare - modes[mode] + min(modes.values()) + min(own)
                )
                for role, own in roles.items()
            }
            for mode, roles in each.items()
        }
        found.append(ask._replace(modes={m: r for m, r in kept.items() if all(r.values())}))
    return found


def _within(vectors: Sequence[Vector], costs: Sequence[int], most: int) -> list[Vector]:
    return [vector for vector, cost in zip(vectors, costs, strict=True) if cost <= most]


def combinations_of(asks: Sequence[Ask]) -> float:
    """Ways to pick a mode for each demand and a vector for each of its roles."""
    found = 1.0
    for ask in asks:
        ways = sum(prod(map(len, roles.values())) for roles in ask.modes.values())
        found *= max(1.0, float(ways))
    return found


def served_steps(asks: Sequence[Ask]) -> float:
    """Steps of the grid on which weighted requests a second are counted."""
    return SERVED_STEPS / max(ask.wanted_per_s * ask.weight for ask in asks)
