"""Local search over swaps and changes of counts, all layers at once.

Each step takes one slot of one overloaded GPU in every layer and makes the best move for it, even
when that is worse than staying: a GPU just made lighter rarely takes the same expert back, so the
search leaves local optima by itself. Now and then the move changes counts instead of swapping,
often at first and seldom later, because a changed count moves many loads and swaps then settle
them. The best placement seen is kept.
"""

from __future__ import annotations

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.moves import (
    FORBIDDEN,
    Rules,
    Scene,
    State,
    begin,
    recount,
    recount_costs,
    swap,
    swap_costs,
    transpose,
)

AMBITION = 0.9  # a GPU is overloaded above bound + AMBITION x (best so far - bound)
CLOSE = 1e-4  # of the bound: a layer this close is left alone
TIE = 1e-4  # of the bound, random: breaks ties and cycles


def improve(
    loads: Floats,
    placed: Ints,
    start: Ints,
    bound: Floats,
    rules: Rules,
    steps: int,
    rng: np.random.Generator,
) -> Ints:
    """A placement [layers, slots] whose largest GPU load is in no layer above that of `placed`."""
    state = begin(loads, placed, start, bound, rules.gpus)
    result = state.placed.copy()
    layer = np.arange(len(loads))  # of each row of the state: finished layers drop out
    best = np.full(len(loads), np.inf)
    for step in range(steps):
        pieces = state.pieces(rules.gpus)
        load = pieces.sum(axis=1)
        largest = load.max(axis=1)
        better = np.flatnonzero(largest < best)
        if better.size:
            best[better] = largest[better]
            result[layer[better]] = state.placed[better]
            unfinished = np.flatnonzero(best > 1 + CLOSE)
            if unfinished.size < layer.size:
                state, layer, best = state.take(unfinished), layer[unfinished], best[unfinished]
                pieces, load = pieces[unfinished], load[unfinished]
        if not layer.size:
            break
        scene = _any_overloaded_slot(state, pieces, load - _threshold(best)[:, None], rng)
        if (step + 1) % _period(step, steps):
            swap(state, scene, *_least(swap_costs(state, scene, rules, _excess), rng))
        else:
            recount(state, scene, *_least(recount_costs(state, scene, rules, _excess), rng))
    return transpose(result, -1, rules.gpus)


def _period(step: int, steps: int) -> int:
    """Every how many steps counts change: 8, 16, 32, 64, 128."""
    return 8 << (5 * step // steps)


def _threshold(best: Floats) -> Floats:
    return 1 + AMBITION * (best - 1)


def _excess(over: Floats) -> Floats:
    return np.maximum(over, 0.0)


def _any_overloaded_slot(
    state: State, pieces: Floats, over: Floats, rng: np.random.Generator
) -> Scene:
    rows, per_gpu, gpus = pieces.shape
    row = np.arange(rows)
    gpu = np.where(over > 0, rng.random(over.shape), over).argmax(axis=1)
    slot = gpu + gpus * rng.integers(0, per_gpu, rows)
    return Scene(row, pieces, over[:, None, :], gpu, slot, state.placed[row, slot])


def _least(cost: Floats, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """The rows that have a legal move, and the column of the best, ties broken at random."""
    cost += TIE * rng.random(cost.shape, dtype=np.float32)
    column = cost.argmin(axis=1)
    rows = np.flatnonzero(cost[np.arange(len(cost)), column] < FORBIDDEN / 2)
    return rows, column[rows]
