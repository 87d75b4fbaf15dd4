"""Why nothing is feasible: the minimal sets of limits that no candidate keeps together.

A set of limits is in conflict when every candidate breaks one of them: such sets are the hitting
sets of the candidates' masks of broken limits, and the minimal ones follow from the minimal masks
alone (Reiter, 1987; built up mask by mask as Berge, 1989, does for hypergraphs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.operators import Floats
from optimizer.search.wording import amount


@dataclass(frozen=True)
class Shortfall:
    """One limit of a conflict: the least that it needs where the conflict's other limits hold."""

    limit: str
    need: float
    there: float
    where: str  # the candidate that needs least

    def __str__(self) -> str:
        need, there = amount(self.limit, self.need), amount(self.limit, self.there)
        return f"{self.limit}: at least {need} needed ({self.where}), {there} there"


@dataclass(frozen=True)
class Conflict:
    """Limits that no candidate keeps together, while any one less of them can be kept."""

    limits: tuple[Shortfall, ...]

    def __str__(self) -> str:
        return "; ".join(str(shortfall) for shortfall in self.limits)


def minimal(masks: Iterable[int]) -> list[int]:
    """The masks that contain no other one, by size, then by value."""
    kept: list[int] = []
    for mask in sorted(set(masks), key=lambda mask: (mask.bit_count(), mask)):
        if not any(mask & small == small for small in kept):
            kept.append(mask)
    return kept


def minimal_hitting_sets(masks: Iterable[int]) -> list[int]:
    """Every minimal set of bits that has one in common with each mask; none where a mask is 0."""
    sets = [0]
    for mask in minimal(masks):
        bits = [1 << bit for bit in range(mask.bit_length()) if mask >> bit & 1]
        sets = minimal(
            grown
            for found in sets
            for grown in ([found] if found & mask else [found | bit for bit in bits])
        )
    return sets


def conflicts(
    candidates: Candidates, where: Callable[[str, int], str] | None = None
) -> tuple[Conflict, ...]:
    """All minimal conflicts, the smallest first; none where a candidate keeps every limit, or where
    there is no candidate at all. `where(limit, row)` names a row (its layout if not given)."""
    masks = candidates.broken()
    if not len(masks):
        return ()
    names = list(candidates.limits)
    say = where or (lambda limit, row: layout_name(candidates, row))
    found = []
    for chosen in minimal_hitting_sets(np.unique(masks).tolist()):
        bits = [bit for bit in range(len(names)) if chosen >> bit & 1]
        shortfalls = []
        for bit in bits:
            name = names[bit]
            rows = np.flatnonzero(masks & (chosen & ~(1 << bit)) == 0)
            need, there = candidates.needs[name], candidates.limits[name]
            row = int(rows[np.argmin(overshoot(need[rows], there[rows]))])
            shortfalls.append(Shortfall(name, float(need[row]), float(there[row]), say(name, row)))
        found.append(Conflict(tuple(shortfalls)))
    return tuple(found)


def overshoot(need: Floats, there: Floats) -> Floats:
    """Need over what is there; infinite where nothing is [n]."""
    ratio: Floats = np.divide(need, there, out=np.full(len(need), np.inf), where=there > 0)
    return ratio


def layout_name(candidates: Candidates, row: int) -> str:
    """A row's layout at its least replicas."""
    return candidates.layout(row, int(candidates.replicas_min[row])).name
