"""Claimed figures: their units and the ways in which people mean them, and how exactly they are
printed."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal, NamedTuple

Dimension = Literal[
    "bytes", "seconds", "tokens/s", "FLOP/s", "FLOP", "fraction", "count", "statement"
]


class Scale(NamedTuple):
    """What one of a unit is in SI, and how the unit is then read; "" is at its word."""

    size: float
    reading: str = ""


class Unit(NamedTuple):
    dimension: Dimension
    scales: tuple[Scale, ...]


def _bytes(prefix: str, power: int) -> dict[str, Unit]:
    """MB at its word and as MiB; MiB means nothing else."""
    binary = Scale(1024.0**power, f"{prefix}B as {prefix}iB")
    return {
        f"{prefix}B": Unit("bytes", (Scale(1000.0**power), binary)),
        f"{prefix}iB": Unit("bytes", (Scale(1024.0**power),)),
    }


def _plain(dimension: Dimension, sizes: dict[str, float]) -> dict[str, Unit]:
    return {name: Unit(dimension, (Scale(size),)) for name, size in sizes.items()}


_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
COUNTED = ("GPUs", "GPU", "experts", "expert", "modules", "module", "layers", "layer")

UNITS: dict[str, Unit] = {
    "B": Unit("bytes", (Scale(1.0),)),
    **{
        name: unit
        for power, prefix in enumerate("KMGT", start=1)
        for name, unit in _bytes(prefix, power).items()
    },
    **_plain("seconds", {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}),
    **_plain("tokens/s", {"tokens/s": 1.0, "tok/s": 1.0}),
    **_plain("FLOP/s", {f"{prefix}FLOP/s": size for prefix, size in _PREFIXES.items()}),
    **_plain("FLOP/s", {f"{prefix}FLOPS": size for prefix, size in _PREFIXES.items()}),
    **_plain("FLOP", {f"{prefix}FLOP": size for prefix, size in _PREFIXES.items()}),
    **_plain("fraction", {"%": 0.01, "x": 1.0}),
    **_plain("count", dict.fromkeys(COUNTED, 1.0)),
}
NATURAL: dict[Dimension, tuple[str, float]] = {
    "bytes": ("B", 1.0),
    "seconds": ("ms", 1e-3),
    "tokens/s": ("tokens/s", 1.0),
    "FLOP/s": ("TFLOP/s", 1e12),
    "FLOP": ("FLOP", 1.0),
    "fraction": ("%", 0.01),
    "count": ("", 1.0),
    "statement": ("", 1.0),
}
_PRINTED = re.compile(r"[+-]?[0-9][0-9_,]*(?:\.[0-9]+)?")
_ABOUT = Decimal("0.1")  # what "about" may be off by


class Printed(NamedTuple):
    """A figure as printed, and half a step of its last digit: what rounding may have hidden."""

    value: Decimal
    half_step: Decimal

    def shows(self, amount: float, about: bool = False) -> bool:
        """Whether an amount in the same unit prints like this; "about" is within a tenth."""
        room = max(self.half_step, _ABOUT * abs(self.value)) if about else self.half_step
        tiny = Decimal("1e-9") * (1 + abs(self.value))  # what floating point may add
        return abs(Decimal(amount) - self.value) <= room * Decimal("1.000001") + tiny


def printed(text: str) -> Printed | None:
    """57.17 is known to 0.005; 128 to one half; the zeros of 576,000 are taken for rounding."""
    if not _PRINTED.fullmatch(text.strip()):
        return None
    digits = text.strip().replace(",", "").replace("_", "")
    value = Decimal(digits)
    exponent = int(value.as_tuple().exponent)
    while exponent % 3 == 0 and "." not in digits and value and not value % 10 ** (exponent + 3):
        exponent += 3
    return Printed(value, Decimal(5).scaleb(exponent - 1))


def show(value: float, dimension: Dimension) -> str:
    """A derived value for a reader: bytes to the byte, and in both kinds of mega or giga."""
    if dimension == "bytes":
        for power, decimal in ((3, "GB"), (2, "MB")):
            if abs(value) >= 1000**power:
                binary = f"{decimal[0]}iB"
                return (
                    f"{value:,.0f} B = {value / 1000**power:,.6g} {decimal} "
                    f"= {value / 1024**power:,.6g} {binary}"
                )
        return f"{value:,.0f} B"
    unit, scale = NATURAL[dimension]
    return f"{number(value / scale)} {unit}".strip()


def number(value: float) -> str:
    """Whole numbers and large ones whole, others to six digits."""
    whole = 1e5 <= abs(value) < 1e15 or (abs(value) < 1e15 and value == int(value))
    return f"{value:,.0f}" if whole else f"{value:,.6g}"
