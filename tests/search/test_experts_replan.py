"""Placements that start from one that is there: few slots move, and never for the worse."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.errors import SpecError
from optimizer.search.experts import place_experts
from optimizer.search.experts.moves import (
    Rules,
    Scene,
    begin,
    recount_costs,
    swap_costs,
    transpose,
)
from optimizer.search.experts.pack import gpu_loads

Floats = NDArray[np.float64]
LOADS = np.round(np.exp(np.random.default_rng(5).normal(6.0, 1.0, (8, 32))))
CURRENT = place_experts(LOADS, 8, 40).physical_to_logical_map
LATER = LOADS * np.random.default_rng(6).uniform(0.8, 1.2, LOADS.shape)


@pytest.mark.parametrize("max_moves", [0, 1, 2, 5, 12, 40])
def test_no_more_slots_move_than_may(max_moves: int) -> None:
    placement = place_experts(LATER, 8, 40, current=CURRENT, max_moves=max_moves)
    assert placement.moves is not None
    assert placement.moves.max() <= max_moves
    stay = gpu_loads(LATER, CURRENT, 8).max(axis=1)
    assert (placement.largest <= stay * (1 + 1e-12)).all()
    assert (placement.counts >= 1).all()


def test_more_moves_help_and_a_few_do_most_of_it() -> None:
    gaps = [
        place_experts(LATER, 8, 40, current=CURRENT, max_moves=moves).gaps.mean()
        for moves in (0, 4, 16)
    ]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


def test_what_is_balanced_stays_where_it_is() -> None:
    loads = np.array([[4.0, 4.0, 2.0, 2.0]])
    current = np.array([[0, 2, 1, 3]])
    placement = place_experts(loads, 2, 4, current=current, max_moves=4)
    assert placement.moves is not None
    assert placement.moves.tolist() == [0]


def test_one_swap_is_found_when_one_swap_is_enough() -> None:
    loads = np.array([[6.0, 5.0, 2.0, 1.0, 3.0, 3.0]])
    current = np.array([[0, 1, 2, 3, 4, 5]])  # 6 + 5 + 2 against 1 + 3 + 3
    placement = place_experts(loads, 2, 6, current=current, max_moves=2)
    assert placement.largest.tolist() == [10.0]  # 5 or 2 against 3 or 1, and 10 is the mean
    assert placement.moves is not None
    assert placement.moves.tolist() == [2]


def test_distinct_copies_stay_distinct_while_slots_move() -> None:
    current = place_experts(LOADS, 8, 40, distinct=True).physical_to_logical_map
    later = place_experts(LATER, 8, 40, current=current, max_moves=10, distinct=True)
    on_gpus = later.physical_to_logical_map.reshape(-1, 5).tolist()
    assert all(len(set(gpu)) == 5 for gpu in on_gpus)


def test_a_current_placement_with_doubles_is_refused_where_there_may_be_none() -> None:
    current = CURRENT.copy()
    current[0, :5] = current[0, 0]
    with pytest.raises(SpecError, match=r"lacks an expert|twice on a GPU"):
        place_experts(LATER, 8, 40, current=current, distinct=True)


@pytest.mark.parametrize("seed", range(5))
def test_every_move_costs_what_it_is_priced_at(seed: int) -> None:
    """Swaps and changes of counts against the loads derived anew, on small random placements."""
    rng = np.random.default_rng(seed)
    gpus, per_gpu, experts = 3, 3, 5
    slots = gpus * per_gpu
    loads = rng.uniform(1, 10, (1, experts))
    placed = np.concatenate([np.arange(experts), rng.integers(0, experts, slots - experts)])
    placed = rng.permutation(placed)[None]
    state = begin(loads, placed, placed, np.ones(1), gpus)
    pieces = state.pieces(gpus)
    over = pieces.sum(axis=1) - 6.0
    gpu, slot = np.array([seed % gpus]), np.array([seed % gpus + gpus * (seed % per_gpu)])
    scene = Scene(np.arange(1), pieces, over[:, None, :], gpu, slot, state.placed[[0], slot])

    def penalty(over: Floats) -> Floats:
        return np.abs(over) + np.square(np.maximum(over, 0.0))

    def total(placed: NDArray[np.int64]) -> float:
        by_gpu = gpu_loads(loads, transpose(placed[None], -1, gpus), gpus)
        return float(penalty(by_gpu - 6.0).sum())

    before, rules, checked = total(state.placed[0]), Rules(gpus), 0
    here, expert = int(slot[0]), int(scene.expert[0])
    for there, cost in enumerate(swap_costs(state, scene, rules, penalty)[0]):
        after = state.placed[0].copy()
        after[[here, there]] = after[[there, here]]
        if cost < 1e8:
            assert total(after) - before == pytest.approx(cost)
            checked += 1
    for column, cost in enumerate(recount_costs(state, scene, rules, penalty)[0]):
        target, new = (column, expert) if column < slots else (here, column - slots)
        after = state.placed[0].copy()
        old, after[target] = int(after[target]), new
        both = [
            {old, new} <= set(state.placed[0].reshape(per_gpu, gpus)[:, g]) for g in range(gpus)
        ]
        both[target % gpus] = False  # only GPUs whose slots stay are misjudged, if they hold both
        if cost < 1e8 and not any(both):
            assert total(after) - before == pytest.approx(cost)
            checked += 1
    assert checked > 3
