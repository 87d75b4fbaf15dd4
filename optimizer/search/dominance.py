"""The second sieve: rows that cannot be among the best `top` layouts, whatever the objective.

Row j beats row i when m of j's replicas do at least what one of i's does (tokens/s, latency), in no
more GPUs, and there is room for m times as many of j as of i. A row is dropped when a row of its
own layout beats it, or rows of `top` different layouts do: every objective's criteria are monotone
in tokens/s, latency and GPUs on their integer grids, and ties go to the canonical order, so then no
objective ranks the row's layout by this row, or it ranks `top` others before it. A fixed load is
split over each row's own number of replicas: there all of a row's replicas count as one.

Rows of equal size and room form a class. Inside a class, and between rows of one layout, the test
is exact; across classes it is made against the strongest classes only, which drops fewer rows than
could be, never more.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.cost.factoring import representatives
from optimizer.layout import Ints
from optimizer.search.objectives import has_fixed_replicas

STRONG_CLASSES = 48  # classes that others are held against
STRONG_LAYOUTS = 48  # layouts, where replicas may span pools


def layout_keys(candidates: Candidates) -> Ints:
    """One number for each distinct layout, precision and replicas aside [n]."""
    layouts = candidates.layouts
    degrees = (layouts.pp, layouts.tp, layouts.cp, layouts.dp, layouts.ep, layouts.etp)
    return representatives(*degrees)[1]


class _Columns(NamedTuple):
    """What all rows of a class share: GPUs of one replica, and the most replicas; for a fixed load
    GPUs of all replicas, which then count as one."""

    gpus: Ints
    most: Ints

    def take(self, rows: Ints) -> _Columns:
        return _Columns(*(column[rows] for column in self))


def _columns(candidates: Candidates) -> _Columns:
    gpus, most = candidates.gpus_per_replica, candidates.replicas_max
    if has_fixed_replicas(candidates):
        return _Columns(gpus * most, np.ones_like(most))
    return _Columns(gpus, most)


def undominated(
    candidates: Candidates, rates: Ints, latencies: Ints, order: Ints, top: int
) -> Ints:
    """Indices of the rows that stay, ascending.

    All rows fit: one replica at least, replicas_max at most, or for a fixed load just those. rates:
    tokens/s on its grid, of one replica or of the whole fixed load; order decides between equals.
    """
    if not len(candidates):
        return np.zeros(0, dtype=np.int64)
    columns = _columns(candidates)
    keys = layout_keys(candidates)
    first, classes = representatives(*columns)
    shapes = columns.take(first)
    by_class = np.lexsort((order, -rates, latencies, classes))
    bounds = np.flatnonzero(np.diff(classes[by_class], prepend=-1, append=-2))
    kept: list[Ints] = []
    stairs: list[Ints] = []
    for start, end in pairwise(bounds.tolist()):
        rows = by_class[start:end]
        stays, stair = _skyband(rates[rows], keys[rows], top)
        kept.append(rows[stays])
        stairs.append(stair)
    alive = np.sort(np.concatenate(kept))
    roomier = _beaten_by_own_layout(
        rates[alive], latencies[alive], columns.most[alive], keys[alive]
    )
    alive = alive[~roomier]
    for which in _strongest(stairs, shapes.gpus, kept, rates, latencies):
        gpus, most = int(shapes.gpus[which]), int(shapes.most[which])
        rows = by_class[bounds[which] : bounds[which + 1]]
        place = np.searchsorted(latencies[rows], latencies[alive], side="right") - 1
        reached = np.where(place >= 0, stairs[which][place], 0)
        here = columns.take(alive)
        times = np.minimum(here.gpus // gpus, most // here.most)
        beaten = (
            (times >= 1)
            & (reached > 0)
            & (reached * times >= rates[alive])
            & ((reached * times > rates[alive]) | (gpus * times < here.gpus))
        )
        alive = alive[~beaten]
    if candidates.stages:
        alive = alive[~_beaten_by_layouts(columns, rates, latencies, keys, alive, top)]
    return alive


def _beaten_by_layouts(
    columns: _Columns, rates: Ints, latencies: Ints, keys: Ints, alive: Ints, top: int
) -> NDArray[np.bool_]:
    """Of the rows in `alive` those that `top` of the strongest layouts beat, wherever those lie:
    over pools a layout has many rooms, so that few layouts share a class."""
    here, own = columns.take(alive), keys[alive]
    count = np.zeros(len(alive), dtype=np.int64)
    order = alive[np.lexsort((latencies[alive], columns.most[alive], own))]
    groups = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
    most = np.array([(rates[rows] / columns.gpus[rows]).max() for rows in groups])
    least = np.array([latencies[rows].min() for rows in groups])
    share = STRONG_LAYOUTS // 2
    chosen = dict.fromkeys(
        [*np.argsort(-most)[:share].tolist(), *np.argsort(least)[:share].tolist()]
    )
    for rows in (groups[each] for each in chosen):
        beats = np.zeros(len(alive), dtype=bool)
        times = here.gpus // columns.gpus[rows[0]]
        for same in np.split(rows, np.flatnonzero(np.diff(columns.most[rows])) + 1):
            best = np.maximum.accumulate(np.append(-1, rates[same]))
            reached = best[np.searchsorted(latencies[same], latencies[alive], side="right")]
            better = (reached * times > rates[alive]) | (columns.gpus[rows[0]] * times < here.gpus)
            room = (times >= 1) & (times * here.most <= columns.most[same[0]])
            beats |= room & (reached > 0) & (reached * times >= rates[alive]) & better
        count += beats & (own != keys[rows[0]])
    found: NDArray[np.bool_] = count >= top
    return found


def _skyband(rates: Ints, keys: Ints, top: int) -> tuple[NDArray[np.bool_], Ints]:
    """Rows of one class, sorted by latency, then rate, then order: (which stay, the staircase).

    stair[p]: the rate that `top` different layouts reach within the latency of row p (0: fewer do).
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


def _beaten_by_own_layout(
    rates: Ints, latencies: Ints, most: Ints, keys: Ints
) -> NDArray[np.bool_]:
    """Rows that another of their layout beats outright where there is room for more replicas of it:
    the same layout may lie in several pools, and over them in many ways."""
    beaten = np.zeros(len(keys), dtype=bool)
    order = np.lexsort((latencies, -most, keys))
    ends = np.flatnonzero(np.diff(keys[order], append=-1)) + 1
    for own in np.split(order, ends[:-1]):
        steps = np.split(own, np.flatnonzero(np.diff(most[own])) + 1)
        known = steps[0]
        for rows in steps[1:]:
            best = np.maximum.accumulate(np.append(-1, rates[known]))
            within = best[np.searchsorted(latencies[known], latencies[rows], side="right")]
            before = best[np.searchsorted(latencies[known], latencies[rows], side="left")]
            beaten[rows] = (within > rates[rows]) | (before >= rates[rows])
            known = np.concatenate([known, rows[~beaten[rows]]])
            known = known[np.argsort(latencies[known], kind="stable")]
    return beaten


def _strongest(
    stairs: list[Ints], gpus: Ints, kept: list[Ints], rates: Ints, latencies: Ints
) -> list[int]:
    """Classes worth holding others against: high rate a GPU, low latency, few GPUs."""
    most = np.array([stair[-1] for stair in stairs]) / gpus
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
        np.lexsort((-most, gpus)),
    )
    chosen = [int(which) for order in orders for which in order[:share]]
    return [which for which in dict.fromkeys(chosen) if stairs[which][-1] > 0]
