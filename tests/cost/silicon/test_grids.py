"""Looking up between measured sizes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cost.silicon.grids import EXTRAPOLATED, INTERPOLATED, MEASURED, Grid, gridded

# One shape, two sizes an axis; (8, 8) was not measured.
SHAPES = np.ones((3, 1))
POINTS = np.array([[2.0, 2.0], [2.0, 8.0], [8.0, 2.0]])
GRID = gridded(SHAPES, POINTS, np.array([1.0, 4.0, 16.0]))


def found(x: float, y: float, shape: float = 1.0, grid: Grid = GRID) -> tuple[float, float]:
    answer = grid.find(np.log([[shape]]), np.log([[x, y]]))
    return float(answer.factor[0]), float(answer.label[0])


def test_a_measured_size_is_what_was_measured() -> None:
    assert found(2, 8) == (pytest.approx(4.0), MEASURED)
    assert found(8, 2) == (pytest.approx(16.0), MEASURED)


def test_between_two_sizes_factors_are_linear_in_logarithms() -> None:
    assert found(2, 4) == (pytest.approx(2.0), INTERPOLATED)
    assert found(4, 2) == (pytest.approx(4.0), INTERPOLATED)


def test_beyond_the_sizes_the_last_factor_holds_and_is_called_extrapolated() -> None:
    assert found(2, 64) == (pytest.approx(4.0), EXTRAPOLATED)
    assert found(1, 1) == (pytest.approx(1.0), EXTRAPOLATED)


def test_a_gap_of_the_table_and_another_shape_are_extrapolated() -> None:
    assert found(8, 8) == (pytest.approx(16.0), EXTRAPOLATED)
    assert found(2, 2, shape=3.0) == (pytest.approx(1.0), EXTRAPOLATED)


def test_the_fastest_of_several_kernels_counts() -> None:
    twice = gridded(np.ones((2, 1)), np.full((2, 2), 2.0), np.array([3.0, 2.0]))
    assert found(2, 2, grid=twice) == (pytest.approx(2.0), MEASURED)


@given(st.floats(0.5, 100), st.floats(0.5, 100))
def test_no_answer_leaves_the_range_of_what_was_measured(x: float, y: float) -> None:
    assert 1.0 - 1e-9 <= found(x, y)[0] <= 16.0 + 1e-9
