"""Two slots a GPU: brackets that meet, and certificates that prove what they say."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from optimizer.search.experts import place_experts
from optimizer.search.experts.pairs import distinct_pairs
from optimizer.verify.experts import check_expert_placement


def optimum(loads: list[float], slots: int) -> float:
    """Over all count vectors, pairing largest with smallest."""
    best = float("inf")
    for cuts in combinations(range(1, slots), len(loads) - 1):
        edges = (0, *cuts, slots)
        pieces = sorted(
            load / (edges[i + 1] - edges[i])
            for i, load in enumerate(loads)
            for _ in range(edges[i + 1] - edges[i])
        )
        best = min(best, max(pieces[i] + pieces[-1 - i] for i in range(slots // 2)))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_bracket_closes_on_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = np.round(np.exp(np.random.default_rng(seed).normal(6.0, 1.0, (2, 9))))
    monkeypatch.setattr("optimizer.search.experts.place.enumerable", lambda *_: False)
    placement = place_experts(loads, 7, 14, prove=True)
    expected = [optimum(row, 14) for row in loads.tolist()]
    assert placement.largest == pytest.approx(expected, rel=1e-4)
    assert placement.bounds == pytest.approx(expected, rel=1e-4)
    assert (placement.bounds <= np.array(expected) * (1 + 1e-9)).all()


def test_proofs_hold_under_the_second_opinion_and_say_who_vouches() -> None:
    loads = np.round(np.exp(np.random.default_rng(3).normal(6.0, 0.8, (4, 40))))
    placement = place_experts(loads, 26, 52, prove=True)
    plain = place_experts(loads, 26, 52)
    assert check_expert_placement(json.loads(json.dumps(placement.document()))) == []
    assert (placement.gaps < 1e-3).all()
    assert (placement.bounds >= plain.bounds).all()
    assert (placement.largest <= plain.largest).all()
    for certificate in placement.certificates:
        if certificate.kind == "solver":
            assert certificate.data["solver"] == "CP-SAT"


def test_proof_and_placement_repeat() -> None:
    loads = np.round(np.exp(np.random.default_rng(8).normal(6.0, 0.8, (1, 30))))
    first, second = (place_experts(loads, 20, 40, prove=True).document() for _ in range(2))
    assert first == second


def test_distinct_experts_are_kept_apart_in_proven_placements() -> None:
    loads = np.round(np.exp(np.random.default_rng(4).normal(6.0, 1.2, (3, 24))))
    placement = place_experts(loads, 20, 40, prove=True, distinct=True)
    on_gpus = placement.physical_to_logical_map.reshape(-1, 2)
    assert (on_gpus[:, 0] != on_gpus[:, 1]).all()
    assert (placement.largest >= placement.bounds * (1 - 1e-9)).all()


def test_pairs_of_different_experts_are_found_where_there_are_any() -> None:
    # pieces 4, 4 (expert 0), 3, 1 (experts 1, 2): 4 + 4 is barred, 4 + 3 and 4 + 1 remain
    piece = np.array([4.0, 3.0, 1.0])
    pairs = np.array([[0, 0], [1, 2]])
    found = distinct_pairs(piece, pairs, limit=7.5)
    assert found is not None
    assert sorted(map(sorted, found.tolist())) == [[0, 1], [0, 2]]
    assert distinct_pairs(piece, pairs, limit=7.0) is None
