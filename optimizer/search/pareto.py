"""The Pareto front of tokens/s, latency and GPUs over all candidates that keep every limit."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.plan import Front
from optimizer.search.room import rooms
from optimizer.spec.cluster import Cluster

REFERENCES = 256  # strong points that the others are held against before the exact pass


def pareto_front(cluster: Cluster, candidates: Candidates) -> Front:
    """The front over every candidate at its least and at its most replicas."""
    room = np.minimum(candidates.replicas_max, rooms(cluster, candidates))
    rows = np.flatnonzero((candidates.broken() == 0) & (room >= candidates.replicas_min))
    row = np.concatenate([rows, rows])
    replicas = np.concatenate([candidates.replicas_min[rows], room[rows]])
    rate = candidates.tokens_per_s[row] * replicas
    latency = candidates.latency_s[row]
    gpus = candidates.gpus_per_replica[row] * replicas
    kept = nondominated(rate, latency, gpus)
    row, replicas = row[kept], replicas[kept]
    starts, ends = winning_ranges(rate[kept], latency[kept])
    return Front(
        names=tuple(
            candidates.layout(int(index), int(count)).name
            for index, count in zip(row, replicas, strict=True)
        ),
        gpus=gpus[kept],
        sequences=candidates.sequences[row],
        chunk=candidates.chunk[row],
        micro_batches=candidates.micro_batches[row],
        ttft_s=candidates.ttft_s[row],
        tpot_s=candidates.tpot_s[row],
        latency_s=latency[kept],
        tokens_per_s=rate[kept],
        wins_from_s=starts,
        wins_to_s=ends,
    )


def nondominated(rate: Floats, latency: Floats, gpus: Ints) -> Ints:
    """Indices, by latency, of the points that no other equals in all three and beats in one;
    of equal points the first stays."""
    alive = np.arange(len(rate))
    for score in (-rate / gpus, latency, -rate, -rate / latency):
        for index in np.argsort(score[alive], kind="stable")[: REFERENCES // 4]:
            if index >= len(alive):
                break
            best = alive[index]
            worse = (rate[alive] <= rate[best]) & (latency[alive] >= latency[best])
            worse &= (gpus[alive] >= gpus[best]) & (
                (rate[alive] < rate[best])
                | (latency[alive] > latency[best])
                | (gpus[alive] > gpus[best])
                | (alive > best)
            )
            alive = alive[~worse]
    # Sweep by latency: a staircase of (GPUs, best rate so far) answers each point by bisection.
    order = alive[np.lexsort((alive, -rate[alive], gpus[alive], latency[alive]))]
    sizes: list[int] = []
    rates: list[float] = []
    kept = []
    for point in order:
        size, value = int(gpus[point]), float(rate[point])
        place = bisect_right(sizes, size)
        if place and rates[place - 1] >= value:
            continue
        kept.append(point)
        while place < len(sizes) and rates[place] <= value:
            del sizes[place], rates[place]
        if place and sizes[place - 1] == size:
            rates[place - 1] = value
        else:
            sizes.insert(place, size)
            rates.insert(place, value)
    return np.array(kept, dtype=np.int64)


def winning_ranges(rate: Floats, latency: Floats) -> tuple[Floats, Floats]:
    """For points sorted by latency: from which to which latency limit each has the highest rate."""
    starts, ends = np.zeros(len(rate)), np.zeros(len(rate))
    best = -1
    for point in range(len(rate)):
        if best < 0 or rate[point] > rate[best]:
            if best >= 0:
                ends[best] = latency[point]
            starts[point] = latency[point]
            best = point
    if best >= 0:
        ends[best] = np.inf
    same = starts == ends
    starts[same], ends[same] = 0.0, 0.0
    return starts, ends
