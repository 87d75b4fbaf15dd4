"""Shell scripts to the commands that they start: assignments, arrays and defaults put in place.

Nothing is run. What stands in a loop, or under a condition that the script's own values do not
decide, is left out and named; a variable that the script does not set stays as it is written.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

MAX_ROUNDS = 20  # of putting values in place, one inside the other
_ASSIGNED = re.compile(r"(?:(?:export|readonly|local|declare(?: -\w+)?)\s+)?(\w+)(\+?=)(.*)", re.S)
_BRACED = re.compile(r"\$\{(\w+)(?::?[-=]([^{}]*))?\}")
_PLAIN = re.compile(r"\$(\w+)")
_ARRAY = re.compile(r"(\"?)\$\{(\w+)\[[@*]\]\}(\"?)")
_OUTPUT = re.compile(r"(?<!')(?:\$\((?!\()[^()']*\)|`[^`']*`)(?!')")  # of a command: one word
_SUM = re.compile(r"\$\(\(([^$`]{1,200}?)\)\)(?!\))")
_OPENS: Final = ("if", "for", "while", "until", "case")
_CLOSES: Final = ("fi", "done", "esac")
_WORDS_OF_CONTROL: Final = (*_OPENS, *_CLOSES, "then", "elif", "else", "do", "}")
_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "-eq": operator.eq,
    "-ne": operator.ne,
    "-gt": operator.gt,
    "-ge": operator.ge,
    "-lt": operator.lt,
    "-le": operator.le,
}
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


class Branch(NamedTuple):
    """A condition or loop that is open: whether its statements run (None: nobody can say), and
    whether one of its branches did."""

    runs: bool | None
    ran: bool


def started(script: str) -> Iterator[Started]:
    """Every statement that is run and no assignment, with values in place."""
    known: dict[str, str] = {}
    left_out: list[str] = []
    open_branches: list[Branch] = []
    for line, text in statements(script):
        word, _, rest = text.partition(" ")
        if word in ("then", "else", "do", "{") and rest.strip():
            open_branches = _turned(open_branches, word, "", known)
            word, _, rest = (text := rest.strip()).partition(" ")
        if word in _WORDS_OF_CONTROL:
            runs = all(branch.runs for branch in open_branches)
            open_branches = _turned(open_branches, word, rest, known)
            if runs and word in _OPENS and open_branches[-1].runs is None:
                left_out.append(f"{text[:60]} ... (line {line})")
            continue
        if not all(branch.runs for branch in open_branches):
            continue
        match = _ASSIGNED.fullmatch(text)
        if match is None or _has_command(match[3]):
            yield Started(line, expanded(text, known), dict(known), tuple(left_out))
        else:
            name, sign, value = match[1], match[2], expanded(_unwrapped(match[3]), known)
            known[name] = f"{known.get(name, '')} {value}" if sign == "+=" else value


def _turned(
    branches: list[Branch], word: str, condition: str, known: dict[str, str]
) -> list[Branch]:
    """The open branches after a word of control."""
    if word in _OPENS:
        runs = decided(expanded(condition, known)) if word == "if" else None
        return [*branches, Branch(runs, runs is not False)]
    if not branches or word not in ("elif", "else", *_CLOSES):
        return branches
    *outer, last = branches
    if word in _CLOSES:
        return outer
    if last.runs is None:
        return branches
    if last.ran:
        return [*outer, Branch(False, True)]
    runs = True if word == "else" else decided(expanded(condition, known))
    return [*outer, Branch(runs, runs is not False)]


def decided(condition: str) -> bool | None:
    """[ a = b ] and the like with || and && between; None where a value is not known."""
    for joint, absorbing in (("||", True), ("&&", False)):
        if joint in condition:
            found = [decided(part) for part in condition.split(joint)]
            if absorbing in found:
                return absorbing
            return None if None in found else not absorbing
    try:
        words = shlex.split(condition.strip().strip("[]"))
    except ValueError:
        return None
    if any("$" in word for word in words):
        return None
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return bool(words[1]) == (words[0] == "-n")
    if len(words) != 3 or words[1] not in _TESTS:
        return None
    left, sign, right = words
    if sign.startswith("-"):
        if not (left.isdecimal() and right.isdecimal()):
            return None
        return _TESTS[sign](int(left), int(right))
    return _TESTS[sign](left, right)


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
        elif char == "(" or (char == "{" and text[index - 1] == "$"):
            depth += 1
        elif char == ")" or (char == "}" and depth):
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

    text = _OUTPUT.sub(lambda match: shlex.quote(match[0]), text)
    for _ in range(MAX_ROUNDS):
        found = _ARRAY.sub(lambda match: _words(match, known), text)
        found = _BRACED.sub(value, found)
        found = _PLAIN.sub(lambda match: known.get(match[1], match[0]), found)
        found = _SUM.sub(lambda match: _sum(match, known), found)
        if found == text or len(found) > 1_000_000:
            break
        text = found
    return text


def _words(match: re.Match[str], known: dict[str, str]) -> str:
    """An array's words: those of each element apart where it stands without quotes."""
    value = known.get(match[2])
    if value is None:
        return match[0]
    if match[1] and match[3]:
        return value
    try:
        elements = shlex.split(value)
    except ValueError:
        elements = [value]
    apart = (
        [element] if _OUTPUT.search(element) else element.split() for element in elements
    )  # what a command prints is no more than one word here
    words = " ".join(shlex.quote(word) for each in apart for word in each)
    return f"{match[1]}{words}{match[3]}"


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
