"""Rows that cannot be among the best `top` layouts, whatever the objective.

Row j dominates row i when m of j's replicas do at least what one of i's does (tokens/s, latency), in
no more GPUs, and the cluster has room for m of j wherever it has room for one more of i. A row is dropped when a row of its
own layout dominates it, or rows of `top` different layouts do: then no objective that is monotone in
tokens/s, latency and GPUs ranks it among the first `top`.

Rows of equal size and shape form a class. Inside a class the test is exact; across classes it is made
against the strongest classes only, which drops fewer rows than could be, never more.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints
from optimizer.spec.cluster import Cluster

STRONG_CLASSES = 48  # classes that others are held against


def layout_keys(candidates: Candidates) -> Ints:
    """One number for each distinct layout, precision and replicas aside [n]."""
    layouts = candidates.layouts
    columns = np.stack([layouts.pp, layouts.tp, layouts.cp, layouts.dp, layouts.ep, layouts.etp])
    return np.unique(columns, axis=1, return_inverse=True)[1].ravel()


class _Columns(NamedTuple):
    """What all rows of a class share; for a fixed load GPUs are those of all replicas."""

    pool: Ints
    gpus: Ints
    room: Ints  # replicas that the pool surely has room for

    def take(self, rows: Ints) -> _Columns:
        return _Columns(*(column[rows] for column in self))


def sure_room(cluster: Cluster, candidates: Candidates) -> Ints:
    """Replicas of each row that surely fit its pool's live domains: whole pieces, each rest counted
    as a whole one [n]. Exact where the span divides the width."""
    span, width = candidates.layouts.span, candidates.layouts.width
    room = np.zeros(len(candidates), dtype=np.int64)
    sizes = [(domain.pool, len(domain.gpus)) for domain in cluster.domains]
    for (pool, size), count in Counter(sizes).items():
        room += np.where(candidates.pool == pool, count * (size // span), 0)
    pieces: Ints = candidates.layouts.pp * -(-width // span)
    return room // pieces


def undominated(
    candidates: Candidates, room: Ints, rates: Ints, latencies: Ints, order: Ints, top: int
) -> Ints:
    """Indices of the rows that stay, ascending. rates, latencies: scaled integers of one replica;
    order: the canonical order, which decides between equals; room: sure_room of each row."""
    if not len(candidates):
        return np.zeros(0, dtype=np.int64)
    fixed = bool((candidates.replicas_min == candidates.replicas_max).all())
    times = candidates.replicas_min if fixed else np.ones_like(candidates.replicas_min)
    columns = _Columns(candidates.pool, candidates.gpus_per_replica * times, room)
    rates = rates * times
    keys = layout_keys(candidates)
    shapes, classes = np.unique(np.stack(columns), axis=1, return_inverse=True)
    by_class = np.lexsort((order, -rates, latencies, classes.ravel()))
    bounds = np.flatnonzero(np.diff(classes.ravel()[by_class], prepend=-1, append=-2))
    kept: list[Ints] = []
    stairs: list[Ints] = []
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        rows = by_class[start:end]
        stays, stair = _skyband(rates[rows], keys[rows], top)
        kept.append(rows[stays])
        stairs.append(stair)
    alive = np.sort(np.concatenate(kept))
    for which in _strongest(stairs, shapes, kept, rates, latencies):
        pool, gpus, room_there = (int(value) for value in shapes[:, which])
        rows = by_class[bounds[which] : bounds[which + 1]]
        place = np.searchsorted(latencies[rows], latencies[alive], side="right") - 1
        reached = np.where(place >= 0, stairs[which][place], 0)
        here = columns.take(alive)
        if fixed:  # a fixed load is split over exactly these replicas: more of them are other rows
            fitting = np.minimum(1, here.gpus // gpus)
        else:
            fitting = np.minimum(here.gpus // gpus, room_there // candidates.replicas_max[alive])
        beaten = (
            (fitting >= 1)
            & (here.pool == pool)
            & (reached > 0)
            & (reached * fitting >= rates[alive])
            & ((reached * fitting > rates[alive]) | (gpus * fitting < here.gpus))
        )
        alive = alive[~beaten]
    return alive


def _skyband(rates: Ints, keys: Ints, top: int) -> tuple[NDArray[np.bool_], Ints]:
    """Rows of one class, sorted by latency, then rate, then order: (which stay, the staircase).

    stair[p] is the rate that `top` different layouts reach within the latency of row p (0: fewer do).
    """
    members, index = np.unique(keys, return_inverse=True)
    best = np.full((len(members), len(rates) + 1), -1, dtype=np.int64)
    best[index, np.arange(1, len(rates) + 1)] = rates
    np.maximum.accumulate(best, axis=1, out=best)
    before = best[:, :-1]
    own = before[index, np.arange(len(rates))] >= rates
    stays = ~own & ((before >= rates).sum(axis=0) < top)
    if len(members) < top:
        return stays, np.zeros(len(rates), dtype=np.int64)
    stair = np.partition(best[:, 1:], len(members) - top, axis=0)[len(members) - top]
    return stays, np.maximum(stair, 0)


def _strongest(
    stairs: list[Ints], shapes: Ints, kept: list[Ints], rates: Ints, latencies: Ints
) -> list[int]:
    """Classes worth holding others against: high rate a GPU, low latency, few GPUs."""
    most = np.array([stair[-1] for stair in stairs]) / shapes[1]
    reached = [np.searchsorted(stair, 1) for stair in stairs]
    quickest = np.array(
        [
            latencies[rows].min() if place < len(stair) and len(rows) else np.iinfo(np.int64).max
            for rows, stair, place in zip(kept, stairs, reached, strict=True)
        ]
    )
    share = STRONG_CLASSES // 3
    orders = (
        np.argsort(-most, kind="stable"),
        np.argsort(quickest, kind="stable"),
        np.lexsort((-most, shapes[1])),
    )
    chosen = [int(which) for order in orders for which in order[:share]]
    return [which for which in dict.fromkeys(chosen) if stairs[which][-1] > 0]
