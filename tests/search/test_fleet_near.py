"""Staying near what runs: the solver against every combination, and GPUs around what stays."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from optimizer.layout import ParallelLayout
from optimizer.search.fleet import (
    Ask,
    Keeper,
    Moving,
    Offer,
    Running,
    Use,
    choose_fleet,
    choose_near,
    name_gpus_near,
    nearby,
    rooms_of,
    served_by,
    vectors_of,
)
from optimizer.search.fleet.keeping import Keep, Wish
from optimizer.search.moving import block_bytes
from optimizer.search.placing import rank_parts
from optimizer.spec.cluster import Cluster, Gpu, Link, Pool
from optimizer.spec.model import ModelSpec
from optimizer.spec.reading import read_model

LINK = Link(bandwidth="100 GB/s", latency="1 us")


def cluster_of(*pools: tuple[int, ...]) -> Cluster:
    gpu = Gpu(memory="80 GB", memory_bandwidth="2 TB/s", flops={"bf16": "300 TFLOP/s"})
    nodes = [{"nodes": len(sizes), "node_sizes": sizes} for sizes in pools]
    return Cluster(
        pools=tuple(
            Pool(name=f"pool{index}", gpu=gpu, intra_node=LINK, inter_node=LINK, **each)
            for index, each in enumerate(nodes)
        )
    )


@pytest.fixture(scope="module")
def model() -> ModelSpec:
    return read_model("llama-3.1-8b").model


def running(model: ModelSpec, pool: int, tp: int, *gpus: str) -> Running:
    layout = ParallelLayout(tp=tp)
    return Running(pool, layout, rank_parts(model, layout, (model.num_layers,)), gpus)


def keeper(model: ModelSpec, *replicas: Running) -> Keeper:
    return Keeper(0, model, block_bytes(model), replicas)


def offer(pool: int, tp: int, slots: float) -> Offer:
    return Offer(pool, ParallelLayout(tp=tp), ((tp, 1),), slots, 4.0)


def load_bytes(keeper: Keeper, vectors: list[tuple[Use, ...]]) -> float:
    """Bytes that all uses load: no pool keeps more than its GPUs hold."""
    total, kept = 0.0, {0: 0.0, 1: 0.0}
    for use in (use for vector in vectors for use in vector):
        keep = keeper.keep(use.offer)
        total += use.replicas * keep.replica_bytes
        kept[use.offer.pool] += float(keep.kept_bytes(np.array([use.replicas]))[0])
    return total - sum(min(size, keeper.held_bytes(pool)) for pool, size in kept.items())


def test_no_combination_within_the_share_loads_less(model: ModelSpec) -> None:
    random = np.random.default_rng(3)
    cluster = cluster_of((4, 4), (4,))
    for _ in range(12):
        offers = [
            offer(pool, tp, float(random.integers(4, 12)) * tp) for pool in (0, 1) for tp in (1, 2)
        ]
        now = keeper(
            model,
            *(running(model, 0, 1, f"pool0/node0/gpu{gpu}") for gpu in range(3)),
            running(model, 1, 2, "pool1/node0/gpu0", "pool1/node0/gpu1"),
        )
        rooms, wants = rooms_of(cluster, offers), random.uniform(1.0, 6.0, 2).tolist()
        asks = [
            Ask(name, want, 1.0, {"aggregated": {"serving": vectors_of(offers, rooms, want, 2)}})
            for name, want in zip("ab", wants, strict=True)
        ]
        best = choose_fleet(asks, rooms, [1.0, 1.0], "gpus")
        assert best is not None
        most = best.value + 2
        near = nearby(asks, [1.0, 1.0], "gpus", most, [now, now])
        close = [
            ask._replace(
                modes={
                    "aggregated": {
                        "serving": vectors_of(offers, rooms, ask.wanted_per_s, 2, near=each)
                    }
                }
            )
            for ask, each in zip(asks, near, strict=True)
        ]
        held = {(0, pool): now.held_bytes(pool) for pool in (0, 1)}
        found = choose_near(close, rooms, [1.0, 1.0], "gpus", most, Moving([now, now], held))
        assert found is not None
        chosen = [answer[1]["serving"] for answer in found if answer is not None]
        assert sum(use.gpus for vector in chosen for use in vector) <= most
        every = [list(every_vector(offers, rooms, want)) for want in wants]
        least = min(
            load_bytes(now, list(pair))
            for pair in product(*every)
            if sum(use.gpus for vector in pair for use in vector) <= most
            and all(
                sum(use.gpus for vector in pair for use in vector if use.offer.pool == pool) <= live
                for pool, live in ((0, 8), (1, 4))
            )
        )
        assert load_bytes(now, chosen) == pytest.approx(least, abs=4e6)


def every_vector(
    offers: list[Offer], rooms: tuple[object, ...], want: float
) -> list[tuple[Use, ...]]:
    """Every way to serve a rate by one layout a pool, whatever it takes."""
    uses = {
        pool: [
            Use(each, many, rooms[pool].demand(((each.gpus, many),)), each.requests_per_s(many))
            for each in offers
            if each.pool == pool
            for many in range(1, min(each.replicas_for(want), 8 // each.gpus) + 1)
        ]
        for pool in (0, 1)
    }
    alone = [(use,) for own in uses.values() for use in own]
    both = [
        pair for pair in product(uses[0], uses[1]) if max(use.requests_per_s for use in pair) < want
    ]
    return [vector for vector in (*alone, *both) if served_by(vector) >= want * (1 - 1e-9)]


def test_replicas_keep_all_that_runs_and_one_more_finds_nothing_left(model: ModelSpec) -> None:
    now = keeper(model, *(running(model, 0, 1, f"node0/gpu{gpu}") for gpu in range(3)))
    keep = now.keep(offer(0, 1, 8.0))
    assert keep.kept_bytes(np.array([1, 3, 4, 9])) == pytest.approx(
        keep.replica_bytes * np.array([1, 3, 3, 3])
    )
    halves = now.keep(offer(0, 2, 8.0))  # each half lies on every GPU that holds the whole
    assert halves.kept_bytes(np.array([1, 2])) == pytest.approx(
        halves.replica_bytes * np.array([1.0, 1.5])
    )


def test_what_each_gpu_finds_is_taken_largest_first() -> None:
    keep = Keep(10.0, np.array([5.0, 3.0]), 3)
    assert keep.kept_bytes(np.array([1, 2, 3])).tolist() == [8.0, 13.0, 15.0]


def use_of(each: Offer, many: int, cluster: Cluster) -> Use:
    return Use(each, many, (many * each.gpus,), each.requests_per_s(many))


def test_replicas_stay_and_new_ones_go_where_most_of_their_model_lies(model: ModelSpec) -> None:
    cluster = cluster_of((4, 4))
    own = offer(0, 1, 8.0)
    wish = Wish([("node1/gpu2",)], {"node1/gpu2": 9.0, "node0/gpu3": 4.0})
    (found,) = name_gpus_near(cluster, rooms_of(cluster, [own]), [use_of(own, 2, cluster)], [wish])
    assert set(found) == {"node1/gpu2", "node0/gpu3"}


def test_small_replicas_give_way_to_a_large_one_that_has_no_other_room() -> None:
    cluster = cluster_of((4, 4))
    small, large = offer(0, 1, 8.0), offer(0, 4, 8.0)
    uses = [use_of(small, 2, cluster), use_of(large, 1, cluster)]
    stays = [("node0/gpu0",), ("node1/gpu0",)]
    wishes = [Wish(stays, {"node0/gpu0": 9.0, "node1/gpu0": 9.0}), Wish((), {})]
    ones, four = name_gpus_near(cluster, rooms_of(cluster, [small, large]), uses, wishes)
    assert len({gpu.split("/")[0] for gpu in four}) == 1
    assert len(set(ones) & {"node0/gpu0", "node1/gpu0"}) == 1
    assert not set(ones) & set(four)
