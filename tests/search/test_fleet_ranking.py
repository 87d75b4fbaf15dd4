"""One demand alone: the ranking of all ways to serve it against every combination."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any

import numpy as np
import pytest
from test_fleet import cluster_of, every_way, fits, rate

from optimizer.layout import ParallelLayout
from optimizer.search.fleet import (
    Ask,
    FleetChoice,
    Offer,
    rank_alone,
    rooms_of,
    vectors_of,
)
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Mode, Role

MODES: dict[Mode, tuple[Role, ...]] = {
    "aggregated": ("serving",),
    "disaggregated": ("prefill", "decode"),
}
Way = dict[Offer, int]


def random_instance(seed: int, pools: int) -> tuple[Cluster, dict[Role, list[Offer]], float]:
    """Offers of layouts of their own for each role, on pools of one to three small nodes."""
    random = np.random.default_rng(seed)
    nodes = tuple(
        tuple(int(size) for size in random.integers(2, 5, random.integers(1, 4)))
        for _ in range(pools)
    )
    sizes = (1, 2, 4) if seed % 2 else (1, 2, 3)
    offers: dict[Role, list[Offer]] = {}
    for role in ("serving", "prefill", "decode"):
        own: list[Offer] = []
        for number in range(int(random.integers(2, 5))):
            pieces = ((int(random.choice(sizes)), 1),)
            slots = float(random.integers(6, 50))
            pool = int(random.integers(pools))
            own.append(Offer(pool, ParallelLayout(dp=number + 1), pieces, slots, 4.0))
        offers[role] = own
    return cluster_of(*nodes), offers, float(random.integers(2, 9))


def structure(mode: Mode, ways: tuple[Way, ...]) -> tuple[Any, ...]:
    return (mode, *(frozenset((pick.pool, pick.layout) for pick in way) for way in ways))


def kind(mode: Mode, ways: tuple[Way, ...]) -> tuple[Any, ...]:
    return (mode, *(frozenset(pick.pool for pick in way) for way in ways))


def every_value(
    cluster: Cluster, offers: dict[Role, list[Offer]], wanted: float, objective: str, told: Any
) -> dict[tuple[Any, ...], float]:
    """The best value of each structure or kind, by trying every combination in every place."""
    best: dict[tuple[Any, ...], float] = defaultdict(lambda: float("inf"))
    for mode, roles in MODES.items():
        for ways in product(*(every_way(offers[role], wanted, 2) for role in roles)):
            served = min(rate(way) for way in ways)
            value = -min(wanted, served)
            if objective == "gpus":
                if served < wanted * (1 - 1e-9):
                    continue
                value = float(sum(pick.gpus * many for way in ways for pick, many in way.items()))
            if value >= best[told(mode, ways)]:
                continue
            pieces: dict[int, list[int]] = defaultdict(list)
            for way in ways:
                for pick, many in way.items():
                    pieces[pick.pool] += [size for size, each in pick.pieces] * many
            if all(
                fits(sorted(cluster.pools[pool].sizes), sorted(own, reverse=True))
                for pool, own in pieces.items()
            ):
                best[told(mode, ways)] = value
    return {key: value for key, value in best.items() if np.isfinite(value)}


def ranked(
    cluster: Cluster, offers: dict[Role, list[Offer]], wanted: float, objective: Any, each: int
) -> list[FleetChoice]:
    rooms = rooms_of(cluster, [offer for own in offers.values() for offer in own])
    vectors = {
        role: vectors_of(own, rooms, wanted, 2, objective == "served", each)
        for role, own in offers.items()
    }
    modes = {mode: {role: vectors[role] for role in roles} for mode, roles in MODES.items()}
    ask = Ask("d", wanted, 1.0, modes)
    return rank_alone(ask, rooms, [0.0] * len(cluster.pools), objective, 1000, each)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("objective", ["gpus", "served"])
def test_the_best_of_every_kind_is_brute_forces(seed: int, objective: str) -> None:
    cluster, offers, wanted = random_instance(seed, 2)
    expected = every_value(cluster, offers, wanted, objective, kind)
    found = ranked(cluster, offers, wanted, objective, 1)
    values = [choice.value / choice.scale for choice in found]
    assert values == sorted(values)
    if not expected:
        assert not found
        return
    assert values[0] == pytest.approx(min(expected.values()), rel=1e-5)
    assert (found[0].status, found[0].bound) == ("OPTIMAL", found[0].value)
    by_kind = {}
    for choice in found:
        assert choice.chosen[0] is not None
        mode, roles = choice.chosen[0]
        pools = (mode, *(frozenset(use.offer.pool for use in own) for own in roles.values()))
        by_kind[pools] = choice.value / choice.scale
        assert by_kind[pools] >= expected[pools] - 1e-5 * abs(expected[pools])
    for (mode, *pools), value in expected.items():  # unless fewer pools do as well
        fewer = [
            other
            for (own, *there), other in by_kind.items()
            if own == mode and all(a <= b for a, b in zip(there, pools, strict=True))
        ]
        assert min(fewer) <= value + 1e-5 * abs(value)
    for mode in MODES:
        best = [value for key, value in expected.items() if key[0] == mode]
        own = [each for each in found if each.chosen[0] and each.chosen[0][0] == mode]
        assert bool(best) == bool(own)
        if best:
            assert own[0].value / own[0].scale == pytest.approx(min(best), rel=1e-5)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("objective", ["gpus", "served"])
def test_the_best_three_of_a_mode_are_brute_forces(seed: int, objective: str) -> None:
    cluster, offers, wanted = random_instance(seed, 1)
    expected = every_value(cluster, offers, wanted, objective, structure)
    found = ranked(cluster, offers, wanted, objective, 3)
    for mode in MODES:
        best = sorted(value for key, value in expected.items() if key[0] == mode)[:3]
        own = [
            each.value / each.scale
            for each in found
            if each.chosen[0] and each.chosen[0][0] == mode
        ]
        assert own == pytest.approx(best, rel=1e-5)
