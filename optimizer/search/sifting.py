"""The first sieve: rows that break a limit, and rows that another row of the same layout beats.

It takes the candidates part by part, so that no more than one part and what is left of the others
are in memory at once. Rows of one layout (in its spans, pools, number formats and, for a fixed
load, its replicas) differ in sequences, chunk and micro-batches alone and take the same GPUs of the
same nodes: of two such rows the one with no less tokens/s and no more latency is no worse under any
objective.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.search.objectives import significant
from optimizer.search.room import numbered, rooms, run_bounds, with_room
from optimizer.spec.cluster import Cluster

ENDLESS = "finite times"  # a row whose times are no numbers cannot be ranked
LARGEST = 1e200
JOINT = "joint: "  # marks counts that are no candidates


class Sifted(NamedTuple):
    """What is left, and what became of the rest: candidates = infeasible + dominated + left."""

    left: Candidates  # replicas_max is no more than the nodes have room for
    nearest: Candidates  # where nothing is left: of each part the row that came nearest
    candidates: int
    broken: dict[str, int]  # limit -> rows that break it
    broken_together: dict[str, int]  # "memory + ttft" -> rows that break just these

    joint: dict[str, int]  # what the joint model of training did

    @property
    def infeasible(self) -> int:
        return sum(self.broken_together.values())


def sift(cluster: Cluster, parts: Iterable[Candidates]) -> Sifted:
    """All parts through the sieve; at least one part, be it empty."""
    left: list[Candidates] = []
    nearest: list[Candidates] = []
    count = 0
    broken: Counter[str] = Counter()
    together: Counter[str] = Counter()
    joint: Counter[str] = Counter()
    for part in parts:
        held = rooms(cluster, part)
        limited = with_room(cluster, part, held)
        masks = _masks(limited)
        count += len(part)
        broken.update(dict.fromkeys(part.limits, 0))
        for name, many in part.settled.items():
            if name.startswith(JOINT):
                joint[name.removeprefix(JOINT)] += many
                continue
            count += many
            if name in part.limits:
                together[name] += many
                broken[name] += many
        for names, many in _together(masks, [*limited.limits, ENDLESS]):
            together[" + ".join(names)] += many
            broken.update(dict.fromkeys(names, many))
        kept = _best_of_each_run(part, np.flatnonzero(masks == 0))
        survivors = part.take(kept)
        most = np.minimum(survivors.replicas_max, held[kept])
        left.append(replace(survivors, replicas_max=most))
        if not any(map(len, left)):
            nearest.append(limited.take(nearest_rows(limited)))
    return Sifted(
        part.concatenate(left),
        part.concatenate(nearest or [part.take(np.zeros(0, dtype=np.int64))]),
        count,
        dict(broken),
        dict(together),
        dict(joint),
    )


def _masks(limited: Candidates) -> Ints:
    """A bit mask of broken limits [n]; the last bit is for times that are no numbers."""
    masks = limited.broken()
    for column in (limited.tokens_per_s, limited.latency_s):
        masks |= (~(column < LARGEST)).astype(np.int64) << len(limited.limits)
    return masks


def _together(masks: Ints, names: list[str]) -> list[tuple[list[str], int]]:
    """The exact sets of limits that rows break, each with the number of its rows."""
    sets, counts = np.unique(masks[masks != 0], return_counts=True)
    return [
        ([name for bit, name in enumerate(names) if mask >> bit & 1], many)
        for mask, many in zip(sets.tolist(), counts.tolist(), strict=True)
    ]


def nearest_rows(candidates: Candidates) -> Ints:
    """The row that breaks fewest limits; of those, the one that overshoots least; [] of none."""
    if not len(candidates):
        return np.zeros(0, dtype=np.int64)
    worst = np.zeros(len(candidates))
    count = np.zeros(len(candidates), dtype=np.int64)
    for name, needs in candidates.needs.items():
        limit = candidates.limits[name]
        over = np.divide(needs, limit, out=np.full_like(needs, np.inf), where=limit > 0)
        worst = np.maximum(worst, over)
        count += over > 1
    fewest = np.flatnonzero(count == count.min())
    return fewest[[np.argmin(worst[fewest])]]


def _best_of_each_run(part: Candidates, feasible: Ints) -> Ints:
    """Of these rows, ascending, those that no other of their run beats.

    Each run is sorted by latency, then tokens/s, then as its rows came; a row stays where its
    tokens/s are above all before it.
    """
    degrees = [getattr(part.layouts, column.name) for column in fields(part.layouts)]
    pools = (*part.stages.values(), *part.spans.values())
    columns = (part.pool, part.precision, *degrees, *pools, part.replicas_min, part.replicas_max)
    run = numbered(run_bounds(*columns))[feasible]
    rates, latencies = (
        significant(column[feasible]) for column in (part.tokens_per_s, part.latency_s)
    )
    few = _best_of_each_batch(run, part.sequences[feasible], rates, latencies)
    feasible, run, latencies = feasible[few], run[few], latencies[few]
    rates, rank = np.unique(rates[few], return_inverse=True)
    order = np.lexsort((-rank, latencies, run))
    own = run[order] * len(rates) + rank[order]  # above all of the runs before
    most = np.maximum.accumulate(own)
    stays = np.ones(len(own), dtype=bool)
    stays[1:] = (own[1:] > most[:-1]) | (run[order[1:]] != run[order[:-1]])
    return feasible[np.sort(order[stays])]


def _best_of_each_batch(run: Ints, sequences: Ints, rates: Floats, latencies: Floats) -> Ints:
    """Rows that the quickest row of their run and its number of sequences does not beat: cheap to
    tell, since such rows stand together, and few stay to be sorted."""
    if not len(run):
        return np.zeros(0, dtype=np.int64)
    bounds = run_bounds(run, sequences)
    starts, batch = bounds[:-1], numbered(bounds)
    quickest = latencies == np.minimum.reduceat(latencies, starts)[batch]
    most = np.maximum.reduceat(np.where(quickest, rates, -np.inf), starts)[batch]
    best = np.flatnonzero(quickest & (rates == most))
    first = best[np.diff(batch[best], prepend=-1) > 0]
    stays = rates > most
    stays[first] = True
    return np.flatnonzero(stays)
