"""What a run of a graph says of each rank: busy, exposed communication, idle, memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.simulate.engine import COMPUTE, Run, stream_of
from optimizer.simulate.graph.graph import Floats, Graph, Ids


class RankTimes(NamedTuple):
    """Seconds of each rank [ranks]; compute_s + exposed_s + idle_s is the run's length.

    communication_s is the time in which a collective or a transfer runs; exposed_s the part of it
    in which the rank computes nothing; idle_s is bubbles and waiting for others.
    """

    compute_s: Floats
    communication_s: Floats
    exposed_s: Floats
    idle_s: Floats


class Memory(NamedTuple):
    """Bytes held beyond what stays, rank by rank: (times, bytes after each) and the peaks."""

    times_s: tuple[Floats, ...]
    held_bytes: tuple[Floats, ...]
    peak_bytes: Floats


def on_ranks(graph: Graph, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], Ids]:
    """(node, rank) of every rank of each of these nodes."""
    sizes = graph.team_sizes[nodes]
    members = np.concatenate([np.array(team, dtype=np.int32) for team in graph.teams])
    first = np.concatenate([[0], np.cumsum([len(team) for team in graph.teams])[:-1]])
    starts = np.repeat(first[graph.team[nodes]] - np.cumsum(sizes) + sizes, sizes)
    return np.repeat(nodes, sizes), members[starts + np.arange(sizes.sum())]


def rank_times(run: Run) -> RankTimes:
    """Sums over the nodes that ended."""
    graph = run.graph
    streams = np.array([stream_of(operation) for operation in graph.operations])[graph.operation]
    ended = np.isfinite(run.end_s) & (run.end_s > run.start_s)
    count = len(graph.ranks)
    nodes, ranks = on_ranks(graph, np.flatnonzero(ended))
    computes = streams[nodes] == COMPUTE
    compute = np.zeros(count)
    communication = np.zeros(count)
    exposed = np.zeros(count)
    order = np.argsort(ranks, kind="stable")
    bounds = np.searchsorted(ranks[order], np.arange(count + 1))
    for rank in range(count):
        own = order[bounds[rank] : bounds[rank + 1]]
        busy = own[computes[own]]
        talk = own[~computes[own]]
        start, end = run.start_s[nodes], run.end_s[nodes]
        compute[rank] = _covered(start[busy], end[busy])
        communication[rank] = _covered(start[talk], end[talk])
        exposed[rank] = _covered(start[own], end[own]) - compute[rank]
    idle = run.seconds - compute - exposed
    return RankTimes(compute, communication, exposed, np.maximum(idle, 0.0))


def _covered(start: Floats, end: Floats) -> float:
    """Length of the union of intervals."""
    if not len(start):
        return 0.0
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    reached = np.concatenate([[-np.inf], np.maximum.accumulate(end)[:-1]])
    return float(np.maximum(end - np.maximum(start, reached), 0.0).sum())


def replayed_memory(run: Run) -> Memory:
    """Every operator takes memory for what it writes when it starts, and frees it when its last
    reader on the same ranks has ended. A reader that never ended keeps it."""
    graph = run.graph
    written = np.array([operation.tensor_bytes for operation in graph.operations])
    last_read = run.end_s.copy()
    reads = graph.data & (graph.team_sizes[graph.source] > 0)
    np.maximum.at(last_read, graph.source[reads], run.end_s[graph.target[reads]])
    holds = np.isfinite(run.start_s) & (written[graph.operation] > 0)
    nodes, ranks = on_ranks(graph, np.flatnonzero(holds))
    amount = written[graph.operation[nodes]]
    freed = np.isfinite(last_read[nodes])
    times = np.concatenate([run.start_s[nodes], last_read[nodes[freed]]])
    change = np.concatenate([amount, -amount[freed]])
    owner = np.concatenate([ranks, ranks[freed]])
    order = np.lexsort((change, times, owner))  # at one time: free first
    bounds = np.searchsorted(owner[order], np.arange(len(graph.ranks) + 1))
    series: list[tuple[Floats, Floats]] = []
    for rank in range(len(graph.ranks)):
        own = order[bounds[rank] : bounds[rank + 1]]
        series.append((times[own], np.maximum(np.cumsum(change[own]), 0.0)))
    peaks = np.array([held.max(initial=0.0) for _, held in series])
    return Memory(tuple(times for times, _ in series), tuple(held for _, held in series), peaks)
