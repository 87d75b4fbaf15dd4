"""The graph for Graphviz: compute as boxes, collectives as ellipses, order dashed."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.plan import Plan
from optimizer.simulate.graph.formats.rows import edges, nodes
from optimizer.simulate.graph.formats.wording import bytes_text, seconds_text
from optimizer.simulate.graph.graph import RECEIVE, Graph, Operation
from optimizer.simulate.table import COLLECTIVES


def as_dot(graph: Graph, plan: Plan) -> Iterator[str]:
    yield f'digraph "{_quoted(plan.name)}" {{\nnode [shape=box, fontname="sans-serif"];\n'
    what = [_operation(operation) for operation in graph.operations]
    where = [f"rank {team[0]}" if len(team) == 1 else f"{len(team)} ranks" for team in graph.teams]
    shapes = [
        ", shape=ellipse" if each.kind in COLLECTIVES or each.kind == RECEIVE else ""
        for each in graph.operations
    ]
    for number, operation, team, layer, stage, micro_batch, _ in nodes(graph):
        place = f"stage {stage}" if layer < 0 else f"layer {layer}"
        label = rf"{what[operation]}\n{place}, micro-batch {micro_batch}, {where[team]}"
        yield f'n{number} [label="{label}"{shapes[operation]}];\n'
    for source, target, moved, data in edges(graph):
        if data:
            yield f'n{source} -> n{target} [label="{bytes_text(moved)}"];\n'
        else:
            yield f"n{source} -> n{target} [style=dashed];\n"
    yield "}\n"


def _operation(operation: Operation) -> str:
    time = f", {seconds_text(operation.seconds)}" if operation.seconds else ""
    return f"{_quoted(operation.name)}{time}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
