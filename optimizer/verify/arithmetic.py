"""Shapes and operations of every row, from the specs and the grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from optimizer.verify.document import Json, degrees, number
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal, rounding
from optimizer.verify.gpus import shares_of
from optimizer.verify.memory import expert_pairs
from optimizer.verify.products import attention_flops, shapes
from optimizer.verify.slots import imbalance
from optimizer.verify.tables import part_counts, tables

NO_PRODUCT = ("m", "n", "k", "flops")  # 0 for memory traffic and collectives
SPREADS = 4.0  # standard deviations by which the hottest rank's pairs may exceed their mean


def arithmetic(plan: Json) -> Iterator[Outcome]:
    """Operations of every row follow from its shape, and its shape from the specs."""
    for deployment, phase, table in tables(plan):
        parts = [
            (part, [row for row in share.rows(deployment, table) if row["part"] == part])
            for share in shares_of(plan, deployment)
            for part in part_counts(plan, deployment, share)
        ]
        for part, rows in parts:
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
    skew = imbalance(plan) if grouped else 1.0
    for row in rows:
        if row["kind"] not in ("gemm", "grouped_gemm"):
            for name in NO_PRODUCT[:3] if row["kind"] == "attention" else NO_PRODUCT:
                yield (
                    not any(row[name]),
                    f"{row['name']}: {name} {row[name]}, nothing is multiplied",
                )
    for at, point in enumerate(grid):
        for listed, due in ((products, common), (grouped, experts)):
            found = _multiplied((row["k"][at], row["n"][at]) for row in listed)
            shaped = _multiplied((matrix.inputs, matrix.outputs) for matrix in due)
            yield equal(f"shapes at point {at}", found, shaped)
        tokens = number(point["sequences" if part == "head" else "tokens"])
        for row in products:
            yield from _product(row, at, tokens)
        for row in grouped:
            pairs = expert_pairs(plan, layer["ffn"], layout, tokens, skew)
            yield from _grouped_product(row, at, pairs)
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


def _multiplied(shapes: Iterable[tuple[float, float]]) -> list[list[float]]:
    """Columns that inputs of each width are multiplied with: products of one input may be one."""
    found: dict[float, float] = {}
    for inputs, outputs in shapes:
        found[inputs] = found.get(inputs, 0) + outputs
    return sorted([inputs, outputs] for inputs, outputs in found.items())


def _grouped_product(row: Json, at: int, pairs: float) -> Iterator[Outcome]:
    """The hottest rank draws more than its mean share when tokens pick experts at random."""
    m, flops = number(row["m"][at]), number(row["flops"][at])
    yield equal(f"{row['name']} m at point {at}", m, pairs, ROUNDING)
    row_flops = 2 * row["n"][at] * row["k"][at]
    least, most = m * row_flops, (m + SPREADS * math.sqrt(m)) * row_flops
    ok = least * (1 - ROUNDING) <= flops <= most * (1 + ROUNDING)
    yield ok, f"{row['name']} at point {at}: {flops:.6g} flops of {least:.6g} to {most:.6g}"
