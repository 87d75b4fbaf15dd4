"""Shapes and operations of every row, from the specs and the grid."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, degrees, number
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal, rounding
from optimizer.verify.matrices import Matrix
from optimizer.verify.memory import expert_pairs
from optimizer.verify.products import attention_flops, shapes
from optimizer.verify.tables import part_counts, tables

NO_PRODUCT = ("m", "n", "k", "flops")  # 0 for memory traffic and collectives
TILE_ROWS = 16  # a grouped product may compute so many rows for an expert that has a token


def arithmetic(plan: Json) -> Iterator[Outcome]:
    """Operations of every row follow from its shape, and its shape from the specs."""
    for deployment, phase, table in tables(plan):
        for part in part_counts(plan, degrees(deployment)):
            rows = [row for row in table["rows"] if row["part"] == part]
            if rows:
                outcomes = _part(plan, deployment, part, rows, table["grid"])
                yield all_hold(f"{phase} {part}", outcomes)


def _part(
    plan: Json, deployment: Json, part: str, rows: list[Json], grid: list[Json]
) -> Iterator[Outcome]:
    layout, layer = degrees(deployment), plan["model"]["layer_types"].get(part)
    common, experts = shapes(plan["model"], part, layout)
    products = [row for row in rows if row["kind"] == "gemm"]
    grouped = [row for row in rows if row["kind"] == "grouped_gemm"]
    attention = [row for row in rows if row["kind"] == "attention"]
    for row in rows:
        if row["kind"] not in ("gemm", "grouped_gemm"):
            for name in NO_PRODUCT[:3] if row["kind"] == "attention" else NO_PRODUCT:
                yield (
                    not any(row[name]),
                    f"{row['name']}: {name} {row[name]}, nothing is multiplied",
                )
    for at, point in enumerate(grid):
        for listed, due in ((products, common), (grouped, experts)):
            found = sorted([row["n"][at], row["k"][at]] for row in listed)
            shaped = sorted([matrix.outputs, matrix.inputs] for matrix in due)
            yield equal(f"shapes at point {at}", found, shaped)
        tokens = number(point["sequences" if part == "head" else "tokens"])
        for row in products:
            yield from _product(row, at, tokens)
        for row in grouped:
            pairs = expert_pairs(plan, layer["ffn"], layout, tokens)
            yield from _grouped_product(row, at, pairs, experts[0])
        if layer is not None:
            flops = sum(number(row["flops"][at]) for row in attention)
            derived = attention_flops(layer["attention"], point, layout["tp"])
            yield equal(f"attention flops at point {at}", flops, derived, ROUNDING)


def _product(row: Json, at: int, tokens: float) -> Iterator[Outcome]:
    m, flops = number(row["m"][at]), number(row["flops"][at])
    derived = 2 * m * row["n"][at] * row["k"][at]
    yield equal(f"{row['name']} m at point {at}", m, tokens, ROUNDING)
    off = ROUNDING if rounding(derived) else 0.0
    yield equal(f"{row['name']} flops at point {at}, 2 m n k", flops, derived, off)


def _grouped_product(row: Json, at: int, pairs: float, expert: Matrix) -> Iterator[Outcome]:
    """Each expert that has a token may compute a whole tile of rows."""
    m, flops = number(row["m"][at]), number(row["flops"][at])
    yield equal(f"{row['name']} m at point {at}", m, pairs, ROUNDING)
    row_flops = 2 * row["n"][at] * row["k"][at]
    least, most = m * row_flops, max(m, TILE_ROWS * min(expert.copies, m + 1)) * row_flops
    ok = least * (1 - ROUNDING) <= flops <= most * (1 + ROUNDING)
    yield ok, f"{row['name']} at point {at}: {flops:.6g} flops of {least:.6g} to {most:.6g}"
