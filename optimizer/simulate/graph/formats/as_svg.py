"""The graph as a picture: the operators of some layers, or the schedule of the whole pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np

from optimizer.errors import Problem, SpecError
from optimizer.plan import Plan
from optimizer.simulate.engine import STREAMS, TRANSFER, Run, run_graph, stream_of
from optimizer.simulate.graph.formats.wording import bytes_text, seconds_text
from optimizer.simulate.graph.graph import Flags, Graph, Operation, topological_order

MARGIN, HEADER = 24, 84
CARD_WIDTH, CARD_HEIGHT, COLUMN, ROW = 250, 46, 290, 62
LANE_LABEL, TRACK_WIDTH, LANE = 90, 1100, 44
MOST_CARDS, MOST_BLOCKS = 600, 20_000
STREAM_COLORS = ("#cfe3f7", "#fbdcb8", "#d8efd0")
PASS_COLORS = ("#7fb2e5", "#f2b366", "#8fcf88", "#c9a0dc", "#f29c9c", "#8fd3d1")


def layers_svg(graph: Graph, plan: Plan) -> Iterator[str]:
    """One micro-batch of every phase: a card an operator, a column a stream, a row a depth."""
    graph = graph.only((graph.micro_batch <= 0) & (graph.turn <= 0))
    _refuse_more(len(graph), MOST_CARDS, "operators", '--phase, and fewer layers, "3"')
    depth = _depths(graph)
    streams = np.array([stream_of(each) for each in graph.operations])[graph.operation]
    slots: dict[tuple[int, int], int] = {}
    places: list[tuple[int, int]] = []
    top = _row_tops(depth, streams)
    for row, stream in zip(depth.tolist(), streams.tolist(), strict=True):
        slot = slots[row, stream] = slots.get((row, stream), -1) + 1
        places.append((MARGIN + stream * COLUMN, top[row] + slot * ROW))
    width = 2 * MARGIN + COLUMN * (len(STREAMS) - 1) + CARD_WIDTH
    yield from _opening(width, top[-1] + MARGIN, plan.name, "operators of one micro-batch")
    for stream, name in enumerate(STREAMS):
        yield _text(MARGIN + stream * COLUMN, HEADER - 12, name, "h")
    for source, target, moved, data in zip(
        graph.source.tolist(),
        graph.target.tolist(),
        graph.tensor_bytes.tolist(),
        graph.data.tolist(),
        strict=True,
    ):
        yield _arrow(places[source], places[target], bytes_text(moved) if data else "")
    longest = float(graph.column("seconds").max(initial=0.0)) or 1.0
    for node, (x, y) in enumerate(places):
        operation = graph.operations[graph.operation[node]]
        where = f"layer {graph.layer[node]}" if graph.layer[node] >= 0 else "end"
        title = f"{operation.phase}, stage {graph.stage[node]}, {where}"
        yield from _card(x, y, operation, title, longest)
    yield "</svg>\n"


def _card(x: int, y: int, operation: Operation, title: str, longest_s: float) -> Iterator[str]:
    color = STREAM_COLORS[stream_of(operation)]
    yield f"<g><title>{escape(title)}</title>"
    yield _box(x, y, CARD_WIDTH, CARD_HEIGHT, color)
    yield _text(x + 8, y + 17, operation.name, "b")
    moved = operation.payload_bytes or operation.bytes
    facts = [seconds_text(operation.seconds)] if operation.seconds else []
    facts += [bytes_text(moved)] if moved else []
    facts += [f"{operation.group_size} ranks"] if stream_of(operation) else []
    yield _text(x + 8, y + 34, ", ".join(facts), "t")
    share = (CARD_WIDTH - 16) * operation.seconds / longest_s
    yield f'<rect x="{x + 8}" y="{y + 39}" width="{share:.1f}" height="3" fill="#345"/></g>\n'


def _depths(graph: Graph) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The longest path to each node [n], in edges."""
    depth = np.zeros(len(graph), dtype=np.int64)
    first, following = graph.successors
    for node in topological_order(graph).tolist():
        after = following[first[node] : first[node + 1]]
        depth[after] = np.maximum(depth[after], depth[node] + 1)
    return depth


