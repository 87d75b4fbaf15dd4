"""The steps that are reached with so many GPUs: what a bound must beat to be worth a price.

A layout that takes no fewer GPUs than `top` other layouts, and whose bound is above each of their
steps, is no better than they are under any objective: it is dominated.
"""

from __future__ import annotations

import heapq

import numpy as np

from optimizer.cost.training.layouts import Floats
from optimizer.layout import Ints


class Skyline:
    """The best step of each layout that was priced and keeps every limit, with its GPUs."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._steps: dict[int, tuple[int, float]] = {}  # layout key -> (GPUs, step)

    def add(self, keys: Ints, gpus: Ints, step_s: Floats) -> None:
        """Steps of layouts; the least of each key counts."""
        for key, many, step in zip(keys.tolist(), gpus.tolist(), step_s.tolist(), strict=True):
            if key not in self._steps or step < self._steps[key][1]:
                self._steps[key] = (many, step)

    def best(self) -> float:
        """The least step of all; infinite where there is none."""
        return min((step for _, step in self._steps.values()), default=float("inf"))

    def reach(self, gpus: Ints) -> Floats:
        """The step that `top` layouts of no more GPUs reach (infinite where fewer do) [n]."""
        sizes: list[int] = []
        steps: list[float] = []
        best: list[float] = []  # a heap of the negated least steps
        for many, step in sorted(self._steps.values()):
            if len(best) < self._top:
                heapq.heappush(best, -step)
            else:
                heapq.heappushpop(best, -step)
            if len(best) == self._top:
                sizes.append(many)
                steps.append(-best[0])
        place = np.searchsorted(np.array(sizes, dtype=np.int64), gpus, side="right")
        reached: Floats = np.concatenate([[np.inf], np.array(steps)])[place]
        return reached
