"""A plan's JSON as it lies in the file: quantities, ranges, degrees and the hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

Json = dict[str, Any]

MOST = 1_000_000_000  # of anything that is counted; more is no plan
MOST_GPUS = 1_000_000
MOST_LAYERS = 10_000


class Unreadable(ValueError):
    """A value of a plan that does not mean anything."""


def is_number(value: object) -> bool:
    """A finite number and no truth value."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= 1e300  # false for NaN too
    )


def shorten(value: object) -> str:
    """A value as JSON would show it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def quantity(text: object, unit: str) -> float:
    """The number of a quantity such as "85899345920 B" in its SI unit, int where it is whole."""
    if not isinstance(text, str) or not text.endswith(f" {unit}"):
        raise Unreadable(f"{shorten(text)} is no quantity in {unit}")
    try:
        amount = Decimal(text[: -len(unit) - 1])
    except InvalidOperation:
        raise Unreadable(f"{shorten(text)} is no quantity in {unit}") from None
    if not amount.is_finite() or abs(amount) > 10**24:
        raise Unreadable(f"{shorten(text)} is beyond anything real")
    return int(amount) if amount == int(amount) else float(amount)


def count(value: object, least: int = 0, most: int = MOST) -> int:
    """A whole number within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Unreadable(f"{shorten(value)} is no count from {least} to {most}")
    return value


def number(value: object) -> float:
    """A finite number."""
    if not isinstance(value, int | float) or not is_number(value):
        raise Unreadable(f"{shorten(value)} is no number")
    return value


def members(text: object, below: int) -> list[int]:
    """The numbers, all `below` a bound, of a range: "0-2,5" is [0, 1, 2, 5], "" is nothing."""
    if not isinstance(text, str):
        raise Unreadable(f"{shorten(text)} is no range")
    found: list[int] = []
    for piece in text.split(",") if text else []:
        first, dash, last = piece.partition("-")
        ends = [first, last] if dash else [first]
        if len(piece) > 17 or not all(end.isascii() and end.isdecimal() for end in ends):
            raise Unreadable(f"{shorten(text)} is no range such as 0-7,9")
        start, stop = int(first), int(ends[-1]) + 1
        if not start < stop <= below:
            raise Unreadable(f"{shorten(text)} is no range such as 0-7,9 below {below}")
        found.extend(range(start, stop))
    return found


DEGREES = ("pp", "vp", "ep", "etp", "edp", "tp", "cp", "dp", "replicas")


def degrees(deployment: Json) -> dict[str, int]:
    """The degrees of a deployment, each a count, and `width`: GPUs of a stage."""
    found = {name: count(deployment["layout"][name], 1) for name in DEGREES}
    found["width"] = found["tp"] * found["cp"] * found["dp"]
    count(found["replicas"] * found["pp"] * found["width"], 1, MOST_GPUS)
    return found


def layer_types(model: Json) -> list[str]:
    """The type of each layer, in order."""
    names: list[str] = []
    for run in model["layers"]:
        count(len(names) + count(run["repeat"], 1) * len(run["types"]), 1, MOST_LAYERS)
        names.extend(list(run["types"]) * run["repeat"])
    count(len(names), 1, MOST_LAYERS)
    return names


def redundant_experts(plan: Json) -> int:
    """Slots of each MoE layer beyond one an expert."""
    return count(plan["workload"].get("redundant_experts", 0))


def is_training(plan: Json) -> bool:
    """Whether the plan trains; every other kind of workload is read by is_serving."""
    return bool(plan["workload"]["kind"] == "training")


def is_serving(plan: Json) -> bool:
    kind = plan["workload"]["kind"]
    if kind not in ("serving", "forward"):
        raise Unreadable(f"{kind!r} is no kind of workload that is known here")
    return bool(kind == "serving")


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, under its key: "cluster.pools[0].gpu.memory"."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{key}[{index}]")
    else:
        yield key, value


def content_hash(plan: Json) -> str:
    """SHA-256 of the JSON without its own hash, keys sorted, no spaces."""
    body = {key: plan[key] for key in plan if key != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
