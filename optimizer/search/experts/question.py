"""What may be asked of `place_experts`, and what to write where it may not."""

from __future__ import annotations

import numpy as np

from optimizer.errors import Problem
from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats

MOST_CELLS = 10_000_000  # layers x slots: a hundred times the largest model on a thousand GPUs


def problems_of(
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
    if layers * slots > MOST_CELLS:
        return [Problem(f"{slots} slots in {layers} layers are more than fit here", key="slots")]
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
        found += _current_problems(current, layers, experts, slots, gpus, distinct)
    return found


def _current_problems(
    current: Ints, layers: int, experts: int, slots: int, gpus: int, distinct: bool
) -> list[Problem]:
    if current.shape != (layers, slots):
        found = " x ".join(map(str, current.shape))
        shape = f"must be {layers} layers x {slots} slots, is {found}"
        return [Problem(shape, key="current")]
    if current.min() < 0 or current.max() >= experts:
        return [Problem(f"experts must be 0 to {experts - 1}", key="current")]
    for layer, row in enumerate(current):
        if len(set(row.tolist())) < experts:
            return [Problem(f"layer {layer} lacks an expert", key="current")]
        if distinct and any(len(set(gpu.tolist())) < gpu.size for gpu in row.reshape(gpus, -1)):
            return [Problem(f"layer {layer} has an expert twice on a GPU", key="current")]
    return []
