"""A run as Chrome trace events, which Perfetto opens: a process a rank, a track a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np

from optimizer.simulate.engine import STREAMS, Run, stream_of
from optimizer.simulate.graph.formats.rows import Node, nodes
from optimizer.simulate.measuring import Memory
from optimizer.simulate.step import StepRun

SECOND = 1e6  # the format counts microseconds


def timelines(runs: Sequence[StepRun]) -> dict[str, Iterator[str]]:
    """A timeline a phase, and a deployment where there are several, by name."""
    several = len({run.deployment.name for run in runs}) > 1
    return {
        f"timeline-{run.phase}{f'-{number}' if several else ''}": timeline(run.run, run.memory)
        for number, run in enumerate(runs)
    }


def timeline(run: Run, memory: Memory | None = None) -> Iterator[str]:
    """timeline.json in pieces: slices of nodes on every rank that they hold, counters of memory."""
    graph = run.graph
    comma = "[\n"
    for number, rank in enumerate(graph.ranks):
        equal = f" and {rank.stands_for - 1} alike" if rank.stands_for > 1 else ""
        names = [("process_name", 0, f"rank {number}: {rank.gpu}, stage {rank.stage}{equal}")]
        names += [("thread_name", stream, name) for stream, name in enumerate(STREAMS)]
        for kind, stream, name in names:
            event = {"name": kind, "ph": "M", "pid": number, "tid": stream, "args": {"name": name}}
            yield comma + json.dumps(event)
            comma = ",\n"
    streams = [stream_of(operation) for operation in graph.operations]
    what = [json.dumps(operation.name) for operation in graph.operations]
    part = [json.dumps(operation.part) for operation in graph.operations]
    starts, ends = (run.start_s * SECOND).tolist(), (run.end_s * SECOND).tolist()
    for node in nodes(graph):
        start, end = starts[node.number], ends[node.number]
        if not start < end < np.inf:
            continue
        body = _slice(node, start, end, streams[node.operation], what, part)
        for number in graph.teams[node.team]:
            yield f'{comma}{{"pid": {number}, {body}'
            comma = ",\n"
    if memory is not None:
        for number, (times, held) in enumerate(zip(memory.times_s, memory.held_bytes, strict=True)):
            for time, amount in zip(times.tolist(), held.tolist(), strict=True):
                yield (
                    f'{comma}{{"pid": {number}, "name": "memory", "ph": "C", '
                    f'"ts": {time * SECOND!r}, "args": {{"bytes": {amount!r}}}}}'
                )
    yield "\n]\n"


def _slice(
    node: Node, start: float, end: float, stream: int, what: list[str], part: list[str]
) -> str:
    return (
        f'"tid": {stream}, "name": {what[node.operation]}, "ph": "X", "ts": {start!r}, '
        f'"dur": {end - start!r}, "args": {{"part": {part[node.operation]}, '
        f'"layer": {node.layer}, "micro_batch": {node.micro_batch}, "turn": {node.turn}}}}}'
    )
