"""The Pareto front against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.search.pareto import nondominated, winning_ranges


def by_loops(points: list[tuple[float, float, int]]) -> set[tuple[float, float, int]]:
    return {
        one
        for one in points
        if not any(
            other != one and other[0] >= one[0] and other[1] <= one[1] and other[2] <= one[2]
            for other in points
        )
    }


@pytest.mark.parametrize("seed", range(40))
def test_the_front_is_what_plain_loops_find(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 300))
    rate = random.integers(1, 40, size).astype(float)
    latency = random.integers(1, 40, size).astype(float)
    gpus = random.integers(1, 12, size)
    kept = nondominated(rate, latency, gpus)
    points = list(zip(rate.tolist(), latency.tolist(), gpus.tolist(), strict=True))
    found = [points[index] for index in kept]
    assert len(found) == len(set(found))
    assert set(found) == by_loops(points)
    assert list(latency[kept]) == sorted(latency[kept])


def test_each_latency_limit_has_one_winner() -> None:
    starts, ends = winning_ranges(np.array([5.0, 3.0, 8.0]), np.array([1.0, 2.0, 4.0]))
    assert list(zip(starts, ends, strict=True)) == [(1.0, 4.0), (0.0, 0.0), (4.0, np.inf)]
