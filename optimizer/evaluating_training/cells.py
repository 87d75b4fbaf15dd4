"""Cells of a row: numbers, words, and the fields' free-text notations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from optimizer.cost.training.layouts import (
    FULL,
    GRADIENTS,
    HALF,
    MODULES,
    NOTHING,
    OPTIMIZER,
    PARAMETERS,
    REPLICATED,
)

Row = Mapping[str, Any]
BITS = {"fp32": 16, "bf16": 16, "fp16": 16, "fp8": 8, "mxfp8": 8, "nvfp4": 4}


def number(row: Row, name: str) -> float | None:
    """A number, or None where the cell is blank or holds none."""
    try:
        value = float(row.get(name, math.nan))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def whole(row: Row, name: str) -> int | None:
    """A count of at least 1, or None."""
    value = number(row, name)
    return None if value is None or value < 1 or value > 10**9 else int(value)


def text(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None or value != value else str(value).strip()


def precision_of(row: Row) -> str:
    """bf16, fp16, fp8, mxfp8 or nvfp4: of the cell, else of the recipe that the notes name."""
    cell = text(row, "precision").lower()
    if cell in ("bf16", "fp16"):
        return cell
    for word, name in (("fp4", "nvfp4"), ("mx", "mxfp8"), ("fp8", "fp8")):
        if word in cell:
            return name
    recipe = re.search(r"_(fp8cs|fp8mx|nvfp4)_config", text(row, "notes"))
    return {"fp8cs": "fp8", "fp8mx": "mxfp8", "nvfp4": "nvfp4"}[recipe[1]] if recipe else "bf16"


def recompute_of(cell: str, layers: int) -> tuple[int, float]:
    """(bits, share of the layers) of Megatron's and torch's words: "full", "full:block 5 layers",
    "selective:[mla_up_proj, mlp]", "selective AC"."""
    if cell.startswith("full"):
        block = re.search(r"block (\d+)", cell)
        return FULL, int(block[1]) / layers if block else 1.0
    if re.search(r"selective AC|per-op|^half$", cell):
        return HALF, 1.0
    words = {
        "core_attn": r"core_attn|^selective$|selective\+SP",
        "mla_up_proj": "up_proj",
        "mlp": "mlp",
        "moe": r"moe(?!_act)",
        "moe_act": "moe_act",
        "layernorm": "layernorm",
    }
    bits = NOTHING
    for name, pattern in words.items():
        if re.search(pattern, cell):
            bits |= MODULES[name]
    return bits, 1.0


def sharding_of(cell: str, family: str, usual: str | None) -> int:
    """How state is cut over the data-parallel ranks, from the field's words."""
    for pattern, sharding in (
        ("GRAD_OP|ZeRO-2", GRADIENTS),
        ("FSDP|ZeRO-3", PARAMETERS),
        ("ZeRO-0|^none$", REPLICATED),
        ("dist|ZeRO-1", OPTIMIZER),
    ):
        if re.search(pattern, cell):
            return sharding
    if family == "torch":
        return PARAMETERS
    return REPLICATED if usual == "none" else OPTIMIZER
