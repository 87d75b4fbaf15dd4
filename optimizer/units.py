"""Quantities with units: the only place that knows 10^9 from 2^30.

Files carry units ("80 GiB", "450 GB/s", "989 TFLOP/s", "3 us"); inside, everything is SI. A bare
number where a unit belongs is refused, because GB and GiB differ by 7 % and nobody notices.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}

BYTES: dict[str, Decimal] = {
    **{f"{prefix}B": Decimal(10) ** power for prefix, power in _DECIMAL.items()},
    **{f"{prefix}B": Decimal(2) ** power for prefix, power in _BINARY.items()},
}
BYTES_PER_S: dict[str, Decimal] = {f"{unit}/s": scale for unit, scale in BYTES.items()}
FLOPS_PER_S: dict[str, Decimal] = {
    f"{prefix}{name}": Decimal(10) ** power
    for prefix, power in _DECIMAL.items()
    for name in ("FLOP/s", "FLOPS")
}
SECONDS: dict[str, Decimal] = {
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
    "min": Decimal(60),
    "h": Decimal(3600),
}
PER_S: dict[str, Decimal] = {
    "/s": Decimal(1),
    "req/s": Decimal(1),
    "requests/s": Decimal(1),
    "/min": Decimal(1) / Decimal(60),
}
WATTS: dict[str, Decimal] = {"W": Decimal(1), "kW": Decimal(1000)}

GIB = float(BYTES["GiB"])

_QUANTITY = re.compile(
    r"\s*([+-]?[0-9][0-9_,]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?)\s*(\S.*?)?\s*"
)


def parse(value: object, units: dict[str, Decimal], example: str) -> float:
    """The SI value of a text such as "80 GiB"; raises ValueError that says what to write."""
    if not isinstance(value, str):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise ValueError(f"{value} has no unit; write for example '{example}'")
        raise ValueError(f"a quantity belongs here; write for example '{example}'")
    match = _QUANTITY.fullmatch(value) if len(value) <= 60 else None
    if match is None:
        raise ValueError(f"'{value[:40]}' is no quantity; write for example '{example}'")
    number, unit = match.groups()
    if unit is None:
        raise ValueError(f"'{value[:40]}' has no unit; write for example '{example}'")
    if unit not in units:
        raise ValueError(f"unknown unit '{unit[:20]}'; write for example '{example}'")
    try:
        amount = Decimal(number.replace(",", "").replace("_", "")) * units[unit]
    except InvalidOperation:
        raise ValueError(f"'{value[:40]}' is no number; write for example '{example}'") from None
    if not amount.is_finite() or abs(amount) > Decimal("1e300"):
        raise ValueError(f"'{value[:40]}' is beyond anything real; write for example '{example}'")
    return float(amount)


def _quantity(
    units: dict[str, Decimal], example: str, least: float, most: float
) -> BeforeValidator:
    """Reads a quantity; what lies outside least ... most (SI) is a slip of the pen."""
    zero_is_fine = least == 0

    def read(value: object) -> float:
        amount = parse(value, units, example)
        if amount < 0 or (amount == 0 and not zero_is_fine):
            wanted = "not be negative" if zero_is_fine else "be more than zero"
            raise ValueError(f"must {wanted}; write for example '{example}'")
        if not least <= amount <= most:
            raise ValueError(f"'{value}' is beyond anything real; write for example '{example}'")
        return amount

    return BeforeValidator(read)


def exact(value: float, unit: str) -> str:
    """The shortest text that reads back as the same value: "85899345920 B"."""
    return f"{int(value)} {unit}" if value == int(value) else f"{value!r} {unit}"


def _serializer(unit: str) -> PlainSerializer:
    def write(value: float) -> str:
        return exact(value, unit)

    return PlainSerializer(write, return_type=str)


Bytes = Annotated[float, _quantity(BYTES, "80 GiB", 1, 1e15), _serializer("B")]
BytesPerSecond = Annotated[float, _quantity(BYTES_PER_S, "450 GB/s", 1, 1e16), _serializer("B/s")]
FlopsPerSecond = Annotated[
    float, _quantity(FLOPS_PER_S, "989 TFLOP/s", 1, 1e20), _serializer("FLOP/s")
]
Seconds = Annotated[float, _quantity(SECONDS, "50 ms", 1e-9, 1e7), _serializer("s")]
Latency = Annotated[float, _quantity(SECONDS, "3 us", 0, 1e3), _serializer("s")]
Rate = Annotated[float, _quantity(PER_S, "20 req/s", 1e-9, 1e9), _serializer("/s")]
Watts = Annotated[float, _quantity(WATTS, "700 W", 1e-3, 1e7), _serializer("W")]


def figure(value: float, digits: int = 6) -> str:
    """A number for a reader, whole beyond so many digits and never with an exponent: "19,118.8"."""
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:,.{digits}g}"


def gib(value_bytes: float) -> str:
    """Bytes for a reader, in GiB: "71.3 GiB"."""
    return f"{value_bytes / GIB:.3g} GiB" if value_bytes < GIB else f"{value_bytes / GIB:.1f} GiB"


def milliseconds(value_s: float) -> str:
    """Seconds for a reader, in ms: "12.3 ms"."""
    return f"{value_s * 1e3:.3g} ms" if value_s < 1 else f"{value_s * 1e3:,.0f} ms"
