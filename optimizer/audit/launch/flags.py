"""Flags of an engine as data (configs/launch), and a command's tokens read by them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from optimizer.audit.launch.command import known_value
from optimizer.errors import Problem, SpecError
from optimizer.spec.data import configs_root
from optimizer.spec.files import read_document
from optimizer.spec.wording import nearest

Takes = Literal[
    "switch", "count", "whole", "integer", "size", "length", "number", "text", "list",
    "mapping", "value",
]  # fmt: skip
_SIZE = re.compile(r"(?P<amount>[0-9]+(?:\.[0-9]+)?)(?P<unit>[kKmMgGtT]?)")
_SCALES = {"": 1, **{unit: 1000**power for power, unit in enumerate("kmgt", start=1)}}
_SCALES |= {unit.upper(): 1024**power for power, unit in enumerate("kmgt", start=1)}
_LEVEL = re.compile(r"-O[0-9]?")  # vLLM's optimisation level, as compilers write it
_NUMBER = re.compile(r"-[0-9.]+")


class Flag(NamedTuple):
    """What a flag sets ("" where it is not judged) and what it takes."""

    key: str
    takes: Takes


@dataclass(frozen=True)
class FlagTable:
    """All flags that an engine's parser knows, by spelling."""

    engine: str
    version: str
    flags: Mapping[str, Flag]
    underscores: bool  # --max_model_len is --max-model-len
    abbreviations: bool  # --tp is --tp-size, as argparse completes it
    negations: bool  # --no-flag unsets a switch

    def find(self, written: str) -> tuple[str, Flag]:
        """The flag that a token means; raises SpecError where none or several do."""
        name = written
        if self.underscores and written.startswith("--"):
            head, dot, rest = written.partition(".")
            name = head.replace("_", "-") + dot + rest
        if name in self.flags:
            return name, self.flags[name]
        if self.abbreviations and name.startswith("--"):
            meant = {self.flags[flag]: flag for flag in self.flags if flag.startswith(name)}
            if len({found.key or flag for found, flag in meant.items()}) == 1:
                found, flag = next(iter(meant.items()))
                return flag, found
            if meant:
                flags = ", ".join(sorted(flag for flag in self.flags if flag.startswith(name)))
                raise SpecError(Problem(f"'{written}' may be any of {flags}; write one out"))
        near = nearest(name, self.flags)
        hint = f"; did you mean '{near}'?" if near else ""
        raise SpecError(Problem(f"'{written[:60]}' is no flag of {self.engine}{hint}"))


@dataclass(frozen=True)
class Settings:
    """A command by its flags: what is set, bare words, and the flags that are not judged."""

    values: Mapping[str, Any]
    words: tuple[str, ...]
    not_judged: tuple[str, ...]

    def count(self, key: str, default: int = 1) -> int:
        value = self.values.get(key)
        return default if value is None else int(value)

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        return None if value is None else float(value)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return None if value is None else str(value)

    def switch(self, key: str) -> bool:
        return bool(self.values.get(key, False))


@cache
def flag_table(name: str) -> FlagTable:
    """The table that ships as configs/launch/NAME.yaml."""
    data = read_document(configs_root() / "launch" / f"{name}.yaml").data
    flags: dict[str, Flag] = {}
    for takes, names in data["not_judged"].items():
        flags |= dict.fromkeys(names, Flag("", takes))
    for key, row in data["judged"].items():
        flags |= dict.fromkeys(row["flags"], Flag(key, row["takes"]))
    options = {key: bool(data[key]) for key in ("underscores", "abbreviations", "negations")}
    return FlagTable(data["engine"], str(data["version"]), flags, **options)


