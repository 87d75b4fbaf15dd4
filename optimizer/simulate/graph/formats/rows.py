"""A graph's nodes and edges one after the other, in portions, so that writers hold little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from optimizer.simulate.graph.graph import Graph

PORTION = 1 << 16


class Node(NamedTuple):
    number: int
    operation: int
    team: int
    layer: int
    stage: int
    micro_batch: int
    turn: int


class Edge(NamedTuple):
    source: int
    target: int
    tensor_bytes: float
    data: bool


def nodes(graph: Graph) -> Iterator[Node]:
    for start in range(0, len(graph), PORTION):
        part = slice(start, start + PORTION)
        columns = (
            graph.operation[part].tolist(),
            graph.team[part].tolist(),
            graph.layer[part].tolist(),
            graph.stage[part].tolist(),
            graph.micro_batch[part].tolist(),
            graph.turn[part].tolist(),
        )
        numbers = range(start, start + len(columns[0]))
        yield from map(Node._make, zip(numbers, *columns, strict=True))


def edges(graph: Graph) -> Iterator[Edge]:
    for start in range(0, len(graph.source), PORTION):
        part = slice(start, start + PORTION)
        columns = (
            graph.source[part].tolist(),
            graph.target[part].tolist(),
            graph.tensor_bytes[part].tolist(),
            graph.data[part].tolist(),
        )
        yield from map(Edge._make, zip(*columns, strict=True))
