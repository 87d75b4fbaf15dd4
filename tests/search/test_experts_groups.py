"""Groups that stay on nodes, what that costs, and copies spread over nodes."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from optimizer.errors import SpecError
from optimizer.search.experts import place_experts
from optimizer.search.experts.grouped import eplb_groups
from optimizer.search.experts.hierarchy import split_groups
from optimizer.search.experts.pack import gpu_loads

LOADS = np.round(np.exp(np.random.default_rng(9).normal(6.0, 1.0, (10, 64))))


def nodes_of_groups(placed: list[int], nodes: int, size: int) -> dict[int, set[int]]:
    per_node = len(placed) // nodes
    found: dict[int, set[int]] = {}
    for slot, expert in enumerate(placed):
        found.setdefault(expert // size, set()).add(slot // per_node)
    return found


def test_every_group_lies_on_one_node() -> None:
    placement = place_experts(LOADS, 16, 96, nodes=4, groups=8)
    for row in placement.physical_to_logical_map.tolist():
        assert all(len(nodes) == 1 for nodes in nodes_of_groups(row, 4, 8).values())


def test_groups_cost_what_the_free_placement_saves() -> None:
    placement = place_experts(LOADS, 16, 96, nodes=4, groups=8)
    assert placement.price_of_groups is not None
    assert placement.free_largest is not None
    assert (placement.price_of_groups >= 0).all()
    assert placement.largest == pytest.approx(
        placement.free_largest * (1 + placement.price_of_groups)
    )


def test_groups_are_in_no_layer_worse_than_eplbs() -> None:
    placement = place_experts(LOADS, 16, 96, nodes=4, groups=8)
    rule = gpu_loads(LOADS, eplb_groups(LOADS, 16, 96, 4, 8), 16).max(axis=1)
    assert (placement.largest <= rule * (1 + 1e-12)).all()


def test_the_split_of_groups_is_the_best_of_all() -> None:
    loads = np.array([[9.0, 1.0, 5.0, 4.0, 7.0, 2.0, 6.0, 3.0]])  # one expert a group
    # whole groups on nodes: two of 8 on each of 4 nodes of one GPU, 9.25 on average
    node_of, (certificate,) = split_groups(loads, gpus=4, slots=8, nodes=4, groups=8)
    by_node = np.bincount(node_of[0], weights=loads[0])
    best = min(
        max(sum(one[at : at + 2]) for at in range(0, 8, 2)) for one in permutations(loads[0])
    )
    assert by_node.max() == best == certificate.value == 10.0


def test_too_many_splits_to_try_still_get_a_bound() -> None:
    placement = place_experts(LOADS, 16, 96, nodes=4, groups=16)
    assert (placement.bounds <= placement.largest * (1 + 1e-12)).all()
    assert placement.gaps.mean() < 0.05


def test_groups_stay_where_they_are_when_slots_move() -> None:
    current = place_experts(LOADS, 16, 96, nodes=4, groups=8).physical_to_logical_map
    later = LOADS * np.random.default_rng(2).uniform(0.8, 1.2, LOADS.shape)
    placement = place_experts(later, 16, 96, nodes=4, groups=8, current=current, max_moves=16)
    assert placement.moves is not None
    assert placement.moves.max() <= 16
    for before, after in zip(current.tolist(), placement.physical_to_logical_map, strict=True):
        assert nodes_of_groups(before, 4, 8) == nodes_of_groups(after.tolist(), 4, 8)


def test_a_current_placement_that_splits_a_group_is_refused() -> None:
    current = place_experts(LOADS, 16, 96).physical_to_logical_map
    with pytest.raises(SpecError, match="a group of experts lies on two nodes"):
        place_experts(LOADS, 16, 96, nodes=4, groups=8, current=current, max_moves=8)


def test_copies_spread_over_nodes_without_changing_a_load() -> None:
    spread = place_experts(LOADS, 16, 96, nodes=4)
    alone = place_experts(LOADS, 16, 96, nodes=1)
    assert np.sort(spread.gpu_loads) == pytest.approx(np.sort(alone.gpu_loads))
    unspread = np.array(
        [
            crossing(row, 4, loads)
            for row, loads in zip(
                alone.physical_to_logical_map.tolist(), LOADS.tolist(), strict=True
            )
        ]
    )
    assert (spread.crossing <= unspread + 1e-12).all()
    assert spread.crossing.mean() < unspread.mean() - 0.01


def crossing(placed: list[int], nodes: int, loads: list[float]) -> float:
    """Share of tokens that leave their node, token source by token source."""
    per_node, kept = len(placed) // nodes, 0.0
    for node in range(nodes):
        here = placed[node * per_node : (node + 1) * per_node]
        for expert, load in enumerate(loads):
            served_here = load * here.count(expert) / placed.count(expert)
            kept += min(load / nodes, served_here)
    return 1 - kept / sum(loads)


def test_crossing_is_what_a_router_that_prefers_its_node_leaves_over() -> None:
    placement = place_experts(LOADS[:2], 16, 96, nodes=4)
    expected = [
        crossing(row, 4, loads)
        for row, loads in zip(
            placement.physical_to_logical_map.tolist(), LOADS[:2].tolist(), strict=True
        )
    ]
    assert placement.crossing == pytest.approx(expected)
    # an expert on every node keeps all its tokens, one with a single copy a quarter
    even = place_experts(np.array([[4.0]]), 4, 4, nodes=4)
    assert even.crossing.tolist() == [0.0]
    single = place_experts(np.ones((1, 4)), 4, 4, nodes=4)
    assert single.crossing.tolist() == [0.75]
