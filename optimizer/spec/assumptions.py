"""Fills what nobody stated from the one visible table, configs/assumptions.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from optimizer.spec.data import configs_root
from optimizer.spec.document import KeyPath, show_key
from optimizer.spec.draft import Draft, place
from optimizer.spec.files import read_document

_UNKNOWN = 1  # stands in for a figure that follows from a wrong one, which is refused itself
_FORMULA = re.compile(r"(?:(?P<times>[0-9]+) x )?(?P<of>[a-z]+_[a-z_]+)(?: / (?P<over>[a-z_]+))?")


class Row(NamedTuple):
    """One line of the table: a value or a formula of other keys, and why."""

    value: Any
    why: str


@cache
def table(section: str) -> Mapping[str, Row]:
    """A section of the table ("cluster", "model", "workload"): key -> row."""
    data = read_document(configs_root() / "assumptions.yaml").data[section]
    return {key: Row(row["value"], row["why"]) for key, row in data.items()}


def fill(
    draft: Draft,
    data: dict[str, Any],
    section: str,
    rows: Mapping[str, KeyPath],
    known: Callable[[str], Any] = lambda name: None,
    under: KeyPath = (),
) -> None:
    """Places the table's value under each path where `data` has none, and records it.

    `rows` maps keys of the table to paths; `known` gives the values that formulas speak of; `under`
    is where `data` itself stands. What a formula speaks of may be wrong itself; then nothing is
    known, and its own error is enough.
    """
    for key, path in rows.items():
        row = table(section)[key]
        value = evaluate(row.value, known)
        if value is None:
            place(data, path, _UNKNOWN)
        elif place(data, path, value):
            draft.assume(show_key((*under, *path)), value, row.why)


def evaluate(value: Any, known: Callable[[str], Any]) -> Any:
    """A table value: itself, or what "4 x hidden_size" or "hidden_size / head_dim" comes to."""
    match = _FORMULA.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    count = known(match["of"])
    divisor = known(match["over"]) if match["over"] is not None else 1
    if not _is_count(count) or not _is_count(divisor):
        return None
    return max(1, int(match["times"] or 1) * count // divisor)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**7
