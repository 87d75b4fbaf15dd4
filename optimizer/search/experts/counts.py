"""How many copies of each expert: highest averages, plain and with noise.

Which copies exist decides how well they pack. EPLB gives every extra copy to the expert with the
largest load a copy (divisor 0 below); vectors that differ at random from it leave pieces of more
sizes, which fill GPUs with few slots far better.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints

Floats = NDArray[np.float64]


class Recipe(NamedTuple):
    """One way to choose counts."""

    spread: float  # loads are first multiplied by (1 + spread u) / (1 + spread v), u, v uniform
    divisor: float  # the next copy goes to the largest load / (copies + divisor)
    ceiling: float  # no piece above ceiling x the bound, where the slots allow it; 0 is none


EPLB = Recipe(0.0, 0.0, 0.0)
RECIPES = (
    EPLB,
    Recipe(0.0, 0.5, 0.0),
    Recipe(0.0, 1.0, 0.0),
    *(  # for loads of much the same size
        Recipe(spread, divisor, 1.0)
        for spread in (1.0, 2.0)
        for divisor in (0.0, 1.0)
        for _ in range(2)
    ),
    *(  # for loads of all sizes: almost any counts that leave no piece too large
        Recipe(spread, 0.0, ceiling)
        for spread in (16.0, 64.0, 1000.0)
        for ceiling in (1.0, 1.02, 1.04)
        for _ in range(7)
    ),
)


def highest_averages(loads: Floats, floor: Ints, slots: int, divisor: Floats, most: int) -> Ints:
    """Counts [rows, experts] that sum to `slots`: from `floor`, one copy at a time, up to `most`.

    Each goes to the largest load / (copies + divisor) of its row; with divisor 0 and a floor of 1
    this is EPLB's replication and makes the largest piece as small as it can be.
    """
    counts = floor.astype(np.float64)
    row = np.arange(len(loads))
    average = np.where(counts < most, loads / (counts + divisor[:, None]), -1.0)
    left = slots - floor.sum(axis=1)
    while (left > 0).any():
        expert = average.argmax(axis=1)
        counts[row, expert] += left > 0
        copies = counts[row, expert]
        average[row, expert] = np.where(
            copies < most, loads[row, expert] / (copies + divisor), -1.0
        )
        left -= left > 0
    return counts.astype(np.int64)


def count_vectors(
    loads: Floats,
    bound: Floats,
    slots: int,
    most: int,
    recipes: tuple[Recipe, ...],
    rng: np.random.Generator,
) -> Ints:
    """Counts [recipes x layers, experts] of every recipe in every layer, recipes outermost.

    `loads` [layers, experts]; `bound` [layers], a lower bound of the largest GPU load; no expert
    gets above `most` copies.
    """
    noisy, floors, divisors = [], [], []
    for spread, divisor, ceiling in recipes:
        u, v = rng.random((2, *loads.shape)) if spread else np.zeros((2, *loads.shape))
        noisy.append(loads * ((1 + spread * u) / (1 + spread * v)))
        floor = np.ones_like(loads)
        if ceiling:
            pieces = loads / (ceiling * np.where(bound > 0, bound, 1.0)[:, None])
            needed = np.clip(np.ceil(pieces - 1e-9), 1.0, most)
            fits = needed.sum(axis=1) <= slots
            floor[fits] = needed[fits]
        floors.append(floor.astype(np.int64))
        divisors.append(np.full(len(loads), divisor))
    return highest_averages(
        np.concatenate(noisy), np.concatenate(floors), slots, np.concatenate(divisors), most
    )
