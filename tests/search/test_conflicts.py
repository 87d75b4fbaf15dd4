"""Conflicts and relaxations against brute force over all subsets of limits, and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.cost.candidates import Candidates
from optimizer.layout import Layouts
from optimizer.search.conflicts import conflicts, minimal, minimal_hitting_sets
from optimizer.search.relaxing import COSTS, cost_of, relaxations

repeatable = settings(deadline=None, derandomize=True, max_examples=200)

NAMES = ("memory", "ttft", "tpot", "context", "GPUs")


def candidates_of(needs: list[list[float]], limits: list[float]) -> Candidates:
    """Candidates with nothing but needs; row i is the layout TP(i + 1)."""
    rows = len(needs)
    ones, zeros = np.ones(rows, dtype=np.int64), np.zeros(rows)
    table = np.array(needs, dtype=np.float64).reshape(rows, len(limits))
    names = NAMES[: len(limits)]
    return Candidates(
        pool=ones - 1,
        precision=ones - 1,
        layouts=Layouts(ones, np.arange(1, rows + 1), *[ones] * 5, ones - 1),
        sequences=ones,
        chunk=ones,
        micro_batches=ones,
        replicas_min=ones,
        replicas_max=ones,
        memory_bytes=zeros,
        concurrency=zeros,
        tokens_per_s=zeros,
        ttft_s=zeros,
        tpot_s=zeros,
        latency_s=zeros,
        needs={name: table[:, column] for column, name in enumerate(names)},
        limits={name: np.full(rows, limits[column]) for column, name in enumerate(names)},
    )


@st.composite
def small_instances(draw: st.DrawFn) -> tuple[list[list[float]], list[float]]:
    """Up to seven candidates and five limits; a need of 1 to 9 against a limit of 3 to 7."""
    columns = draw(st.integers(1, len(NAMES)))
    limits = draw(st.lists(st.integers(3, 7), min_size=columns, max_size=columns))
    row = st.lists(st.integers(1, 9), min_size=columns, max_size=columns)
    needs = draw(st.lists(row, min_size=1, max_size=7))
    return [[float(need) for need in each] for each in needs], [float(limit) for limit in limits]


def keeps(row: list[float], limits: list[float], chosen: tuple[int, ...]) -> bool:
    return all(row[column] <= limits[column] for column in chosen)


def minimal_conflicts(needs: list[list[float]], limits: list[float]) -> set[tuple[int, ...]]:
    """Every subset of limits that no row keeps and of which every smaller subset some row keeps."""
    subsets = [
        subset
        for size in range(len(limits) + 1)
        for subset in combinations(range(len(limits)), size)
    ]
    broken = {s for s in subsets if not any(keeps(row, limits, s) for row in needs)}
    return {s for s in broken if not any(set(other) < set(s) for other in broken)}


@repeatable
@given(small_instances())
def test_conflicts_are_those_of_brute_force_over_all_subsets(
    instance: tuple[list[list[float]], list[float]],
) -> None:
    needs, limits = instance
    found = conflicts(candidates_of(needs, limits))
    expected = minimal_conflicts(needs, limits)
    named = [tuple(each.limit for each in conflict.limits) for conflict in found]
    assert set(named) == {tuple(NAMES[column] for column in subset) for subset in expected}
    assert len(named) == len(expected)


@repeatable
@given(small_instances())
def test_a_conflict_gives_the_least_need_where_its_other_limits_hold(
    instance: tuple[list[list[float]], list[float]],
) -> None:
    needs, limits = instance
    for conflict in conflicts(candidates_of(needs, limits)):
        columns = [NAMES.index(each.limit) for each in conflict.limits]
        for column, shortfall in zip(columns, conflict.limits, strict=True):
            others = tuple(other for other in columns if other != column)
            least = min(row[column] for row in needs if keeps(row, limits, others))
            assert shortfall.need == least > limits[column] == shortfall.there


@repeatable
@given(st.lists(st.integers(0, 63), max_size=8))
def test_hitting_sets_are_those_of_brute_force(masks: list[int]) -> None:
    hitting = [chosen for chosen in range(64) if all(chosen & mask for mask in masks)]
    assert minimal_hitting_sets(masks) == minimal(hitting)


@repeatable
@given(st.lists(st.integers(1, 63), min_size=1, max_size=8))
def test_hitting_the_hitting_sets_gives_the_minimal_masks_back(masks: list[int]) -> None:
    assert minimal_hitting_sets(minimal_hitting_sets(masks)) == minimal(masks)


def test_two_conflicts_by_hand() -> None:
    # TP1 lacks memory, TP2 is late and needs a GPU too many, TP3 breaks all three.
    found = conflicts(
        candidates_of(
            [[90e9, 1.0, 0.02, 100, 8], [70e9, 1.0, 0.034, 100, 9], [99e9, 1.0, 0.05, 100, 16]],
            [80e9, 2.0, 0.03, 200, 8],
        )
    )
    assert [str(conflict) for conflict in found] == [
        "memory: at least 83.8 GiB needed (TP1), 74.5 GiB there; "
        "tpot: at least 34 ms needed (TP2), 30 ms there",
        "memory: at least 83.8 GiB needed (TP1), 74.5 GiB there; "
        "GPUs: at least 9 needed (TP2), 8 there",
    ]


def test_one_feasible_candidate_ends_every_conflict() -> None:
    assert conflicts(candidates_of([[9.0, 9.0], [1.0, 1.0]], [2.0, 2.0])) == ()


def test_no_candidates_are_no_conflict_of_limits() -> None:
    assert conflicts(candidates_of([], [2.0, 2.0])) == ()


def test_a_limit_of_nothing_is_named_with_its_need() -> None:
    (conflict,) = conflicts(candidates_of([[4.0]], [0.0]))
    assert (conflict.limits[0].need, conflict.limits[0].there) == (4.0, 0.0)


@repeatable
@given(small_instances())
def test_relaxations_are_the_cheapest_of_each_set_of_movable_limits(
    instance: tuple[list[list[float]], list[float]],
) -> None:
    needs, limits = instance
    cheapest: dict[tuple[str, ...], float] = {}
    for row in needs:
        broken = [column for column in range(len(limits)) if row[column] > limits[column]]
        names = tuple(NAMES[column] for column in broken)
        if names and all(name in COSTS for name in names):
            cost = sum(cost_of(NAMES[c], row[c] / limits[c]) for c in broken)
            cheapest[names] = min(cost, cheapest.get(names, np.inf))
    found = relaxations(candidates_of(needs, limits))
    assert {tuple(each.needs): each.cost for each in found} == pytest.approx(cheapest)
    for each in found:
        for name, need in each.needs.items():
            assert need == needs[each.row][NAMES.index(name)]


def test_memory_and_context_are_never_argued_away() -> None:
    found = relaxations(candidates_of([[9.0, 1.0, 9.0], [1.0, 1.0, 4.0]], [2.0, 2.0, 2.0]))
    assert [dict(each.needs) for each in found] == [{"tpot": 4.0}]
    assert found[0].cost == COSTS["tpot"].base + COSTS["tpot"].per_octave


def test_every_cost_says_why() -> None:
    assert all(cost.why and cost.base > 0 and cost.per_octave >= 0 for cost in COSTS.values())
