"""Shell scripts to the commands that they start: assignments, arrays and defaults put in place.

Nothing is run. What stands under a condition or in a loop is left out and named; a variable that
the script does not set stays as it is written.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_ROUNDS = 20  # of putting values in place, one inside the other
_ASSIGNED = re.compile(r"(?:(?:export|readonly|local|declare(?: -\w+)?)\s+)?(\w+)(\+?=)(.*)", re.S)
_BRACED = re.compile(r"\$\{(\w+)(?:\[[@*]\])?(?::?[-=]([^{}]*))?\}")
_PLAIN = re.compile(r"\$(\w+)")
_WORDS = re.compile(r"\"(\$\{\w+\[@\]\})\"")  # an array in quotes is still several words
_SUM = re.compile(r"\$\(\(([^$`]{1,200}?)\)\)(?!\))")
_OPENS: Final = ("if", "for", "while", "until", "case")
_CLOSES: Final = ("fi", "done", "esac")
_SUMS: Final = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Statement(NamedTuple):
    """A statement of a script with its first line."""

    line: int
    text: str


class Started(NamedTuple):
    """A command with the variables set before it, and what was left out on the way."""

    line: int
    text: str
    variables: dict[str, str]
    left_out: tuple[str, ...]


def started(script: str) -> Iterator[Started]:
    """Every statement that is no assignment, with values in place."""
    known: dict[str, str] = {}
    left_out: list[str] = []
    depth = 0
    for line, text in statements(script):
        word = text.split(maxsplit=1)[0].rstrip(";")
        if word in _OPENS:
            depth += 1
            left_out += [f"{text.splitlines()[0][:60]} ... (line {line})"] if depth == 1 else []
        elif word in _CLOSES:
            depth = max(0, depth - 1)
        elif depth == 0:
            match = _ASSIGNED.fullmatch(text)
            if match is None or _has_command(match[3]):
                yield Started(line, expanded(text, known), dict(known), tuple(left_out))
            else:
                name, sign, value = match[1], match[2], expanded(_unwrapped(match[3]), known)
                known[name] = f"{known.get(name, '')} {value}" if sign == "+=" else value


def statements(script: str) -> Iterator[Statement]:
    """A script cut at newlines and semicolons outside of quotes and parentheses, without comments;
    a backslash before a newline joins."""
    text = re.sub(r"\\\r?\n", "\\\n", script)
    start, line, depth, quote, parts = 1, 1, 0, "", list[str]()
    index = 0
    while index < len(text):
        char = text[index]
        line += char == "\n"
        if char == "\\" and index + 1 < len(text):
            joined = text[index + 1] == "\n"
            parts.append(" " if joined else text[index : index + 2])
            line += joined
            index += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (index == 0 or text[index - 1] in " \t\n;("):
            index = text.find("\n", index) if "\n" in text[index:] else len(text)
            continue
        elif char in "({":
            depth += 1
        elif char in ")}":
            depth = max(0, depth - 1)
        elif char in "\n;" and not depth:
            if "".join(parts).strip():
                yield Statement(start, "".join(parts).strip())
            start, parts = line, []
            index += 1
            continue
        if not "".join(parts).strip():
            start = line
        parts.append(" " if char == "\n" else char)
        index += 1
    if "".join(parts).strip():
        yield Statement(start, "".join(parts).strip())


def expanded(text: str, known: dict[str, str]) -> str:
    """A text with the values that are known, their defaults where one is stated, and sums."""

    def value(match: re.Match[str]) -> str:
        if match[1] in known:
            return known[match[1]]
        return _unwrapped(match[2]) if match[2] is not None else match[0]

    text = _WORDS.sub(r"\1", text)
    for _ in range(MAX_ROUNDS):
        found = _BRACED.sub(value, text)
        found = _PLAIN.sub(lambda match: known.get(match[1], match[0]), found)
        found = _SUM.sub(lambda match: _sum(match, known), found)
        if found == text or len(found) > 1_000_000:
            break
        text = found
    return text


def _sum(match: re.Match[str], known: dict[str, str]) -> str:
    """$((A * B)) of whole numbers, or as it is written."""
    text = re.sub(r"[A-Za-z_]\w*", lambda name: known.get(name[0], name[0]), match[1])
    try:
        return str(_whole(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return match[0]


def _whole(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _SUMS:
        found: int = _SUMS[type(node.op)](_whole(node.left), _whole(node.right))
        return found
    raise ValueError("no sum of whole numbers")


def _unwrapped(value: str) -> str:
    """A value without the quotes or the parentheses of an array around it."""
    value = value.strip()
    if len(value) > 1 and (value[0], value[-1]) in (("(", ")"), ('"', '"'), ("'", "'")):
        return value[1:-1].strip()
    return value


def _has_command(value: str) -> bool:
    """NAME=value command: the assignment is for that command alone."""
    value = value.strip()
    if value.startswith(("(", '"', "'")):
        closing = {"(": ")"}.get(value[0], value[0])
        return value.rfind(closing) < len(value) - 1 and " " in value[value.rfind(closing) :]
    return bool(re.search(r"\s", re.sub(r"\$\([^)]*\)+|\$\{[^}]*\}|\"[^\"]*\"", "", value)))
