"""The graph as one JSON document, a node or an edge a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from optimizer.plan import Plan
from optimizer.simulate.graph.formats.rows import edges, nodes
from optimizer.simulate.graph.graph import Graph


def as_json(graph: Graph, plan: Plan) -> Iterator[str]:
    """Quantities are one rank's; a node runs on every rank of its list at once."""
    head = {
        "plan": plan.name,
        "plan_hash": plan.hash,
        "num_nodes": len(graph),
        "num_edges": len(graph.source),
    }
    yield json.dumps(head, ensure_ascii=False)[:-1]
    yield ',\n"ranks": [\n'
    yield ",\n".join(
        json.dumps({"id": number, **rank._asdict()}, ensure_ascii=False)
        for number, rank in enumerate(graph.ranks)
    )
    what = [json.dumps(operation._asdict())[1:-1] for operation in graph.operations]
    where = [json.dumps(team) for team in graph.teams]
    yield '\n],\n"nodes": ['
    comma = "\n"
    for number, operation, team, layer, stage, micro_batch, turn in nodes(graph):
        yield (
            f'{comma}{{"id": {number}, {what[operation]}, "layer": {_or_null(layer)}, '
            f'"stage": {stage}, "micro_batch": {micro_batch}, "turn": {turn}, '
            f'"ranks": {where[team]}}}'
        )
        comma = ",\n"
    yield '\n],\n"edges": ['
    comma = "\n"
    for source, target, moved, data in edges(graph):
        kind = "data" if data else "order"
        yield (
            f'{comma}{{"source": {source}, "target": {target}, "kind": "{kind}", '
            f'"tensor_bytes": {moved!r}}}'
        )
        comma = ",\n"
    yield "\n]}\n"


def _or_null(number: int) -> str:
    return "null" if number < 0 else str(number)
