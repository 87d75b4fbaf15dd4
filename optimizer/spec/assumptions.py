"""Fills what nobody stated from the one visible table, configs/assumptions.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from optimizer.spec.document import KeyPath, show_key
from optimizer.spec.draft import Draft, place
from optimizer.spec.files import read_document
from optimizer.spec.presets import config_root

_FORMULA = re.compile(r"(?:(?P<times>[0-9]+) x )?(?P<of>[a-z_]+)(?: / (?P<over>[a-z_]+))?")


class Row(NamedTuple):
    """One line of the table: a value or a formula of other keys, and why."""

    value: Any
    why: str


@cache
def table(section: str) -> Mapping[str, Row]:
    """A section of the table ("cluster", "model", "workload"): key -> row."""
    data = read_document(config_root() / "assumptions.yaml").data[section]
    return {key: Row(row["value"], row["why"]) for key, row in data.items()}


def fill(
    draft: Draft,
    data: dict[str, Any],
    section: str,
    keys: Mapping[str, KeyPath],
    known: Callable[[str], Any] = lambda name: None,
) -> None:
    """Places the table's value under each path where `data` has none, and records it.

    `keys` maps rows of the table to paths; `known` gives the values that formulas speak of. A
    formula of something unknown (because it is itself wrong) places nothing.
    """
    for key, path in keys.items():
        row = table(section)[key]
        value = evaluate(row.value, known)
        if value is not None and place(data, path, value):
            draft.assume(show_key(path), value, row.why)


def evaluate(value: Any, known: Callable[[str], Any]) -> Any:
    """A table value: itself, or "4 x hidden_size", "hidden_size / head_dim", "num_heads"."""
    match = _FORMULA.fullmatch(value) if isinstance(value, str) else None
    if match is None or known(match["of"]) is None:
        return None if match is not None and _is_formula(match) else value
    result: Any = known(match["of"])
    if match["over"] is not None:
        divisor = known(match["over"])
        if not _is_count(result) or not _is_count(divisor):
            return None
        result = max(1, result // divisor)
    if match["times"] is not None:
        result = result * int(match["times"]) if _is_count(result) else None
    return result


def _is_formula(match: re.Match[str]) -> bool:
    return match["times"] is not None or match["over"] is not None or "_" in match["of"]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
