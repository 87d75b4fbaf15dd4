"""The execution graph of a plan as columns: operators on ranks, and what each waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import PlanError

Ids = NDArray[np.int32]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RECEIVE = "receive"  # the other end of a send_recv: no time and no bytes of its own


class Operation(NamedTuple):
    """What a node does; all nodes of one operator and phase share it.

    kind: an operator's of the plan (gemm, grouped_gemm, attention, memory, a collective,
    send_recv), "receive", or "compute" for a whole pass of a training stage. flops, bytes and
    payload_bytes are one rank's; tensor_bytes is what it hands on.
    """

    name: str
    part: str
    phase: str
    kind: str
    axis: str = ""
    group_size: int = 1
    inside: int = 1
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    payload_bytes: float = 0.0
    tensor_bytes: float = 0.0


class Rank(NamedTuple):
    """One worker: its GPU, where it stands, and how many equal ranks it stands for."""

    gpu: str
    deployment: int
    replica: int
    rank: int  # in its replica
    stage: int
    stands_for: int
    experts: str


@dataclass(frozen=True)
class Graph:
    """n nodes and m edges. A node runs operations[operation] on all ranks of teams[team] at once
    (one rank, unless it is a collective); layer, micro_batch and turn are -1 where they mean
    nothing. An edge says that `target` waits for `source`: for a tensor of tensor_bytes where
    `data`, else only for its turn."""

    operations: tuple[Operation, ...]
    ranks: tuple[Rank, ...]
    teams: tuple[tuple[int, ...], ...]
    operation: Ids
    team: Ids
    layer: Ids
    stage: Ids
    micro_batch: Ids
    turn: Ids
    source: Ids
    target: Ids
    tensor_bytes: Floats
    data: Flags

    def __len__(self) -> int:
        return len(self.operation)

    def column(self, quantity: str) -> Floats:
        """A quantity of one rank of every node [n]: seconds, flops, bytes, payload_bytes."""
        values = np.array([getattr(each, quantity) for each in self.operations])
        found: Floats = values[self.operation]
        return found

    def of_kind(self, *kinds: str) -> Flags:
        """Which nodes are of one of these kinds [n]."""
        chosen = np.array([each.kind in kinds for each in self.operations])
        found: Flags = chosen[self.operation]
        return found

    @cached_property
    def team_sizes(self) -> Ids:
        """Ranks of every node [n]."""
        sizes = np.array([len(team) for team in self.teams], dtype=np.int32)
        found: Ids = sizes[self.team]
        return found

    @cached_property
    def in_degree(self) -> Ids:
        return np.bincount(self.target, minlength=len(self)).astype(np.int32)

    @cached_property
    def successors(self) -> tuple[Ids, Ids]:
        """(first, next): node i's successors are next[first[i] : first[i + 1]], ascending edges."""
        order = np.argsort(self.source, kind="stable")
        counts = np.bincount(self.source, minlength=len(self))
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return first, self.target[order]

    def only(self, keep: Flags) -> Self:
        """The nodes chosen, with the edges between them."""
        number = np.cumsum(keep, dtype=np.int32) - 1
        edges = keep[self.source] & keep[self.target]
        nodes = {name: getattr(self, name)[keep] for name in NODE_COLUMNS}
        return replace(
            self,
            **nodes,
            source=number[self.source[edges]],
            target=number[self.target[edges]],
            tensor_bytes=self.tensor_bytes[edges],
            data=self.data[edges],
        )


NODE_COLUMNS = ("operation", "team", "layer", "stage", "micro_batch", "turn")


def topological_order(graph: Graph) -> Ids:
    """An order in which every node follows all that it waits for; PlanError names a cycle."""
    waiting = graph.in_degree.copy()
    first, following = graph.successors
    done = np.zeros(len(graph), dtype=bool)
    wave = np.flatnonzero(waiting == 0).astype(np.int32)
    waves = []
    while len(wave):
        waves.append(wave)
        done[wave] = True
        counts = first[wave + 1] - first[wave]
        starts = np.repeat(first[wave] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        reached = following[starts + np.arange(counts.sum())]
        np.subtract.at(waiting, reached, 1)
        reached = np.unique(reached)
        wave = reached[waiting[reached] == 0]
    if not done.all():
        raise PlanError(f"the execution graph has a cycle: {_cycle(graph, done)}")
    return np.concatenate(waves) if waves else np.zeros(0, dtype=np.int32)


def _cycle(graph: Graph, done: Flags) -> str:
    """Walks back from a node that never ran until one repeats."""
    pending = ~done[graph.source] & ~done[graph.target]
    before = dict(zip(graph.target[pending].tolist(), graph.source[pending].tolist(), strict=True))
    node, path = next(iter(before)), []
    while node not in path:
        path.append(node)
        node = before[node]
    loop = [*path[path.index(node) :], node][::-1]
    shown = loop if len(loop) <= 8 else [*loop[:4], *loop[-3:]]
    return " -> ".join(f"{graph.operations[graph.operation[each]].name} ({each})" for each in shown)


def joined(graphs: Sequence[Graph]) -> Graph:
    """Several graphs over the same ranks and teams as one, side by side."""
    kinds = np.cumsum([0, *(len(graph.operations) for graph in graphs)])
    nodes = np.cumsum([0, *(len(graph) for graph in graphs)])

    def column(name: str, shift: NDArray[np.int64] | None = None) -> NDArray[Any]:
        parts = [getattr(graph, name) for graph in graphs]
        if shift is not None:
            parts = [part + by for part, by in zip(parts, shift.astype(np.int32), strict=False)]
        return np.concatenate(parts)

    return replace(
        graphs[0],
        operations=tuple(each for graph in graphs for each in graph.operations),
        operation=column("operation", kinds),
        team=column("team"),
        layer=column("layer"),
        stage=column("stage"),
        micro_batch=column("micro_batch"),
        turn=column("turn"),
        source=column("source", nodes),
        target=column("target", nodes),
        tensor_bytes=column("tensor_bytes"),
        data=column("data"),
    )