def _row_tops(
    depth: np.ndarray[tuple[int], np.dtype[np.int64]],
    streams: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[int]:
    """Where each row begins, and the end: a row is as high as its fullest column."""
    if not len(depth):
        return [HEADER]
    counts = np.zeros((depth.max() + 1, len(STREAMS)), dtype=np.int64)
    np.add.at(counts, (depth, streams), 1)
    ends = HEADER + ROW * np.cumsum(counts.max(axis=1))
    return [HEADER, *ends.tolist()]


def _arrow(source: tuple[int, int], target: tuple[int, int], label: str) -> str:
    middle = CARD_WIDTH // 2
    x1, y1, x2, y2 = source[0] + middle, source[1] + CARD_HEIGHT, target[0] + middle, target[1]
    gap = ROW - CARD_HEIGHT
    turn = y2 - gap if x1 != x2 else y1  # down its own column first: other cards stay readable
    kind = "d" if label else "o"
    path = f"M{x1} {y1}V{turn}C{x1} {y2} {x2} {turn} {x2} {y2}m-4 -5l4 5l4 -5"
    said = f"<title>{escape(label)}</title>" if label else ""
    return f'<path class="{kind}" d="{path}">{said}</path>\n'


def pipeline_svg(graph: Graph, plan: Plan) -> Iterator[str]:
    """Stages down, seconds to the right: a block a micro-batch, for each phase of each pool."""
    deployments = np.array([graph.ranks[team[0]].deployment for team in graph.teams])[graph.team]
    phases = np.array([each.phase for each in graph.operations])[graph.operation]
    pairs = sorted(set(zip(deployments.tolist(), phases.tolist(), strict=True)))
    panels = []
    for number, phase in pairs:
        own = graph.only((deployments == number) & (phases == phase))
        panels.append((f"{plan.deployments[number].name}, {phase}", run_graph(own)))
    blocks = sum(len(_passes(run)) for _, run in panels)
    _refuse_more(blocks, MOST_BLOCKS, "micro-batches on stages", "--phase, and --micro-batches 8")
    height = HEADER + sum(LANE * (int(run.graph.stage.max()) + 2) for _, run in panels)
    width = 2 * MARGIN + LANE_LABEL + TRACK_WIDTH
    yield from _opening(width, height, plan.name, "when each stage works on which micro-batch")
    y = HEADER
    for title, run in panels:
        yield _text(MARGIN, y - 12, f"{title}: {seconds_text(run.seconds)}", "h")
        yield from _panel(run, y)
        y += LANE * (int(run.graph.stage.max()) + 2)
    yield "</svg>\n"


def _panel(run: Run, y: int) -> Iterator[str]:
    left, scale = MARGIN + LANE_LABEL, TRACK_WIDTH / (run.seconds or 1.0)
    for stage in range(int(run.graph.stage.max()) + 1):
        yield _text(MARGIN, y + stage * LANE + 20, f"stage {stage}", "t")
        yield _box(left, y + stage * LANE, TRACK_WIDTH, LANE - 12, "#f1f1f1")
    for stage, turn, micro_batch, start_s, end_s in _passes(run):
        x, wide = left + start_s * scale, (end_s - start_s) * scale
        top = y + stage * LANE
        said = f"step {turn}, micro-batch {micro_batch}: {seconds_text(end_s - start_s)}"
        yield f"<g><title>{said}</title>"
        yield _box(x, top, wide, LANE - 12, PASS_COLORS[micro_batch % len(PASS_COLORS)])
        if wide > 18:
            yield _text(x + wide / 2, top + 20, str(micro_batch), "m")
        yield "</g>\n"


def _passes(run: Run) -> list[tuple[int, int, int, float, float]]:
    """(stage, turn, micro-batch, start, end) of the work between transfers, in order of start."""
    graph = run.graph
    streams = np.array([stream_of(each) for each in graph.operations])[graph.operation]
    works: Flags = (streams != TRANSFER) & (run.end_s > run.start_s) & (graph.micro_batch >= 0)
    keys = np.stack([graph.stage, graph.turn, graph.micro_batch])[:, works]
    if not keys.size:
        return []
    found, which = np.unique(keys, axis=1, return_inverse=True)
    starts = np.full(found.shape[1], np.inf)
    ends = np.zeros(found.shape[1])
    np.minimum.at(starts, which.ravel(), run.start_s[works])
    np.maximum.at(ends, which.ravel(), run.end_s[works])
    rows = zip(*found.tolist(), starts.tolist(), ends.tolist(), strict=True)
    return sorted(rows, key=lambda row: (row[3], row[:3]))


def _refuse_more(number: int, most: int, what: str, write: str) -> None:
    if number > most:
        message = f"{number} {what} are too many to look at (up to {most}): write {write}"
        raise SpecError(Problem(message, key="--format svg"))


def _opening(width: int, height: int, name: str, about: str) -> Iterator[str]:
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    yield f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
    yield "<style>.h{font-weight:bold;font-size:13px}.b{font-weight:bold}.t{fill:#345}"
    yield ".m{text-anchor:middle}.d,.o{fill:none;stroke:#678;stroke-width:1.3}"
    yield ".o{stroke-dasharray:3 3;stroke:#aaa}</style>\n"
    yield f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
    yield f'<text x="{MARGIN}" y="28" font-size="16">{escape(name)}</text>\n'
    yield _text(MARGIN, 46, about, "t")


def _box(x: float, y: float, width: float, height: float, color: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'fill="{color}" stroke="#fff" stroke-width="0.5"/>\n'
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>\n'
