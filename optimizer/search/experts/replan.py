"""A new placement that moves few slots: the best moves of the hottest GPU first.

Moves are dear here, so each is the best of all slots of the hottest GPU, not of any one slot. What
is left of the budget, and exchanges among slots already moved, are then up to `improve`.
"""

from __future__ import annotations

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
from optimizer.search.experts.solve import SEED, steps

RECOUNT_EVERY = 3  # moves: pricing all changes of counts costs as much as five rounds of swaps


def replan(loads: Floats, current: Ints, bound: Floats, rules: Rules) -> Ints:
    """A placement [layers, slots] that differs from `current` in at most `max_moves` slots a layer.

    Its largest GPU load is in no layer above that of `current` under the new loads.
    """
    moved = _move_hottest(loads, current, bound, rules)
    rng = np.random.default_rng(SEED)
    return improve(loads, moved, current, bound, rules, steps(*moved.shape) // 2, rng)


def _move_hottest(loads: Floats, current: Ints, bound: Floats, rules: Rules) -> Ints:
    """The best placement met by making the best move of the hottest GPU until moves run out."""
    state = begin(loads, current, current, bound, rules.gpus)
    layers, slots = state.placed.shape
    per_gpu = slots // rules.gpus
    row_layer = np.repeat(np.arange(layers), per_gpu)  # every slot of the hottest GPU is a row
    row = np.arange(layers * per_gpu)
    result, best = state.placed.copy(), np.full(layers, np.inf)
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
        swaps = swap_costs(rows, scene, rules, _off_balance)
        recounts = recount_costs(rows, scene, rules, _off_balance)
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


def _off_balance(over: Floats) -> Floats:
    """Distance to the bound, and for overloads its square too.

    Linear alone favours a move that settles one GPU for good over one that helps two a little;
    the square keeps the hottest GPU from being left for last.
    """
    return np.abs(over) + 5.0 * np.square(np.maximum(over, 0.0))
