"""Experts on slots of GPUs: the one call behind `optimize experts` and the placement of a plan."""

from __future__ import annotations

import numpy as np

from optimizer.errors import Problem, SpecError
from optimizer.layout import Ints
from optimizer.search.experts.bounds import Certificate, best_of, lower_bounds, values
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.hierarchy import experts_by_node, groups_of, split_groups
from optimizer.search.experts.moves import Rules
from optimizer.search.experts.pack import gpu_loads, largest_first
from optimizer.search.experts.pairs import enumerable, place_pairs
from optimizer.search.experts.placement import ExpertPlacement
from optimizer.search.experts.prove import prove_pairs
from optimizer.search.experts.replan import replan
from optimizer.search.experts.solve import SEED, eplb, solve
from optimizer.search.experts.traffic import spread_over_nodes


def place_experts(
    loads: Floats,
    gpus: int,
    slots: int,
    *,
    nodes: int = 1,
    groups: int | None = None,
    current: Ints | None = None,
    max_moves: int | None = None,
    distinct: bool = False,
    prove: bool = False,
) -> ExpertPlacement:
    """Replica counts and places of all layers with the least largest GPU load, and a bound of each.

    `loads` [layers, experts]; slot s lies on GPU s // (slots / gpus), GPU g on node
    g // (gpus / nodes). `groups` keeps each run of experts / groups experts on one node. `current`
    [layers, slots] is changed in at most `max_moves` slots a layer instead of planned afresh.
    `distinct` allows no two copies of an expert on one GPU. `prove` spends seconds a layer on the
    optimum where GPUs have two slots and any expert may lie on any GPU; elsewhere it adds nothing.
    """
    loads = np.asarray(loads, dtype=np.float64)
    problems = _problems(loads, gpus, slots, nodes, groups, current, max_moves, distinct)
    if problems:
        raise SpecError(*problems)
    rules = Rules(gpus, distinct, max_moves)
    certificates = lower_bounds(loads, gpus, slots)
    free_largest = None
    if groups is not None:
        placed, certificates = _place_groups(
            loads, slots, nodes, groups, certificates, current, rules
        )
        if current is None:
            free, _ = _place_free(loads, slots, certificates, rules)
            free_largest = np.minimum(
                gpu_loads(loads, free, gpus).max(axis=1), gpu_loads(loads, placed, gpus).max(axis=1)
            )
    elif current is not None:
        placed = replan(loads, current, values(certificates), rules)
    else:
        placed, certificates = _place_free(loads, slots, certificates, rules)
        if prove and slots == 2 * gpus:
            placed, certificates = prove_pairs(loads, placed, certificates, distinct)
        rng = np.random.default_rng(SEED)
        placed = spread_over_nodes(loads, placed, gpus, nodes, rng)
    return ExpertPlacement(
        loads=loads,
        physical_to_logical_map=placed,
        gpus=gpus,
        nodes=nodes,
        certificates=tuple(certificates),
        distinct=distinct,
        groups=groups,
        free_largest=free_largest,
        current=current,
        max_moves=max_moves,
    )


def _place_free(
    loads: Floats, slots: int, certificates: list[Certificate], rules: Rules
) -> tuple[Ints, list[Certificate]]:
    """Any expert on any GPU: by enumeration where that is possible, else by search."""
    if not enumerable(loads.shape[1], rules.gpus, slots):
        return solve(loads, values(certificates), slots, rules), certificates
    placed, proofs = place_pairs(loads, slots, rules.distinct)
    certificates = best_of(certificates, proofs)
    missing = np.flatnonzero(placed[:, 0] < 0)
    if missing.size:
        placed[missing] = solve(loads[missing], values(certificates)[missing], slots, rules)
    return placed, certificates


def _place_groups(
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


def _problems(
    loads: Floats,
    gpus: int,
    slots: int,
    nodes: int,
    groups: int | None,
    current: Ints | None,
    max_moves: int | None,
    distinct: bool,
) -> list[Problem]:
    """Everything that is wrong with the question, each as what to write instead."""
    if loads.ndim != 2 or 0 in loads.shape:
        return [Problem(f"must be layers x experts, is {loads.shape}", key="loads")]
    if not np.isfinite(loads).all() or (loads < 0).any():
        return [Problem("every load must be a finite number of at least 0", key="loads")]
    if min(gpus, slots, nodes, 1 if groups is None else groups) < 1:
        return [Problem("gpus, slots, nodes and groups must be at least 1")]
    layers, experts = loads.shape
    found = []
    if slots < experts:
        found.append(Problem(f"{slots} slots cannot hold {experts} experts", key="slots"))
    if slots % gpus:
        nearest = -(-slots // gpus) * gpus
        found.append(Problem(f"{slots} do not divide over {gpus} GPUs; try {nearest}", key="slots"))
    if gpus % nodes:
        found.append(Problem(f"{gpus} GPUs do not divide over {nodes} nodes", key="nodes"))
    if groups is not None and (experts % groups or groups % nodes or (slots % nodes)):
        found.append(
            Problem(
                f"{groups} groups must divide {experts} experts and be divided by {nodes} nodes",
                key="groups",
            )
        )
    reach = gpus if groups is None else gpus // nodes  # GPUs that an expert may lie on
    if distinct and slots > experts * reach:
        found.append(Problem(f"{slots} slots need two copies of an expert on one GPU", key="slots"))
    if max_moves is not None and (current is None or max_moves < 0):
        found.append(Problem("needs a current placement, and at least 0", key="max_moves"))
    if current is not None and not found:
        found += _current_problems(np.asarray(current), layers, experts, slots, gpus, distinct)
    return found


def _current_problems(
    current: Ints, layers: int, experts: int, slots: int, gpus: int, distinct: bool
) -> list[Problem]:
    if current.shape != (layers, slots):
        shape = f"must be {layers} layers x {slots} slots, is {current.shape}"
        return [Problem(shape, key="current")]
    if current.min() < 0 or current.max() >= experts:
        return [Problem(f"experts must be 0 to {experts - 1}", key="current")]
    for layer, row in enumerate(current):
        if len(set(row.tolist())) < experts:
            return [Problem(f"layer {layer} lacks an expert", key="current")]
        if distinct and any(len(set(gpu.tolist())) < gpu.size for gpu in row.reshape(gpus, -1)):
            return [Problem(f"layer {layer} has an expert twice on a GPU", key="current")]
    return []
