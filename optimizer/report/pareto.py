"""pareto.csv and pareto.svg: what latency, throughput and GPUs may be had together."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from html import escape

from optimizer.plan import Front

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 84, 190, 56, 64
HEADINGS = (
    "name",
    "gpus",
    "sequences_per_rank",
    "prefill_chunk",
    "micro_batches",
    "ttft_s",
    "tpot_s",
    "latency_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu_used",
    "most_tokens_from_latency_s",
    "most_tokens_to_latency_s",
)
Scale = Callable[[float], float]
COLOURS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#d8b70a")


def pareto_csv(front: Front) -> str:
    """A row a point, by latency; empty wins columns where another point has more tokens/s."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    for point, name in enumerate(front.names):
        rate, gpus = float(front.tokens_per_s[point]), int(front.gpus[point])
        batch = (front.sequences[point], front.chunk[point], front.micro_batches[point])
        times = (front.ttft_s[point], front.tpot_s[point], front.latency_s[point])
        wins = (front.wins_from_s[point], front.wins_to_s[point])
        figures = (*times, rate, rate / gpus, *(wins if wins[1] > 0 else ()))
        writer.writerow([name, gpus, *map(int, batch), *(f"{value:.6g}" for value in figures)])
    return text.getvalue()


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high]."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    found = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
    inside = [tick for tick in found if low <= tick <= high]
    return inside if len(inside) < 12 else [tick for tick in inside if str(tick)[0] in "1"]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low / 1.15, high * 1.15) if high > low * 1.01 else (low / 2, high * 2)


def _short(value: float) -> str:
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def pareto_svg(front: Front, title: str) -> str:
    """Tokens/s over latency, both logarithmic; colour tells the GPUs used. The line joins points
    with the most tokens/s under some latency limit, named where the layout changes."""
    if not len(front):
        return ""
    xs, ys = [float(v) for v in front.latency_s], [float(v) for v in front.tokens_per_s]
    (x_low, x_high), (y_low, y_high) = _range(xs), _range(ys)

    def x_of(value: float) -> float:
        share = math.log(value / x_low) / math.log(x_high / x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        share = math.log(value / y_low) / math.log(y_high / y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    sizes = sorted({int(value) for value in front.gpus})
    shades = {
        size: COLOURS[index * (len(COLOURS) - 1) // max(1, len(sizes) - 1)]
        for index, size in enumerate(sizes)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="{LEFT}" y="43" fill="#555">Pareto front of tokens/s, latency and GPUs; '
        "the line has the most tokens/s under each latency limit</text>",
    ]
    for tick in ticks(x_low, x_high):
        x = x_of(tick)
        label = f"{tick:g} s" if tick >= 1 else f"{tick * 1e3:g} ms"
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>'
        )
    for tick in ticks(y_low, y_high):
        y = y_of(tick)
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e4e4e4"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    parts.append(
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}" fill="none" stroke="#888"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">'
        "latency of a request or a pass</text>"
        f'<text transform="translate(20 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        'text-anchor="middle">tokens/s of the deployment</text>'
    )
    winners = [point for point in range(len(front)) if front.wins_to_s[point] > 0]
    path = " ".join(f"{x_of(xs[point]):.1f},{y_of(ys[point]):.1f}" for point in winners)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#999" stroke-width="1.2"/>')
    for point in range(len(front)):
        radius = 4 if point in winners else 2.5
        parts.append(
            f'<circle cx="{x_of(xs[point]):.1f}" cy="{y_of(ys[point]):.1f}" r="{radius}" '
            f'fill="{shades[int(front.gpus[point])]}"><title>{escape(front.names[point])}</title>'
            "</circle>"
        )
    parts += _labels(front, winners, x_of, y_of)
    parts.append(
        f'<text x="{WIDTH - RIGHT + 20}" y="{TOP + 4}" font-weight="bold">GPUs used</text>'
    )
    shown = sizes if len(sizes) <= 14 else [*sizes[:: -(-len(sizes) // 13)], sizes[-1]]
    for index, size in enumerate(dict.fromkeys(shown)):
        y = TOP + 24 + 18 * index
        parts.append(
            f'<circle cx="{WIDTH - RIGHT + 26}" cy="{y - 4}" r="5" fill="{shades[size]}"/>'
            f'<text x="{WIDTH - RIGHT + 38}" y="{y}">{size:,}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _labels(front: Front, winners: list[int], x_of: Scale, y_of: Scale) -> list[str]:
    """Names where the winning layout changes, kept apart from each other."""
    found: list[str] = []
    last = ""
    taken: list[tuple[float, float]] = []
    for point in winners:
        name = front.names[point]
        if name == last:
            continue
        last = name
        x, y = x_of(float(front.latency_s[point])), y_of(float(front.tokens_per_s[point]))
        if any(abs(y - other) < 15 and abs(x - place) < 130 for place, other in taken):
            continue
        taken.append((x, y))
        left = x < LEFT + 9 * len(name)  # no room before the point
        at = f'x="{x + 8:.1f}" y="{y + 14:.1f}"' if left else f'x="{x - 7:.1f}" y="{y - 6:.1f}"'
        anchor = "start" if left else "end"
        found.append(f'<text {at} text-anchor="{anchor}" fill="#333">{escape(name)}</text>')
    return found
