"""Ways to serve a role as columns: those that stay are those that no other beats."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.search.fleet.vectors import _stairs, _unbeaten, _Uses


def uses_of(random: np.random.Generator, many: int, rows: int) -> _Uses:
    """Uses of one pool with small whole rooms and rates, so that many are equal."""
    room = np.concatenate([random.integers(0, 6, (many, rows)), np.zeros((1, rows), dtype=int)])
    rates = np.append(random.integers(1, 5, many), 0.0)
    kinds = np.append(random.integers(0, 3, many), -1)
    one, none = np.ones(many, dtype=int), np.zeros(many + 1)
    return _Uses((), one, one, room, rates, kinds, none, none, none)


def kept_by_definition(
    uses: list[_Uses], ways: np.ndarray, wanted: float, layers: int
) -> set[tuple[int, ...]]:
    figures, kinds = [], []
    for way in ways.tolist():
        room = [int(size) for own, use in zip(uses, way, strict=True) for size in own.room[use]]
        rate = sum(own.rates[use] for own, use in zip(uses, way, strict=True))
        figures.append((*room, -min(rate, wanted)))
        kinds.append(tuple(int(own.kinds[use]) for own, use in zip(uses, way, strict=True)))
    order = sorted(
        range(len(ways)), key=lambda row: (sum(figures[row][:-1]), figures[row][-1], row)
    )
    kept = set()
    for place, row in enumerate(order):
        beaten_by = {
            kinds[other]
            for before, other in enumerate(order)
            if all(a <= b for a, b in zip(figures[other], figures[row], strict=True))
            and (figures[other] != figures[row] or before < place)
        }
        if kinds[row] not in beaten_by and len(beaten_by) < layers:
            kept.add(tuple(ways[row].tolist()))
    return kept


@pytest.mark.parametrize("wanted", [0.0, 6.0])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_ways_that_stay_are_those_that_no_other_beats(
    rows: int, layers: int, wanted: float
) -> None:
    random = np.random.default_rng(7)
    for _ in range(20):
        uses = [uses_of(random, 6, rows), uses_of(random, 5, 1)]
        ways = np.array([[a, b] for a in range(-1, 6) for b in range(-1, 5) if a + b > -2])
        found = _unbeaten(uses, ways, wanted, layers)
        assert len(set(map(tuple, found.tolist()))) == len(found)
        assert set(map(tuple, found.tolist())) == kept_by_definition(uses, ways, wanted, layers)


def test_stairs_go_down_and_keep_the_first_of_equals() -> None:
    first = np.array([2.0, 1.0, 1.0, 3.0, 2.0, 1.0])
    second = np.array([1.0, 2.0, 2.0, 0.0, 1.0, 3.0])
    assert _stairs(first, second).tolist() == [0, 1, 3]
