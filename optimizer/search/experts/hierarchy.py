"""Groups of experts that stay on one node: which groups share a node, and what that costs.

A token's experts then lie on as few nodes as its groups (DeepSeek-V3 routes to 4 of 8 groups).
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import comb, factorial

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.bounds import (
    Certificate,
    best_of,
    mean_bounds,
    share_bounds,
    size_bounds,
    values,
)
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.pack import largest_first

MOST_PARTITIONS = 5_000


def split_groups(
    loads: Floats, gpus: int, slots: int, nodes: int, groups: int
) -> tuple[Ints, list[Certificate]]:
    """The best node of each group [layers, groups], and a bound of each layer.

    The bound of a set of groups on a node is the larger of its mean and its share bound; a split's
    bound is that of its worst node. With few splits the best is taken and is the bound itself;
    else groups go largest first and the bound is that of whole groups on nodes.
    """
    layers = len(loads)
    by_group = loads.reshape(layers, groups, -1)
    per_node = groups // nodes
    if _num_partitions(groups, nodes) > MOST_PARTITIONS:
        group_loads = by_group.sum(axis=2)
        ones = np.ones((layers, groups), dtype=np.int64)
        on_node = largest_first(group_loads, ones, nodes, distinct=False)
        node_of = np.empty_like(on_node)
        np.put_along_axis(node_of, on_node, np.repeat(np.arange(nodes), per_node)[None], axis=1)
        return node_of, [
            Certificate("whole_groups", one.value / (gpus // nodes), one.data)
            for one in best_of(mean_bounds(group_loads, nodes), size_bounds(group_loads, nodes))
        ]
    sets = list(combinations(range(groups), per_node))
    of_set = np.stack([by_group[:, list(one)].reshape(layers, -1) for one in sets], axis=1)
    rows = of_set.reshape(layers * len(sets), -1)
    families = mean_bounds(rows, gpus // nodes), share_bounds(rows, slots // nodes)
    set_bound = values(best_of(*families)).reshape(layers, -1)
    partitions = _partitions(groups, nodes)  # [partitions, groups]
    index = {one: position for position, one in enumerate(sets)}
    set_of = np.array(
        [
            [index[tuple(np.flatnonzero(partition == node).tolist())] for node in range(nodes)]
            for partition in partitions
        ]
    )
    bound = set_bound[:, set_of].max(axis=2)
    best = bound.argmin(axis=1)
    return partitions[best], [
        Certificate("groups", float(bound[layer, one])) for layer, one in enumerate(best)
    ]


def groups_of(placed: Ints, experts: int, nodes: int, groups: int) -> Ints | None:
    """The node of each group [layers, groups] in a placement, or None where one lies on two."""
    layers = len(placed)
    group = (placed // (experts // groups)).reshape(layers, nodes, -1)
    node_of = np.full((layers, groups), -1)
    for node in range(nodes):
        np.put_along_axis(node_of, group[:, node], node, axis=1)
    found = np.take_along_axis(node_of, group.reshape(layers, -1), axis=1).reshape(group.shape)
    return node_of if (found == np.arange(nodes)[:, None]).all() else None


def experts_by_node(node_of: Ints, experts: int, nodes: int) -> Ints:
    """The experts of each node in ascending order: [layers, nodes, experts / nodes]."""
    layers, groups = node_of.shape
    expert_node = np.repeat(node_of, experts // groups, axis=1)
    return np.argsort(expert_node, axis=1, kind="stable").reshape(layers, nodes, -1)


def _num_partitions(groups: int, nodes: int) -> int:
    """Ways to split groups evenly over nodes that are all alike."""
    per_node = groups // nodes
    ways = 1
    for left in range(groups, 0, -per_node):
        ways *= comb(left, per_node)
    return ways // factorial(nodes)


@cache
def _partitions(groups: int, nodes: int) -> Ints:
    """Every even split of groups over nodes, once: the node of each group [partitions, groups].

    The first group not yet placed opens the next node, so that no split appears twice.
    """
    found: list[list[int]] = []

    def fill(node: int, node_of: list[int]) -> None:
        left = [group for group in range(groups) if node_of[group] < 0]
        if not left:
            found.append(node_of)
            return
        for others in combinations(left[1:], groups // nodes - 1):
            members = {left[0], *others}
            fill(node + 1, [node if g in members else node_of[g] for g in range(groups)])

    fill(0, [-1] * groups)
    return np.array(found, dtype=np.int64)
