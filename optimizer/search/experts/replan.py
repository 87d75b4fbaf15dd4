"""A new placement that moves few slots: the best moves of the hottest GPU first.

Moves are dear here, so each is the best of all slots of the hottest GPU, not of any one slot. What
is left of the budget, and exchanges among slots already moved, are then up to `improve`. Once in
some hundreds of layers a run spends its moves on the wrong GPUs; layers that end far from the bound
are run again with other penalties, which go other ways.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.improve import CLOSE, improve
from optimizer.search.experts.moves import (
    FORBIDDEN,
    Rules,
    Scene,
    begin,
    recount,
    recount_costs,
    swap,
    swap_costs,
    transpose,
)
from optimizer.search.experts.pack import gpu_loads
from optimizer.search.experts.solve import SEED, steps

STEEPNESS = (5.0, 50.0, 0.0, 20.0, 300.0)  # of the penalty of overloads; later ones where needed
GOOD = 1.5e-3  # of the bound: a layer this close is not run again


def replan(loads: Floats, current: Ints, bound: Floats, rules: Rules) -> Ints:
    """A placement [layers, slots] that differs from `current` in at most `max_moves` slots a layer.

    Its largest GPU load is in no layer above that of `current` under the new loads.
    """
    moved, largest = current.copy(), gpu_loads(loads, current, rules.gpus).max(axis=1)
    for steepness in STEEPNESS:
        far = np.flatnonzero(largest > (1 + GOOD) * bound)
        if not far.size:
            break
        again = _move_hottest(loads[far], current[far], bound[far], rules, steepness)
        again_largest = gpu_loads(loads[far], again, rules.gpus).max(axis=1)
        better = again_largest < largest[far]
        moved[far[better]] = again[better]
        largest[far[better]] = again_largest[better]
    rng = np.random.default_rng(SEED)
    return improve(loads, moved, current, bound, rules, steps(*moved.shape) // 2, rng)


def _move_hottest(
    loads: Floats, current: Ints, bound: Floats, rules: Rules, steepness: float
) -> Ints:
    """The best placement met by making the best move of the hottest GPU until moves run out."""
    state = begin(loads, current, current, bound, rules.gpus)
    layers, slots = state.placed.shape
    per_gpu = slots // rules.gpus
    row_layer = np.repeat(np.arange(layers), per_gpu)  # every slot of the hottest GPU is a row
    row = np.arange(layers * per_gpu)
    result, best = state.placed.copy(), np.full(layers, np.inf)
    penalty = partial(_off_balance, steepness)
    for _ in range(1 + (slots if rules.max_moves is None else rules.max_moves)):
        pieces = state.pieces(rules.gpus)
        load = pieces.sum(axis=1)
        better = load.max(axis=1) < best
        best = np.where(better, load.max(axis=1), best)
        result[better] = state.placed[better]
        if (best <= 1 + CLOSE).all():
            break
        gpu = load.argmax(axis=1)[row_layer]
        slot = gpu + rules.gpus * (row % per_gpu)
        rows = state.take(row_layer)
        over = (load - 1)[:, None, :]
        scene = Scene(row, pieces[row_layer], over[row_layer], gpu, slot, rows.placed[row, slot])
        swaps = swap_costs(rows, scene, rules, penalty)
        recounts = recount_costs(rows, scene, rules, penalty)
        cost = np.concatenate([swaps, recounts], axis=1)
        column = cost.argmin(axis=1).reshape(layers, per_gpu)
        least = cost.min(axis=1).reshape(layers, per_gpu)
        which = least.argmin(axis=1)
        chosen = row.reshape(layers, per_gpu)[np.arange(layers), which]
        column = column[np.arange(layers), which]
        legal = (least.min(axis=1) < FORBIDDEN / 2) & (best > 1 + CLOSE)
        here = Scene(
            np.arange(layers), pieces, over, gpu[chosen], slot[chosen], scene.expert[chosen]
        )
        swapped = np.flatnonzero(legal & (column < slots))
        swap(state, here, swapped, column[swapped])
        recounted = np.flatnonzero(legal & (column >= slots))
        recount(state, here, recounted, column[recounted] - slots)
    return transpose(result, -1, rules.gpus)


def _off_balance(steepness: float, over: Floats) -> Floats:
    """Distance to the bound, and for overloads `steepness` times its square too.

    Linear alone favours a move that settles one GPU for good over one that helps two a little;
    the square keeps the hottest GPU from being left for last.
    """
    return np.abs(over) + steepness * np.square(np.maximum(over, 0.0))
