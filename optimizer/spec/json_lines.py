"""JSON text to plain values; the lines of its keys are looked up only when something is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

from optimizer.errors import Problem, SpecError
from optimizer.spec.document import KeyPath

MAX_DEPTH = 50
MAX_CONTAINERS = 1_000_000  # as many as the plan of 131,072 GPUs has, and 100 MB of memory
MAX_ITEMS = 4_000_000
MAX_LINES_BYTES = 1_000_000  # beyond this, problems are reported without their line

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')


def parse_json(text: str, file: str) -> tuple[Any, Callable[[KeyPath], int | None]]:
    """The value of a JSON text; duplicate keys, NaN and infinities are refused."""
    if text.count("{") + text.count("[") > MAX_CONTAINERS or text.count(",") > MAX_ITEMS:
        raise SpecError(Problem(f"holds more than {MAX_ITEMS:,} values; no input does", file))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            counted = Counter(name for name, _ in pairs)
            double = counted.most_common(1)[0][0]
            raise SpecError(Problem(f"'{double[:60]}' stands twice; keep one", file))
        return mapping

    def not_finite(name: str) -> NoReturn:
        raise SpecError(Problem(f"must hold finite numbers, not {name}", file))

    def finite(number: str) -> float:
        value = float(number)
        return not_finite(number[:20]) if abs(value) == float("inf") else value

    try:
        data = json.loads(
            text, object_pairs_hook=unique, parse_constant=not_finite, parse_float=finite
        )
    except json.JSONDecodeError as error:
        raise SpecError(Problem(f"is no valid JSON: {error.msg}", file, error.lineno)) from None
    except RecursionError:
        raise SpecError(Problem(f"is nested more than {MAX_DEPTH} deep", file)) from None
    except ValueError:
        raise SpecError(Problem("holds a number of thousands of digits", file)) from None
    _refuse_deep_nesting(data, file)

    @cache
    def lines() -> dict[KeyPath, int]:
        return _key_lines(text) if len(text) <= MAX_LINES_BYTES else {}

    return data, lambda path: lines().get(path)


def _key_lines(text: str) -> dict[KeyPath, int]:
    """The line of every key and list item of a valid JSON text."""
    lines: dict[KeyPath, int] = {}
    path: list[str | int] = []  # the key or index that the next value stands under
    line = 1
    seen = 0
    expects_key = False
    for match in _TOKEN.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        token = match.group()
        if token in "]}":
            path.pop()
            expects_key = False
        elif token == "," and path:
            expects_key = isinstance(path[-1], str)
            if isinstance(path[-1], int):
                path[-1] += 1
                lines[tuple(path)] = line
        elif token in "{[":
            expects_key = token == "{"
            path.append("" if expects_key else 0)
            if not expects_key:
                lines[tuple(path)] = line
        elif expects_key and token[0] == '"':
            path[-1] = json.loads(token)
            lines[tuple(path)] = line
            expects_key = False
    return lines


def _refuse_deep_nesting(data: Any, file: str) -> None:
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise SpecError(Problem(f"is nested more than {MAX_DEPTH} deep", file))
