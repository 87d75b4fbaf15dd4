"""Fleets: the solver against every combination, offers, room, and GPU names."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest

from optimizer.layout import ParallelLayout
from optimizer.search.fleet import (
    Ask,
    Offer,
    Use,
    Vector,
    choose_fleet,
    name_gpus,
    packable,
    rooms_of,
    served_by,
    vectors_of,
)
from optimizer.search.fleet.offers import fitting, pieces_of
from optimizer.search.fleet.room import MAX_CUTS
from optimizer.spec.cluster import Cluster, Gpu, Link, Pool

LINK = Link(bandwidth="100 GB/s", latency="1 us")


def cluster_of(*pools: tuple[int, ...]) -> Cluster:
    gpu = Gpu(memory="80 GB", memory_bandwidth="2 TB/s", flops={"bf16": "300 TFLOP/s"})
    return Cluster(
        pools=tuple(
            Pool(
                name=f"pool{index}",
                gpu=gpu,
                nodes=len(sizes),
                node_sizes=sizes,
                intra_node=LINK,
                inter_node=LINK,
            )
            for index, sizes in enumerate(pools)
        )
    )


def offer(pool: int, slots: float, *pieces: tuple[int, int]) -> Offer:
    """A replica that holds so many requests of 4 s each."""
    return Offer(pool, ParallelLayout(), tuple(pieces), slots, 4.0)


def ask(name: str, wanted: float, vectors: list[Vector]) -> Ask:
    return Ask(name, wanted, 1.0, {"aggregated": {"serving": vectors}})


def fits(domains: list[int], pieces: list[int]) -> bool:
    """Whether pieces fit domains, by trying every place for the largest first."""
    if not pieces:
        return True
    tried = set()
    for index, room in enumerate(domains):
        if room >= pieces[0] and room not in tried:
            tried.add(room)
            rest = [*domains[:index], room - pieces[0], *domains[index + 1 :]]
            if fits(rest, pieces[1:]):
                return True
    return False


def every_way(offers: list[Offer], wanted: float, max_pools: int) -> list[dict[Offer, int]]:
    pools = sorted({each.pool for each in offers})
    found = []
    for many in range(1, max_pools + 1):
        for chosen in combinations(pools, many):
            own = [[each for each in offers if each.pool == pool] for pool in chosen]
            for picks in product(*own):
                tops = [pick.replicas_for(wanted) for pick in picks]
                for counts in product(*(range(1, top + 1) for top in tops)):
                    found.append(dict(zip(picks, counts, strict=True)))
    return found


def rate(way: dict[Offer, int]) -> float:
    return sum(pick.requests_per_s(many) for pick, many in way.items())


def random_instance(seed: int) -> tuple[Cluster, list[list[Offer]], list[float]]:
    random = np.random.default_rng(seed)
    pools = tuple(
        tuple(int(size) for size in random.integers(2, 7, random.integers(1, 4)))
        for _ in range(int(random.integers(1, 3)))
    )
    sizes = (1, 2, 4) if seed % 2 else (1, 2, 3, 5)
    demands, wanted = [], []
    for _ in range(int(random.integers(1, 4))):
        own = {}
        for _ in range(int(random.integers(1, 5))):
            pool = int(random.integers(len(pools)))
            size = int(random.choice(sizes))
            pieces = ((size, int(random.integers(1, 3))),)
            own[pool, pieces] = offer(pool, float(random.integers(6, 50)), *pieces)
        demands.append(list(own.values()))
        wanted.append(float(random.integers(2, 12)))
    return cluster_of(*pools), demands, wanted


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("objective", ["gpus", "money", "served"])
def test_the_solver_equals_brute_force(seed: int, objective: Any) -> None:
    cluster, demands, wanted = random_instance(seed)
    rooms = rooms_of(cluster, [each for own in demands for each in own])
    prices = [2.0, 3.0][: len(cluster.pools)]
    partial = objective == "served"
    asks = [
        Ask(
            f"d{index}",
            want,
            1.0,
            {"aggregated": {"serving": vectors_of(own, rooms, want, 2, partial)}},
        )
        for index, (own, want) in enumerate(zip(demands, wanted, strict=True))
    ]
    found = choose_fleet(asks, rooms, prices, objective)

    ways: list[list[dict[Offer, int]]] = []
    for own, want in zip(demands, wanted, strict=True):
        all_ways = every_way(own, want, 2)
        ways.append(
            [{}, *all_ways]
            if partial
            else [way for way in all_ways if rate(way) >= want * (1 - 1e-9)]
        )
    best = None
    for combination in product(*ways):
        by_pool: dict[int, list[int]] = {}
        for way in combination:
            for pick, many in way.items():
                pieces = [size for size, count in pick.pieces for _ in range(count * many)]
                by_pool.setdefault(pick.pool, []).extend(pieces)
        if objective == "served":
            value = -sum(
                min(want, rate(way)) for want, way in zip(wanted, combination, strict=True)
            )
        else:
            value = sum(
                pick.gpus * many * (1.0 if objective == "gpus" else prices[pick.pool])
                for way in combination
                for pick, many in way.items()
            )
        if best is not None and value >= best:
            continue
        if all(
            fits(sorted(cluster.pools[pool].sizes), sorted(pieces, reverse=True))
            for pool, pieces in by_pool.items()
        ):
            best = value
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.status == "OPTIMAL"
    assert found.value / found.scale == pytest.approx(best, rel=1e-5)
    uses = [use for answer in found.chosen if answer for use in answer[1]["serving"]]
    named = name_gpus(cluster, rooms, uses)
    every = [gpu for gpus in named for gpu in gpus]
    assert len(every) == len(set(every)) == sum(use.gpus for use in uses)


def test_every_piece_lies_inside_one_domain() -> None:
    cluster = cluster_of((8, 5, 7))
    offers = [offer(0, 1.0, (5, 1)), offer(0, 1.0, (3, 2))]
    rooms = rooms_of(cluster, offers)
    uses = [Use(each, 1, rooms[0].demand(each.pieces), each.requests_per_s()) for each in offers]
    (five, threes) = name_gpus(cluster, rooms, uses)
    assert len({gpu.split("/")[0] for gpu in five}) == 1
    for piece in (threes[:3], threes[3:]):
        assert len({gpu.split("/")[0] for gpu in piece}) == 1


def test_a_stage_that_does_not_fill_its_pieces_leaves_a_rest() -> None:
    assert pieces_of(pp=2, width=12, span=8) == ((8, 2), (4, 2))
    assert pieces_of(pp=3, width=4, span=4) == ((4, 3),)


def test_replicas_that_fit_into_other_pieces_are_counted() -> None:
    assert fitting(((2, 1),), ((8, 1),)) == 4
    assert fitting(((4, 2),), ((8, 1),)) == 1
    assert fitting(((8, 1),), ((4, 2),)) == 0


def test_sizes_that_divide_each_other_need_one_row_where_nodes_are_whole() -> None:
    offers = [offer(0, 1.0, (size, 1)) for size in (1, 2, 4, 8)]
    assert rooms_of(cluster_of((8, 8)), offers)[0].limits == ((1, 16),)
    assert rooms_of(cluster_of((8, 7)), offers)[0].limits == ((1, 15), (2, 14), (4, 12), (8, 8))


def test_too_many_cuts_keep_the_longest_chain_and_say_so() -> None:
    cluster = cluster_of((72,))
    offers = [offer(0, 1.0, (size, 1)) for size in (1, 2, 3, 4, 5, 7, 8)]
    kept, notes = packable(cluster, offers)
    assert [each.gpus for each in kept] == [1, 2, 4, 8]
    assert f"more than {MAX_CUTS:,} ways" in notes[0]
    assert "3 of 7 offers" in notes[0]


def test_no_pool_serves_in_vain() -> None:
    cluster = cluster_of((8, 8), (8,))
    offers = [offer(0, 24.0, (4, 1)), offer(1, 24.0, (4, 1))]
    rooms = rooms_of(cluster, offers)
    found = vectors_of(offers, rooms, 8.0, 2)
    assert {len(vector) for vector in found} == {1, 2}
    for vector in found:
        assert served_by(vector) >= 8.0 * (1 - 1e-9)
        assert len(vector) == 1 or vector[0].requests_per_s < 8.0 * (1 - 1e-9)


def test_replicas_keep_room_for_peaks_and_share_it() -> None:
    """16 requests of 4 s in flight peak at 16 + 2 x 4 = 24: one replica of 24 sustains 4 a second,
    two of them more than twice as much."""
    one = offer(0, 24.0, (4, 1))
    assert one.requests_per_s() == pytest.approx(4.0)
    assert one.requests_per_s(2) > 8.0
    assert one.requests_per_s(2) < 2 * one.full_per_s
    for wanted in (0.1, 3.9, 4.0, 4.1, 8.0, 50.0):
        many = one.replicas_for(wanted)
        assert one.requests_per_s(many) >= wanted * (1 - 1e-12)
        assert many == 1 or one.requests_per_s(many - 1) < wanted


def test_a_row_no_worse_in_one_replica_and_in_endlessly_many_is_no_worse_in_any_number() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        one, other = (
            Offer(0, ParallelLayout(), ((1, 1),), float(slots), float(seconds))
            for slots, seconds in zip(
                random.integers(1, 200, 2), random.uniform(0.1, 20, 2), strict=True
            )
        )
        if one.full_per_s < other.full_per_s or one.requests_per_s() < other.requests_per_s():
            continue
        for many in (2, 3, 5, 8, 30, 500):
            assert one.requests_per_s(many) >= other.requests_per_s(many) * (1 - 1e-12)
