"""YAML text to plain values and the line of every key, from libyaml's events."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from optimizer.errors import Problem, SpecError
from optimizer.spec.document import KeyPath, show_key

MAX_DEPTH = 50
MAX_VALUES = 100_000 if yaml.__with_libyaml__ else 5_000  # the Python parser is 20 times slower

MAX_PROBLEMS = 100
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,29})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def parse_yaml(text: str, file: str) -> tuple[Any, Callable[[KeyPath], int | None]]:
    """The one document in a text; every duplicate key and non-finite number at once."""
    reader = _Reader(file)
    try:
        data = reader.read(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        what = " ".join(part for part in (error.problem, error.context) if part)
        raise SpecError(Problem(f"is no valid YAML: {what}", file, line)) from None
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0]
        raise SpecError(Problem(f"is no valid YAML: {what}", file)) from None
    if reader.problems:
        raise SpecError(*reader.problems[:MAX_PROBLEMS])
    return data, reader.lines.get


class _Reader:
    """Walks the events once; keeps each key's line and what is wrong."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._num_values = 0

    def read(self, events: Iterator[Any]) -> Any:
        """The value of the only document; an empty stream reads as None."""
        found: Any = None
        num_documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    raise self._refused("holds more than one document ('---')", event)
            elif isinstance(event, yaml.NodeEvent):
                found = self._value(event, events, ())
        return found

    def _value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        self._judge(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            for inner in events:
                if isinstance(inner, yaml.SequenceEndEvent):
                    break
                here = (*path, len(items))
                self.lines[here] = _line(inner)
                items.append(self._value(inner, events, here))
            return items
        mapping: dict[str, Any] = {}
        for inner in events:
            if isinstance(inner, yaml.MappingEndEvent):
                break
            self._judge(inner, path)
            if not isinstance(inner, yaml.ScalarEvent):
                raise self._refused("a key must be a plain word", inner, path)
            here = (*path, inner.value)
            line = _line(inner)
            if inner.value in mapping:
                self.problems.append(
                    Problem(
                        f"stands twice, first on line {self.lines[here]}; keep one",
                        self.file,
                        line,
                        show_key(here),
                    )
                )
            self.lines.setdefault(here, line)
            mapping[inner.value] = self._value(next(events), events, here)
        return mapping

    def _judge(self, event: Any, path: KeyPath) -> None:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise self._refused(f"holds more than {MAX_VALUES:,} values; no input does", event)
        if len(path) > MAX_DEPTH:
            raise self._refused(f"is nested more than {MAX_DEPTH} deep", event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refused("anchors and aliases (&, *) are refused; write it out", event, path)
        if getattr(event, "tag", None) is not None:
            raise self._refused(f"tags are refused; leave out '{str(event.tag)[:40]}'", event, path)

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # quoted: a text, whatever it looks like
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text.replace("_", ""))
        finite = True
        if _FLOAT.fullmatch(text):
            number = float(text)
            finite = abs(number) != float("inf")
            if finite:
                return number
        if not finite or _NOT_FINITE.fullmatch(text):
            self.problems.append(
                Problem(
                    f"must be a finite number, not {text[:20]}",
                    self.file,
                    _line(event),
                    show_key(path),
                )
            )
        return text

    def _refused(self, message: str, event: Any, path: KeyPath = ()) -> SpecError:
        line = _line(event)
        return SpecError(Problem(message, self.file, line, show_key(path) or None))


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1
