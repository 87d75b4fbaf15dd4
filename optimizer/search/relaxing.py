"""What a change costs, and the cheapest limits to move where a candidate breaks nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.search.conflicts import overshoot


class Cost(NamedTuple):
    """Cost of one change: base + per_octave for each doubling (or halving) of what is changed."""

    base: float
    per_octave: float
    why: str


# In units of "one launch flag, set and checked". A judgement, not a measurement: printed with every
# list of repairs, so that a reader who weighs otherwise can sort anew.
COSTS: Mapping[str, Cost] = {
    "degree": Cost(1.0, 0.1, "a launch flag for each degree"),
    "kv_cache": Cost(0.5, 0.5, "a launch flag; long contexts to be evaluated"),
    "ttft": Cost(1.0, 3.0, "a promise to users is weakened"),
    "tpot": Cost(1.0, 3.0, "a promise to users is weakened"),
    "latency": Cost(1.0, 3.0, "a promise to users is weakened"),
    "step_time": Cost(1.0, 3.0, "a promise on the training's end is weakened"),
    "load": Cost(1.0, 2.0, "less is served at once; the rest waits or goes elsewhere"),
    "weights": Cost(2.0, 1.5, "another checkpoint, to be evaluated"),
    "tokens": Cost(3.0, 2.0, "requests that are longer are refused"),
    "GPUs": Cost(6.0, 3.0, "money, space and weeks"),
    "gpu": Cost(8.0, 2.0, "other servers"),
}


def cost_of(kind: str, factor: float) -> float:
    """The cost of changing something by a factor, up or down alike."""
    return COSTS[kind].base + COSTS[kind].per_octave * abs(float(np.log2(factor)))


@dataclass(frozen=True)
class Relaxation:
    """Limits to move, and to what, so that one candidate keeps every limit."""

    needs: Mapping[str, float]  # by limit: what the candidate needs
    row: int
    cost: float


def relaxations(candidates: Candidates) -> list[Relaxation]:
    """For each set of limits that a candidate breaks and that may be moved (those in COSTS), the
    candidate whose needs are cheapest to grant; few limits first, then by cost."""
    masks = candidates.broken()
    names = list(candidates.limits)
    costs = _costs(candidates, masks)
    found = []
    for mask in np.unique(masks).tolist():
        rows = np.flatnonzero(masks == mask)
        row = int(rows[np.argmin(costs[rows])])
        broken = [name for bit, name in enumerate(names) if mask >> bit & 1]
        if broken and np.isfinite(costs[row]):
            needs = {name: float(candidates.needs[name][row]) for name in broken}
            found.append(Relaxation(needs, row, float(costs[row])))
    return sorted(found, key=lambda each: (len(each.needs), each.cost, each.row))


def _costs(candidates: Candidates, masks: Ints) -> Floats:
    """Cost of granting each row what it needs; infinite where it breaks what cannot be moved."""
    total = np.zeros(len(candidates))
    for bit, name in enumerate(candidates.limits):
        broken = (masks >> bit & 1).astype(bool)
        over = overshoot(candidates.needs[name], candidates.limits[name])
        octaves = np.log2(np.maximum(1.0, over))
        cost = COSTS.get(name)
        granted = np.inf if cost is None else cost.base + cost.per_octave * octaves
        total = total + np.where(broken, granted, 0.0)
    return total
