"""JSON text to plain values; the lines of its keys are looked up only when something is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from optimizer.errors import Problem, SpecError
from optimizer.spec.document import KeyPath, show_key

MAX_DEPTH = 50
MAX_CONTAINERS = 600_000  # what reads within a second and a few hundred MB
MAX_KEYS = 600_000
MAX_ITEMS = 2_000_000
MAX_PROBLEMS = 100
MAX_LINES_BYTES = 1_000_000  # beyond this, problems are reported without their line

_NOT_FINITE = re.compile(r"-?Infinity|NaN")
_LONG_EXPONENT = re.compile(r"^[-0-9.]+[eE]\+?[0-9]{3,}$")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')


def parse_json(text: str, file: str) -> tuple[Any, Callable[[KeyPath], int | None]]:
    """The value of a JSON text; every duplicate key and non-finite number at once."""
    num_containers = text.count("{") + text.count("[")
    num_keys, num_items = text.count(":"), text.count(",")
    if num_containers > MAX_CONTAINERS or num_keys > MAX_KEYS or num_items > MAX_ITEMS:
        raise SpecError(Problem("holds millions of values; no input does", file))
    odd: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            double = Counter(name for name, _ in pairs).most_common(1)[0][0]
            odd.append(f"'{double[:60]}' stands twice; keep one")
        return mapping

    def not_finite(number: str) -> float:
        odd.append(f"must hold finite numbers, not {number[:20]}")
        return 0.0

    def finite(number: str) -> float:
        value = float(number)
        return not_finite(number) if abs(value) == float("inf") else value

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
    small = len(text) <= MAX_LINES_BYTES
    if odd:
        found = _key_lines(text)[1] if small else []
        placed = [Problem(message, file, line, show_key(path)) for path, line, message in found]
        placed = placed or [Problem(message, file) for message in odd]
        raise SpecError(*placed[:MAX_PROBLEMS])

    @cache
    def lines() -> dict[KeyPath, int]:
        return _key_lines(text)[0] if small else {}

    return data, lambda path: lines().get(path)


def _key_lines(text: str) -> tuple[dict[KeyPath, int], list[tuple[KeyPath, int, str]]]:
    """The line of every key and list item of a valid JSON text, and what is odd at which."""
    lines: dict[KeyPath, int] = {}
    odd: list[tuple[KeyPath, int, str]] = []
    path: list[str | int] = []  # the key or index that the next value stands under
    line = 1
    seen = 0
    expects_key = False
    for match in _TOKEN.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        token = match.group()
        if token in ("]", "}"):
            path.pop()
            expects_key = False
        elif token == "," and path:
            last = path[-1]
            expects_key = isinstance(last, str)
            if isinstance(last, int):
                path[-1] = last + 1
                lines[tuple(path)] = line
        elif token in ("{", "["):
            expects_key = token == "{"
            path.append("" if expects_key else 0)
            if not expects_key:
                lines[tuple(path)] = line
        elif expects_key and token[0] == '"':
            path[-1] = json.loads(token)
            if tuple(path) in lines:
                first = lines[tuple(path)]
                message = f"stands twice, first on line {first}; keep one"
                odd.append((tuple(path), line, message))
            lines.setdefault(tuple(path), line)
            expects_key = False
        elif _NOT_FINITE.fullmatch(token) or (
            _LONG_EXPONENT.search(token) and abs(float(token)) == float("inf")
        ):
            odd.append((tuple(path), line, f"must be a finite number, not {token[:20]}"))
    return lines, odd


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
