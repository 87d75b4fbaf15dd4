"""A training step as an execution graph: passes of micro-batches in the order of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optimizer.errors import PlanError
from optimizer.simulate.graph.graph import RECEIVE, Graph, Operation, Rank
from optimizer.simulate.schedules import SCHEDULES, Order, Pass


class ChunkTimes(NamedTuple):
    """One chunk, one micro-batch: seconds of its passes (backward_s with weight_gradient_s), and
    bytes that stay from its forward to its backward."""

    forward_s: float
    backward_s: float
    weight_gradient_s: float = 0.0
    kept_bytes: float = 0.0
    forward_flops: float = 0.0


class Pipeline(NamedTuple):
    """A pipeline of one replica: chunk c lies on stage c % stages. send_s and send_bytes are of one
    message between neighbouring chunks; `after` runs once a step on every stage in this order, all
    its passes done: name -> (kind, seconds, payload bytes)."""

    schedule: str
    stages: int
    micro_batches: int
    chunks: tuple[ChunkTimes, ...]
    send_s: float = 0.0
    send_bytes: float = 0.0
    send_inside: int = 1
    held_bytes: float = 0.0  # of a message, on one rank: where sequences are cut, a share of it
    after: tuple[tuple[str, str, float, float], ...] = ()


PHASE = "training"


def training_graph(pipeline: Pipeline, ranks: Sequence[Rank]) -> Graph:
    """`ranks` has one worker a stage. Each pass waits for its turn on the stage and for what it
    reads: the chunk before it (forward), the chunk behind it and its own forward (backward)."""
    stages, count = pipeline.stages, len(pipeline.chunks)
    if pipeline.schedule not in SCHEDULES:
        raise PlanError(f"no schedule is called {pipeline.schedule!r}")
    if count % stages or (count > stages and pipeline.schedule != "interleaved"):
        raise PlanError(f"{count} chunks do not lie on {stages} stages under {pipeline.schedule}")
    orders = [
        SCHEDULES[pipeline.schedule](stage, stages, count // stages, pipeline.micro_batches)
        for stage in range(stages)
    ]
    draft = _Draft(pipeline)
    for stage, passes in _runnable(orders, count):
        draft.add(stage, passes)
    for stage in range(stages):
        draft.finish(stage)
    return draft.graph(tuple(ranks))


def _runnable(orders: Sequence[Order], chunks: int) -> list[tuple[int, Pass]]:
    """All passes in an order in which each follows what it waits for."""
    stages = len(orders)
    place, done = [0] * stages, set[tuple[str, int, int]]()
    found: list[tuple[int, Pass]] = []
    total = sum(map(len, orders))
    while len(found) < total:
        before = len(found)
        for stage, order in enumerate(orders):
            while place[stage] < len(order):
                own = order[place[stage]]
                if not all(each in done for each in _waits_for(own, stage, stages, chunks)):
                    break
                done.add((own.kind, own.micro_batch, own.chunk * stages + stage))
                found.append((stage, own))
                place[stage] += 1
        if len(found) == before:
            raise PlanError("the schedule of this plan stops: its passes wait for each other")
    return found


def _waits_for(own: Pass, stage: int, stages: int, chunks: int) -> list[tuple[str, int, int]]:
    """(kind, micro-batch, chunk of the whole model) of what a pass reads."""
    chunk = own.chunk * stages + stage
    if own.kind == "forward":
        return [("forward", own.micro_batch, chunk - 1)] if chunk else []
    if own.kind == "weight_gradient":
        return [("backward", own.micro_batch, chunk)]
    behind = [("backward", own.micro_batch, chunk + 1)] if chunk + 1 < chunks else []
    return [("forward", own.micro_batch, chunk), *behind]


class _Draft:
    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.operations: list[Operation] = []
        self.numbers: dict[tuple[str, int], int] = {}
        self.nodes: list[tuple[int, int, int]] = []  # operation, stage, micro-batch
        self.edges: list[tuple[int, int, float, bool]] = []
        self.placed: dict[tuple[str, int, int], int] = {}
        self.latest: dict[int, int] = {}
        split = pipeline.schedule == "zero_bubble"
        for number, chunk in enumerate(pipeline.chunks):
            weights = chunk.weight_gradient_s if split else 0.0
            self._operation(
                "forward", number, chunk.forward_s, chunk.kept_bytes, chunk.forward_flops
            )
            backward = chunk.backward_s - weights
            share = 1.0 if split else 2.0
            self._operation("backward", number, backward, 0.0, share * chunk.forward_flops)
            self._operation("weight_gradient", number, weights, 0.0, chunk.forward_flops)
        inside = pipeline.send_inside
        send = Operation(
            "stage_send",
            "boundary",
            PHASE,
            "send_recv",
            "pp",
            2,
            inside,
            pipeline.send_s,
            payload_bytes=pipeline.send_bytes,
        )
        receive = Operation(
            "stage_receive",
            "boundary",
            PHASE,
            RECEIVE,
            "pp",
            2,
            inside,
            tensor_bytes=pipeline.held_bytes,
        )
        self.send, self.receive = len(self.operations), len(self.operations) + 1
        self.operations += [send, receive]

    def _operation(self, kind: str, chunk: int, seconds: float, kept: float, flops: float) -> None:
        self.numbers[kind, chunk] = len(self.operations)
        self.operations.append(
            Operation(
                kind,
                f"chunk {chunk}",
                PHASE,
                "compute",
                seconds=seconds,
                flops=flops,
                tensor_bytes=kept,
            )
        )

    def _node(self, operation: int, stage: int, micro_batch: int) -> int:
        self.nodes.append((operation, stage, micro_batch))
        return len(self.nodes) - 1

    def add(self, stage: int, own: Pass) -> None:
        """A pass, after its stage's pass before it, with messages from and to other stages."""
        stages, count = self.pipeline.stages, len(self.pipeline.chunks)
        chunk = own.chunk * stages + stage
        kept = self.pipeline.chunks[chunk].kept_bytes
        before = []
        for kind, micro_batch, other in _waits_for(own, stage, stages, count):
            source = self.placed[kind, micro_batch, other]
            if other % stages == stage:
                before.append((source, kept if kind == "forward" and other == chunk else 0.0))
                continue
            send = self._node(self.send, other % stages, micro_batch)
            receive = self._node(self.receive, stage, micro_batch)
            moved = self.pipeline.send_bytes
            self.edges += [(source, send, moved, True), (send, receive, moved, True)]
            before.append((receive, moved))
        node = self._node(self.numbers[own.kind, chunk], stage, own.micro_batch)
        self.edges += [(source, node, moved, True) for source, moved in before]
        if stage in self.latest and all(source != self.latest[stage] for source, _ in before):
            self.edges.append((self.latest[stage], node, 0.0, False))
        self.placed[own.kind, own.micro_batch, chunk] = self.latest[stage] = node

    def finish(self, stage: int) -> None:
        """What every stage does once a step."""
        for name, kind, seconds, payload in self.pipeline.after:
            if ("after", len(self.operations)) not in self.numbers and stage == 0:
                self.numbers[name, -1] = len(self.operations)
                group = 2 if kind != "memory" else 1
                axis = "dp" if kind != "memory" else ""
                self.operations.append(
                    Operation(
                        name, "step", PHASE, kind, axis, group, 1, seconds, payload_bytes=payload
                    )
                )
            node = self._node(self.numbers[name, -1], stage, -1)
            self.edges.append((self.latest[stage], node, payload, True))
            self.latest[stage] = node

    def graph(self, ranks: tuple[Rank, ...]) -> Graph:
        operation, stage, micro_batch = np.array(self.nodes, dtype=np.int32).T
        edges = np.array([edge[:2] for edge in self.edges], dtype=np.int32).reshape(-1, 2).T
        nothing = np.full(len(operation), -1, dtype=np.int32)
        return Graph(
            operations=tuple(self.operations),
            ranks=ranks,
            teams=tuple((rank,) for rank in range(len(ranks))),
            operation=operation,
            team=stage,
            layer=nothing,
            stage=stage,
            micro_batch=micro_batch,
            turn=np.zeros(len(operation), dtype=np.int32),
            source=edges[0],
            target=edges[1],
            tensor_bytes=np.array([edge[2] for edge in self.edges], dtype=np.float64),
            data=np.array([edge[3] for edge in self.edges], dtype=np.bool_),
        )