def read_flags(tokens: Sequence[str], table: FlagTable) -> Settings:
    """The settings that tokens make; every wrong token is a problem, all at once."""
    values: dict[str, Any] = {}
    words: list[str] = []
    not_judged: list[str] = []
    problems: list[Problem] = []
    for token, given in _grouped(tokens):
        if not token:
            words += given
            continue
        try:
            name, flag, inline = _named(token, table)
            arguments = [inline] if inline is not None else given
            value, used = _value(name, flag, arguments, negated=name.startswith("--no-"))
        except SpecError as error:
            problems += error.problems
            continue
        words += given if inline is not None else given[used:]
        if flag.key:
            values[flag.key] = value
        else:
            not_judged.append(name)
    if problems:
        raise SpecError(*problems)
    return Settings(values, tuple(words), tuple(dict.fromkeys(not_judged)))


def _grouped(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """("", words before any flag), then each flag with the words up to the next."""
    name, words = "", list[str]()
    for token in tokens:
        if token.startswith("-") and token != "-" and not _NUMBER.fullmatch(token):
            yield name, words
            name, words = token, []
        else:
            words.append(token)
    yield name, words


def _named(token: str, table: FlagTable) -> tuple[str, Flag, str | None]:
    """A token's flag, and its value where it stands behind "="."""
    if table.engine == "vllm" and _LEVEL.fullmatch(token):
        return token, Flag("", "value" if token == "-O" else "switch"), None
    written, equals, inline = token.partition("=")
    value = inline if equals else None
    head, dot, inner = written.partition(".")
    if dot and table.negations:  # vLLM: --eplb-config.num_redundant_experts 32
        name, flag = table.find(head)
        if flag.key and flag.takes == "mapping" and value is not None:
            return name, flag, json.dumps({inner: _plain(value)})
        return name, Flag("", "value"), value
    if table.negations and written.startswith("--no-") and written not in table.flags:
        _, flag = table.find("--" + written.removeprefix("--no-"))
        if flag.takes == "switch":
            return written.replace("_", "-"), flag, value
    name, flag = table.find(written)
    return name, flag, value


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _value(name: str, flag: Flag, given: Sequence[str | None], negated: bool) -> tuple[Any, int]:
    """What a flag is set to, and how many of the words behind it are its own."""
    if flag.takes == "switch":
        if given and given[0] in ("true", "True", "false", "False"):
            return given[0] in ("true", "True"), 1
        return not (negated and flag.key), 0
    if not given or given[0] is None:
        raise SpecError(Problem(f"'{name}' needs a value"))
    if flag.key:
        for text in given[: None if flag.takes == "list" else 1]:
            known_value(str(text))
    if flag.takes == "list":
        return [word for text in given for word in str(text).split(",")], len(given)
    return convert(name, flag.takes, str(given[0])), 1


def convert(name: str, takes: Takes, text: str) -> Any:
    """A value as its flag takes it; raises SpecError with flag and text."""
    shown = f"'{name} {text[:40]}'"
    try:
        if takes in ("count", "whole", "integer"):
            least = {"count": 1, "whole": 0, "integer": -1}[takes]
            if int(text) < least or int(text) > 10**9:
                raise SpecError(Problem(f"{shown} must be a whole number of at least {least}"))
            return int(text)
        if takes == "number":
            return float(text)
        if takes == "mapping":
            found = json.loads(text)
            if not isinstance(found, dict):
                raise SpecError(Problem(f"{shown} must be a JSON object"))
            return found
    except ValueError:
        wanted = {"number": "a number", "mapping": "a JSON object"}.get(takes, "a whole number")
        raise SpecError(Problem(f"{shown} must be {wanted}")) from None
    if takes in ("size", "length"):
        if takes == "length" and text in ("auto", "-1"):
            return None
        match = _SIZE.fullmatch(text)
        if match is None:
            raise SpecError(Problem(f"{shown} must be a whole number, 8192 or 8k"))
        size = int(float(match["amount"]) * _SCALES[match["unit"]])
        if not 1 <= size <= 10**15:
            raise SpecError(Problem(f"{shown} must be a whole number of at least 1"))
        return size
    return text
