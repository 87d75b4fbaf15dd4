"""The graph as GraphML, which yEd, Gephi and networkx read."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from optimizer.plan import Plan
from optimizer.simulate.graph.formats.rows import edges, nodes
from optimizer.simulate.graph.graph import Graph, Operation

_TEXT = ("name", "part", "phase", "kind", "axis")
_NUMBERS = ("seconds", "flops", "bytes", "payload_bytes")
_COUNTS = ("layer", "stage", "micro_batch", "turn")


def as_graphml(graph: Graph, plan: Plan) -> Iterator[str]:
    """`ranks` lists the ranks that a node runs on, separated by spaces."""
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    )
    for names, kind in (((*_TEXT, "ranks"), "string"), (_NUMBERS, "double"), (_COUNTS, "int")):
        for name in names:
            yield f'<key id="{name}" for="node" attr.name="{name}" attr.type="{kind}"/>\n'
    for name, kind in (("tensor_bytes", "double"), ("dependency", "string")):
        yield f'<key id="{name}" for="edge" attr.name="{name}" attr.type="{kind}"/>\n'
    yield f'<graph id="{escape(plan.hash[:16])}" edgedefault="directed">\n'
    what = [_operation(operation) for operation in graph.operations]
    where = [f'<data key="ranks">{" ".join(map(str, team))}</data>' for team in graph.teams]
    for number, operation, team, layer, stage, micro_batch, turn in nodes(graph):
        yield (
            f'<node id="n{number}">{what[operation]}{where[team]}'
            f'<data key="layer">{layer}</data><data key="stage">{stage}</data>'
            f'<data key="micro_batch">{micro_batch}</data><data key="turn">{turn}</data></node>\n'
        )
    for source, target, moved, data in edges(graph):
        yield (
            f'<edge source="n{source}" target="n{target}">'
            f'<data key="tensor_bytes">{moved!r}</data>'
            f'<data key="dependency">{"data" if data else "order"}</data></edge>\n'
        )
    yield "</graph>\n</graphml>\n"


def _operation(operation: Operation) -> str:
    values = operation._asdict()
    shown = [
        (name, escape(str(values[name]))) for name in (*_TEXT, *_NUMBERS) if values[name] != ""
    ]
    return "".join(f'<data key="{name}">{text}</data>' for name, text in shown)
