"""Groups on nodes, then the experts of each node on its GPUs as a layer of its own."""

from __future__ import annotations

import numpy as np

from optimizer.errors import Problem, SpecError
from optimizer.layout import Ints
from optimizer.search.experts.bounds import Certificate, best_of, values
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.hierarchy import experts_by_node, groups_of, split_groups
from optimizer.search.experts.moves import Rules
from optimizer.search.experts.pack import gpu_loads, largest_first
from optimizer.search.experts.replan import replan
from optimizer.search.experts.solve import eplb, solve


def place_groups(
    loads: Floats,
    slots: int,
    nodes: int,
    groups: int,
    certificates: list[Certificate],
    current: Ints | None,
    rules: Rules,
) -> tuple[Ints, list[Certificate]]:
    """Groups on nodes, then every node as a layer of its own; never worse than EPLB's groups."""
    layers, experts = loads.shape
    node_of, group_certificates = split_groups(loads, rules.gpus, slots, nodes, groups)
    certificates = best_of(certificates, group_certificates)
    if current is not None:
        kept = groups_of(current, experts, nodes, groups)
        if kept is None:
            raise SpecError(Problem("a group of experts lies on two nodes there", key="current"))
        node_of = kept
    on_node = experts_by_node(node_of, experts, nodes)  # [layers, nodes, experts of a node]
    node_loads = np.take_along_axis(loads[:, None, :], on_node, axis=2)
    node_loads = node_loads.reshape(layers * nodes, -1)
    bound = np.repeat(values(certificates), nodes)
    moves = None if rules.max_moves is None else rules.max_moves // nodes
    node_rules = Rules(rules.gpus // nodes, rules.distinct, moves)
    if current is not None:
        local = np.argsort(on_node.reshape(layers, -1), axis=1) % (experts // nodes)
        local = np.take_along_axis(local, current, axis=1).reshape(layers * nodes, -1)
        placed = replan(node_loads, local, bound, node_rules)
        return _global(placed, on_node), certificates
    placed = _global(solve(node_loads, bound, slots // nodes, node_rules), on_node)
    rule = eplb_groups(loads, rules.gpus, slots, nodes, groups)
    if not rules.distinct:
        better = gpu_loads(loads, rule, rules.gpus).max(axis=1) < gpu_loads(
            loads, placed, rules.gpus
        ).max(axis=1)
        placed[better] = rule[better]
    return placed, certificates


def eplb_groups(loads: Floats, gpus: int, slots: int, nodes: int, groups: int) -> Ints:
    """EPLB's hierarchical rule: groups to nodes largest first, then its global rule on each."""
    layers, experts = loads.shape
    group_loads = loads.reshape(layers, groups, -1).sum(axis=2)
    ones = np.ones((layers, groups), dtype=np.int64)
    of_node = largest_first(group_loads, ones, nodes, distinct=False)
    node_of = np.empty_like(of_node)
    each = np.broadcast_to(np.repeat(np.arange(nodes), groups // nodes), of_node.shape)
    np.put_along_axis(node_of, of_node, each, axis=1)
    on_node = experts_by_node(node_of, experts, nodes)
    node_loads = np.take_along_axis(loads[:, None, :], on_node, axis=2)
    placed = eplb(node_loads.reshape(layers * nodes, -1), slots // nodes, gpus // nodes)
    return _global(placed, on_node)


def _global(placed: Ints, on_node: Ints) -> Ints:
    """Experts numbered within their node [layers x nodes, slots of a node] -> [layers, slots]."""
    layers, nodes, _ = on_node.shape
    placed = placed.reshape(layers, nodes, -1)
    return np.take_along_axis(on_node, placed, axis=2).reshape(layers, -1)
