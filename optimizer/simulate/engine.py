"""Discrete events: an execution graph runs on the streams of its ranks and on the links they share.

A rank has three streams: compute, collectives, transfers between stages; each runs one node at a
time, in the order in which nodes became ready. A collective starts when all its ranks have come to
it and holds the stream of each. Communications that use a link of one rank at the same time share
it evenly. Left out: contention inside switches; every GPU has a link of its own on each tier.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from optimizer.simulate.graph.graph import RECEIVE, Floats, Graph, Operation
from optimizer.simulate.table import COLLECTIVES

COMPUTE, COLLECTIVE, TRANSFER = range(3)  # streams of a rank
STREAMS = ("compute", "collectives", "transfers")


@dataclass(frozen=True)
class Run:
    """When each node ran [n]: start_s is infinite where it never started, end_s where it never
    ended. dead: ranks that died, with their times."""

    graph: Graph
    start_s: Floats
    end_s: Floats
    dead: Mapping[int, float]

    @property
    def seconds(self) -> float:
        """Until the last node that ended."""
        ended = self.end_s[np.isfinite(self.end_s)]
        return float(ended.max(initial=0.0))

    @property
    def complete(self) -> bool:
        return bool(np.isfinite(self.end_s).all())


def stream_of(operation: Operation) -> int:
    if operation.kind in ("send_recv", RECEIVE):
        return TRANSFER
    return COLLECTIVE if operation.kind in COLLECTIVES else COMPUTE


def run_graph(
    graph: Graph, seconds: Floats | None = None, deaths: Mapping[int, float] | None = None
) -> Run:
    """Runs every node that can run; `seconds` [n] stand in for the operations' own, `deaths` are
    rank -> time. A node of a dead rank never ends, and nothing that waits for it starts."""
    if seconds is None:
        seconds = graph.column("seconds")
    return _Engine(graph, seconds.tolist(), deaths or {}).run()


class _Share(NamedTuple):
    """A communication under way: seconds left at full rate, its rate, and since when."""

    left_s: float
    rate: float
    since_s: float


class _Engine:
    def __init__(self, graph: Graph, seconds: Sequence[float], deaths: Mapping[int, float]) -> None:
        self.graph, self.seconds, self.deaths = graph, seconds, dict(deaths)
        self.waiting = graph.in_degree.tolist()
        first, following = graph.successors
        self.first, self.following = first.tolist(), following.tolist()
        self.operation, self.team = graph.operation.tolist(), graph.team.tolist()
        kinds = [stream_of(operation) for operation in graph.operations]
        self.kinds = kinds
        self.streams: list[list[tuple[int, ...]]] = [
            [tuple(3 * rank + kind for rank in team) for team in graph.teams] for kind in range(3)
        ]
        self.is_link = [
            kind != COMPUTE and operation.kind != RECEIVE
            for kind, operation in zip(kinds, graph.operations, strict=True)
        ]
        tiers = [operation.inside < operation.group_size for operation in graph.operations]
        self.tiers = [int(tier) for tier in tiers]
        num_streams = 3 * len(graph.ranks)
        self.busy = [False] * num_streams
        self.queues: list[deque[int]] = [deque() for _ in range(num_streams)]
        self.users: list[dict[int, None]] = [{} for _ in range(2 * len(graph.ranks))]
        self.shares: dict[int, _Share] = {}
        self.due = [float("inf")] * len(graph)
        self.start = [float("inf")] * len(graph)
        self.events: list[tuple[float, int]] = []

    def run(self) -> Run:
        for rank, at_s in self.deaths.items():
            heappush(self.events, (at_s, -1 - rank))
        ready = [node for node, count in enumerate(self.waiting) if not count]
        self._enqueue(ready, 0.0)
        events, due, waiting = self.events, self.due, self.waiting
        first, following = self.first, self.following
        end = [float("inf")] * len(waiting)
        while events:
            now = events[0][0]
            ready, freed = [], []
            while events and events[0][0] == now:
                node = heappop(events)[1]
                if node < 0:
                    self._kill(-1 - node)
                elif due[node] == now:
                    due[node] = float("inf")
                    end[node] = now
                    freed.append(node)
                    for after in following[first[node] : first[node + 1]]:
                        waiting[after] -= 1
                        if not waiting[after]:
                            ready.append(after)
            for node in freed:
                self._release(node, now)
            self._enqueue(sorted(ready), now)
            for node in freed:
                for stream in self._streams(node):
                    queue = self.queues[stream]
                    if queue:
                        self._try(queue[0], now)
        return Run(self.graph, np.array(self.start), np.array(end), self.deaths)

    def _streams(self, node: int) -> tuple[int, ...]:
        found: tuple[int, ...] = self.streams[self.kinds[self.operation[node]]][self.team[node]]
        return found

    def _enqueue(self, nodes: Sequence[int], now: float) -> None:
        for node in nodes:
            for stream in self._streams(node):
                self.queues[stream].append(node)
            self._try(node, now)

    def _try(self, node: int, now: float) -> None:
        """Starts a node that is first on all its streams, if all are free."""
        streams, busy, queues = self._streams(node), self.busy, self.queues
        for stream in streams:
            if busy[stream] or queues[stream][0] != node:
                return
        for stream in streams:
            busy[stream] = True
            queues[stream].popleft()
        self.start[node] = now
        if self.is_link[self.operation[node]]:
            self._join(node, now)
        else:
            self._finish_at(node, now + self.seconds[node])

    def _finish_at(self, node: int, time_s: float) -> None:
        self.due[node] = time_s
        heappush(self.events, (time_s, node))

    def _release(self, node: int, now: float) -> None:
        for stream in self._streams(node):
            self.busy[stream] = stream // 3 in self.deaths and self.deaths[stream // 3] <= now
        if self.is_link[self.operation[node]]:
            self.shares.pop(node)
            others: dict[int, None] = {}
            for link in self._links(node):
                del self.users[link][node]
                others.update(self.users[link])
            self._share(others, now)

    def _links(self, node: int) -> list[int]:
        tier = self.tiers[self.operation[node]]
        return [2 * rank + tier for rank in self.graph.teams[self.team[node]]]

    def _join(self, node: int, now: float) -> None:
        self.shares[node] = _Share(self.seconds[node], 0.0, now)
        affected = {node: None}
        for link in self._links(node):
            affected.update(self.users[link])
            self.users[link][node] = None
        self._share(affected, now)

    def _share(self, nodes: Mapping[int, None], now: float) -> None:
        """Each goes on at 1 / users of its busiest link."""
        for node in nodes:
            left_s, rate, since_s = self.shares[node]
            left_s = max(0.0, left_s - (now - since_s) * rate)
            rate = 1.0 / max(len(self.users[link]) for link in self._links(node))
            self.shares[node] = _Share(left_s, rate, now)
            self._finish_at(node, now + left_s / rate)

    def _kill(self, rank: int) -> None:
        """What runs on the rank never ends, and its streams stay taken."""
        for node in np.flatnonzero(np.isfinite(np.array(self.due))).tolist():
            if rank in self.graph.teams[self.team[node]]:
                self.due[node] = float("inf")
        for kind in range(3):
            self.busy[3 * rank + kind] = True
