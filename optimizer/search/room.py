"""Room on the nodes as a limit like any other: stages needed, and stages that the nodes hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints, leaf_sizes, stages_under
from optimizer.search.packing import DomainType, Shape, domain_types, most_stages
from optimizer.spec.cluster import MAX_GPUS, Cluster

ROOM = "room on the nodes"
MOST_REPLICAS = MAX_GPUS


def rooms(cluster: Cluster, candidates: Candidates) -> Ints:
    """Replicas of each row's layout that the live domains hold at once: of its own pool, or of
    every pool that it spans [n]."""
    types = domain_types(cluster)
    widths, leaf = candidates.layouts.width, candidates.layouts.leaf
    found = np.full(len(candidates), MOST_REPLICAS)
    known: dict[tuple[Shape, int, int], int] = {}
    for pool, (stages, spans) in candidates.shares().items():
        for start, end in pairwise(run_bounds(stages, spans, widths, leaf).tolist()):
            span, width, own = int(spans[start]), int(widths[start]), int(stages[start])
            if own == 0:
                continue
            key = Shape(pool, span, width % span), width // span, int(leaf[start])
            if key not in known:
                known[key] = _most_stages(cluster, types, *key)
            found[start:end] = np.minimum(found[start:end], known[key] // own)
    return found


def _most_stages(
    cluster: Cluster, types: Sequence[DomainType], shape: Shape, full: int, leaf: int
) -> int:
    """Stages that the domains hold at once, and with `leaf` pieces under one leaf switch the
    leaves."""
    if leaf == 0:
        return most_stages(types, shape, full)
    return stages_under(leaf_sizes(cluster, shape.pool), full, shape.span, leaf)


def run_bounds(*columns: Ints) -> Ints:
    """Where stretches of rows over which no column changes start, and the end of the last."""
    changes = np.ones(len(columns[0]) + 1, dtype=bool)
    changes[1:-1] = False
    for column in columns:
        if column.strides != (0,):
            changes[1:-1] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def numbered(bounds: Ints) -> Ints:
    """The stretch of each row [n]."""
    lengths = np.diff(bounds)
    return np.repeat(np.arange(len(lengths)), lengths)


def with_room(cluster: Cluster, candidates: Candidates, held: Ints | None = None) -> Candidates:
    """The candidates with room as their last limit; a row that lacks GPUs does not lack room too.

    `held`: the rooms of these candidates, where they are known.
    """
    pp = candidates.layouts.pp
    need = (candidates.replicas_min * pp).astype(np.float64)
    there = (rooms(cluster, candidates) if held is None else held) * pp
    lacks_gpus = candidates.needs["GPUs"] > candidates.limits["GPUs"]
    return replace(
        candidates,
        needs={**candidates.needs, ROOM: need},
        limits={**candidates.limits, ROOM: np.where(lacks_gpus, need, there)},
    )
