"""Experts on slots: hand-computed placements, brute force, and what no placement may break."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from optimizer.errors import SpecError
from optimizer.search.experts import ExpertPlacement, place_experts
from optimizer.search.experts.bounds import mean_bounds, share_bounds, size_bounds, values
from optimizer.search.experts.pack import gpu_loads
from optimizer.search.experts.solve import eplb

Floats = NDArray[np.float64]


def lognormal(layers: int, experts: int, spread: float, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return np.round(np.exp(rng.normal(5.0, spread, (layers, experts))))


def least_largest(loads: list[float], gpus: int, slots: int, distinct: bool = False) -> float:
    """The optimum by trying every map of experts to slots."""
    experts, per_gpu = range(len(loads)), slots // gpus
    best = float("inf")
    for placed in product(experts, repeat=slots):
        on_gpus = [placed[at : at + per_gpu] for at in range(0, slots, per_gpu)]
        if len(set(placed)) < len(loads) or (
            distinct and any(len(set(one)) < per_gpu for one in on_gpus)
        ):
            continue
        best = min(best, max(sum(loads[e] / placed.count(e) for e in one) for one in on_gpus))
    return best


def holds_together(placement: ExpertPlacement) -> None:
    layers = len(placement.loads)
    placed = placement.physical_to_logical_map
    assert placed.dtype == np.int64
    assert (placement.counts >= 1).all()
    assert (placement.counts.sum(axis=1) == placed.shape[1]).all()
    assert np.allclose(placement.gpu_loads.sum(axis=1), placement.loads.sum(axis=1))
    assert (placement.largest >= placement.bounds * (1 - 1e-12)).all()
    if placement.distinct:
        assert all(
            len(set(gpu)) == len(gpu)
            for gpu in placed.reshape(layers * placement.gpus, -1).tolist()
        )


def test_a_hot_expert_gets_the_spare_slots() -> None:
    # 40 over two GPUs is 20 each, and 10 + 5 + 5 more makes 30 a GPU: copies of 40 on both.
    placement = place_experts(np.array([[40.0, 10.0, 5.0, 5.0]]), gpus=2, slots=6)
    assert placement.counts.tolist() == [[2, 2, 1, 1]] or placement.counts[0, 0] == 3
    assert placement.gpu_loads.tolist() == [[30.0, 30.0]]
    assert placement.gaps.tolist() == [0.0]
    assert placement.imbalance.tolist() == [1.0]


def test_one_slot_a_gpu_is_bound_by_the_largest_share() -> None:
    # three slots for loads 6 and 1: the least largest piece is 6 / 2
    placement = place_experts(np.array([[6.0, 1.0]]), gpus=3, slots=3)
    assert placement.largest.tolist() == [3.0]
    (certificate,) = placement.certificates
    assert (certificate.kind, certificate.data) == ("share", {"expert": 0, "copies": 2})


def test_single_copies_are_bound_by_what_must_lie_beside_the_largest() -> None:
    # 9 lies beside 1 at best; the mean is only 8, and so is the share bound 9 less telling
    loads = np.array([[9.0, 3.0, 3.0, 1.0]])
    assert values(mean_bounds(loads, 2)).tolist() == [8.0]
    assert values(share_bounds(loads, 4)).tolist() == [9.0]
    (sizes,) = size_bounds(loads, 2)
    assert (sizes.value, sizes.data) == (10.0, {"pieces": 1})
    assert place_experts(loads, gpus=2, slots=4).gaps.tolist() == [0.0]


def test_two_large_experts_of_three_share_a_gpu() -> None:
    # 5, 5, 5 on two GPUs of three slots: two of them meet, with the smallest beside them
    loads = np.array([[5.0, 5.0, 5.0, 2.0, 1.0, 0.0]])
    assert values(mean_bounds(loads, 2)).tolist() == [9.0]
    (sizes,) = size_bounds(loads, 2)
    assert (sizes.value, sizes.data) == (10.0, {"pieces": 3})
    assert place_experts(loads, gpus=2, slots=6).gaps.tolist() == [0.0]


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize(("gpus", "slots"), [(2, 4), (3, 3), (2, 6), (3, 6), (1, 4)])
def test_small_cases_are_solved_as_brute_force_solves_them(
    gpus: int, slots: int, distinct: bool
) -> None:
    if distinct and slots // gpus > 3:
        return  # three experts cannot fill such a GPU once each
    loads = lognormal(8, 3, 1.0, seed=slots + gpus)
    placement = place_experts(loads, gpus, slots, distinct=distinct)
    holds_together(placement)
    optimum = [least_largest(row, gpus, slots, distinct) for row in loads.tolist()]
    assert placement.largest == pytest.approx(optimum)
    assert (placement.bounds <= np.array(optimum) * (1 + 1e-12)).all()


def test_four_experts_on_two_gpus_match_brute_force_and_their_bounds_hold() -> None:
    loads = lognormal(12, 4, 1.2, seed=7)
    placement = place_experts(loads, gpus=2, slots=6)
    optimum = np.array([least_largest(row, 2, 6) for row in loads.tolist()])
    assert placement.largest == pytest.approx(optimum)
    assert (placement.bounds <= optimum * (1 + 1e-12)).all()


def test_single_copies_match_brute_force() -> None:
    loads = lognormal(10, 6, 0.8, seed=3)
    placement = place_experts(loads, gpus=2, slots=6)
    for row, largest, bound in zip(
        loads.tolist(), placement.largest, placement.bounds, strict=True
    ):
        optimum = min(max(sum(one[:3]), sum(one[3:])) for one in permutations(row))
        assert largest == pytest.approx(optimum)
        assert bound <= optimum * (1 + 1e-12)


def test_mixtral_is_proven_optimal_in_every_layer() -> None:
    placement = place_experts(lognormal(32, 8, 1.0, seed=1), gpus=8, slots=16)
    assert placement.gaps.tolist() == [0.0] * 32
    assert {one.kind for one in placement.certificates} <= {"enumeration", "mean", "share"}


def test_enumeration_says_what_brute_force_says() -> None:
    loads = lognormal(6, 3, 1.0, seed=11)  # two slots a GPU: every count vector is tried
    placement = place_experts(loads, gpus=3, slots=6)
    optimum = [least_largest(row, 3, 6) for row in loads.tolist()]
    assert placement.bounds == pytest.approx(optimum)


@pytest.mark.parametrize("distinct", [False, True])
@settings(max_examples=25)
@given(
    data=st.data(),
    experts=st.integers(1, 12),
    gpus=st.integers(1, 6),
    per_gpu=st.integers(1, 5),
)
def test_any_question_that_has_an_answer_gets_one_that_holds_together(
    distinct: bool, data: st.DataObject, experts: int, gpus: int, per_gpu: int
) -> None:
    slots = gpus * per_gpu
    loads = data.draw(
        st.lists(st.lists(st.integers(0, 10**6), min_size=experts, max_size=experts), min_size=1)
    )
    question = np.array(loads, dtype=float)
    if slots < experts or (distinct and per_gpu > experts):
        with pytest.raises(SpecError):
            place_experts(question, gpus, slots, distinct=distinct)
        return
    placement = place_experts(question, gpus, slots, distinct=distinct)
    holds_together(placement)
    if not distinct:
        rule = gpu_loads(placement.loads, eplb(placement.loads, slots, gpus), gpus).max(axis=1)
        assert (placement.largest <= rule * (1 + 1e-12)).all()


def test_the_same_loads_give_the_same_map() -> None:
    loads = lognormal(10, 32, 1.0, seed=2)
    first, second = (place_experts(loads, gpus=16, slots=48, nodes=2) for _ in range(2))
    assert (first.physical_to_logical_map == second.physical_to_logical_map).all()


@pytest.mark.parametrize("gpus", [1, 2, 5])
def test_a_single_expert_fills_every_slot(gpus: int) -> None:
    placement = place_experts(np.array([[7.0]]), gpus, 2 * gpus)
    assert not placement.physical_to_logical_map.any()
    assert placement.gaps.tolist() == [0.0]


def test_loads_of_zero_are_placed_without_a_gap() -> None:
    placement = place_experts(np.zeros((2, 8)), gpus=4, slots=12)
    holds_together(placement)
    assert placement.gaps.tolist() == [0.0, 0.0]
    assert placement.imbalance.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slots": 7}, "7 slots cannot hold 8 experts"),
        ({"slots": 18}, "18 do not divide over 4 GPUs; try 20"),
        ({"nodes": 3}, "4 GPUs do not divide over 3 nodes"),
        ({"nodes": 2, "groups": 3}, "groups must divide 8 experts"),
        ({"gpus": 0}, "at least 1"),
        ({"slots": 10**9}, "more than fit here"),
        ({"slots": 40, "distinct": True}, "two copies of an expert on one GPU"),
        ({"max_moves": 4}, "needs a current placement"),
        ({"current": np.zeros((2, 12), dtype=np.int64)}, "layer 0 lacks an expert"),
        ({"current": np.zeros((2, 16), dtype=np.int64)}, "must be 2 layers x 12 slots"),
        ({"loads": np.array([[1.0, np.nan]])}, "finite"),
        ({"loads": np.array([[1.0, -1.0]])}, "at least 0"),
        ({"loads": np.ones(8)}, "layers x experts"),
    ],
)
def test_a_question_without_an_answer_says_why(change: dict[str, object], says: str) -> None:
    question = {"loads": np.ones((2, 8)), "gpus": 4, "slots": 12, **change}
    with pytest.raises(SpecError, match=says):
        place_experts(**question)
