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
    """What a limit bounds, for a reader: "71.3 GiB", "64 GPUs", "34 ms"."""
    unit = UNITS.get(limit, "s")
    if unit == "B":
        return gib(value)
    return milliseconds(value) if unit == "s" else f"{value:,.0f} {unit}"
