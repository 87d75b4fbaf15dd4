"""Amounts of limits in words."""

from __future__ import annotations

from optimizer.units import gib, milliseconds

UNITS = {  # every other limit is in seconds
    "memory": "B",
    "GPUs": "GPUs",
    "context": "tokens",
    "room on the nodes": "stages",
}


def amount(limit: str, value: float) -> str:
    """What a limit bounds, for a reader: "71.3 GiB", "34 ms", "2,048 tokens"; of GPUs, "64"."""
    unit = UNITS.get(limit, "s")
    if unit == "B":
        return gib(value)
    if unit == "s":
        return milliseconds(value)
    return f"{value:,.0f}" if unit == limit else f"{value:,.0f} {unit}"
