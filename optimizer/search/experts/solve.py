"""Placements of independent layers: counts by many recipes, largest first, then local search."""

from __future__ import annotations

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.counts import EPLB, RECIPES, Floats, Recipe, count_vectors
from optimizer.search.experts.improve import improve
from optimizer.search.experts.moves import Rules
from optimizer.search.experts.pack import gpu_loads, largest_first

WORK = 40_000_000  # slots looked at by the local search: about half a second
MOST_CELLS = 2_000_000  # recipes x layers x slots packed at once
SEED = 0


def steps(layers: int, slots: int) -> int:
    """Steps of the local search: small models get more, none takes much longer than others."""
    return max(500, min(5_000, WORK // (layers * slots)))


def solve(loads: Floats, bound: Floats, slots: int, rules: Rules) -> Ints:
    """A placement [layers, slots] of each layer, in no layer worse than EPLB's.

    `loads` [layers, experts]; `bound` [layers], at which the search of a layer ends.
    """
    rng = np.random.default_rng(SEED)
    recipes = RECIPES if slots > loads.shape[1] else (EPLB,)
    placed = _start(loads, bound, slots, rules, recipes, rng)
    return improve(loads, placed, placed, bound, rules, steps(len(loads), slots), rng)


def eplb(loads: Floats, slots: int, gpus: int) -> Ints:
    """EPLB's global rule: extra copies to the largest piece, then largest first."""
    rng = np.random.default_rng(SEED)
    return _start(loads, np.zeros(len(loads)), slots, Rules(gpus), (EPLB,), rng)


def _start(
    loads: Floats,
    bound: Floats,
    slots: int,
    rules: Rules,
    recipes: tuple[Recipe, ...],
    rng: np.random.Generator,
) -> Ints:
    """The best of all recipes in each layer, packed largest first."""
    layers = len(loads)
    most = rules.gpus if rules.distinct else slots
    best, best_load = np.zeros((layers, slots), dtype=np.int64), np.full(layers, np.inf)
    at_once = max(1, MOST_CELLS // (layers * slots))
    for first in range(0, len(recipes), at_once):
        some = recipes[first : first + at_once]
        counts = count_vectors(loads, bound, slots, most, some, rng)
        repeated = np.tile(loads, (len(some), 1))
        placed = largest_first(repeated, counts, rules.gpus, rules.distinct)
        largest = gpu_loads(repeated, placed, rules.gpus).max(axis=1).reshape(-1, layers)
        winner = largest.argmin(axis=0)
        better = np.flatnonzero(largest.min(axis=0) < best_load)
        best[better] = placed.reshape(-1, layers, slots)[winner[better], better]
        best_load[better] = largest.min(axis=0)[better]
    return best
