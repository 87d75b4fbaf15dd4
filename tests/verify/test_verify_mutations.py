"""No single number of a plan changes unseen: each in its turn, with the hash recomputed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from optimizer.verify import CHECKS, verify_plan
from optimizer.verify.checks import run
from optimizer.verify.document import content_hash
from optimizer.verify.identity import identity

Document = dict[str, Any]
Path = tuple[str | int, ...]

# "85899345920 B", "5e-06 s", "0-7,9", "16", "node0/gpu3"
HOLDS_NUMBERS = re.compile(
    r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?( (B|B/s|FLOP/s|s|/s|W))?"
    r"|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*"
    r"|([^/]+/)?node[0-9]+(/gpu[0-9]+)?"
)
SUMS_FIRST = ("table_sums", "arithmetic", "collectives", "table_shape")


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def changed(value: Any) -> Iterator[Any]:
    """Every number in a leaf made larger: by one unit, and by more than a third."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        yield from {value + 1, int(value * 1.37) + 1}
    elif isinstance(value, float):
        yield from (value + 1, value * 1.37 + 1)
    elif HOLDS_NUMBERS.fullmatch(value):
        for match in re.finditer("[0-9]+", value):
            yield value[: match.start()] + str(int(match[0]) + 1) + value[match.end() :]


def is_caught(document: Document, path: Path) -> bool:
    """Whether any check but the hash's fails; those of the tables are asked first about tables."""
    checks = [check for check in CHECKS if check is not identity]
    if "phases" in path:
        checks.sort(key=lambda check: check.__name__ not in SUMS_FIRST)
    return any(not finding.ok for check in checks for finding in run(check, document))


def unseen_changes(document: Document, every: int) -> tuple[list[tuple[Path, Any, Any]], int]:
    """Changes that no check finds, and how many were made; of the operator tables' numbers, which
    are most of a plan, one in `every`."""
    unseen, count = [], 0
    for place, (path, value) in enumerate(list(leaves(document))):
        if path[0] in ("hash", "schema_version") or ("phases" in path and place % every):
            continue
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        for other in changed(value):
            parent[path[-1]] = other
            count += 1
            if not is_caught(document, path):
                unseen.append((path, value, other))
        parent[path[-1]] = value
    return unseen, count


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("smallest", 1),
        ("forward", 17),
        ("latent", 29),
        ("robust", 31),
        ("searched", 29),
        ("spread", 23),
        ("staged", 31),
    ],
)
def test_a_change_of_any_single_number_is_found(
    plan_texts: dict[str, str], name: str, every: int
) -> None:
    document = json.loads(plan_texts[name])
    assert not is_caught(document, ())
    unseen, count = unseen_changes(document, every)
    assert unseen == []
    assert count > 400


def test_the_hash_is_no_help_to_whoever_recomputes_it(plan_texts: dict[str, str]) -> None:
    document = json.loads(plan_texts["forward"])
    document["rank"] += 1
    document["hash"] = content_hash(document)
    failed = {finding.check for finding in verify_plan(document) if not finding.ok}
    assert failed == {"others"}
