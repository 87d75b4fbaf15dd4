"""A spec in the making: the mapping to validate, where its keys stand, what is wrong or assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from optimizer.errors import Problem, SpecError
from optimizer.spec.document import Document, KeyPath, show_key
from optimizer.spec.frozen import Assumption
from optimizer.spec.wording import problems_of, shown

Spec = TypeVar("Spec")


class Draft:
    """Collects problems and assumptions while shorthand is written out, then validates once.

    `documents` are searched for a key's line in their order: the user's file before the preset.
    """

    def __init__(self, *documents: Document) -> None:
        self.documents = list(documents)
        self.problems: list[Problem] = []
        self.assumptions: list[Assumption] = []
        self._refused: set[KeyPath] = set()
        self._sources: dict[KeyPath, KeyPath] = {}  # prefix in the spec -> prefix in the file

    def problem(self, path: KeyPath, message: str) -> None:
        """Something wrong with the key at a path of the spec."""
        path = self.source(path)
        if path and str(path[0]).startswith("--"):
            problem = Problem(message, key=show_key(path))
        else:
            document, line = self._find(path)
            problem = Problem(message, document.file, line, show_key(path) or None)
        if (
            path not in self._refused
        ):  # the first thing said of a key; what follows from it is noise
            self._refused.add(path)
            self.problems.append(problem)

    def assume(self, key: str, value: object, why: str) -> None:
        found = Assumption(key=key, value=str(value)[:500], why=why)
        if found not in self.assumptions:
            self.assumptions.append(found)

    def moved(self, spec: KeyPath, file: KeyPath) -> None:
        """Says that what the spec holds under one path stands under another in the file."""
        self._sources[spec] = file

    def mapping(self, data: Mapping[str, Any], key: str, path: KeyPath = ()) -> dict[str, Any]:
        """A copy of the mapping under a key; {} and a problem when something else stands there."""
        value = data.get(key, {})
        if isinstance(value, Mapping):
            return dict(value)
        self.problem((*path, key), f"must be a mapping (key: value), not {shown(value)}")
        return {}

    def assumed(
        self, data: Mapping[str, Any], path: KeyPath = ()
    ) -> Iterator[tuple[KeyPath, Any, str, KeyPath]]:
        """(path, value, why, where it stands) of each value under `assumed:`, a mapping or several.

        A mapping has the shape of the file that it stands in, and a `why`.
        """
        value = data.get("assumed", {})
        several = isinstance(value, list)
        for index, entry in enumerate(value if isinstance(value, list) else [value]):
            here: KeyPath = (*path, "assumed", index) if several else (*path, "assumed")
            if not isinstance(entry, Mapping):
                self.problem(here, f"must be a mapping (key: value), not {shown(entry)}")
                continue
            why = str(entry.get("why", "not stated"))[:500]
            for inner, leaf in leaves({key: entry[key] for key in entry if key != "why"}):
                yield inner, leaf, why, (*here, *inner)

    def whole(self, value: object, path: KeyPath, least: int, most: int) -> int | None:
        """A whole number within bounds, or None and a problem."""
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        belongs = f"a whole number from {least} to {most:,}"
        self.problem(path, f"must be {belongs}, not {shown(value)}")
        return None

    def finish(
        self,
        spec: Any,
        data: Mapping[str, Any],
        shorthand: Mapping[type, tuple[str, ...]] | None = None,
    ) -> Any:
        """The validated spec; raises SpecError with every problem of the draft and the data."""
        found: Any = None
        try:
            adapter = spec if isinstance(spec, TypeAdapter) else None
            found = adapter.validate_python(data) if adapter else spec.model_validate(data)
        except ValidationError as error:
            known = adapter._type if adapter else spec
            for path, message in problems_of(error, known, shorthand or {}):
                self.problem(path, message)
        if self.problems:
            raise SpecError(*sorted(self.problems, key=lambda problem: problem.line or 0))
        return found

    def source(self, path: KeyPath) -> KeyPath:
        """Where in the file a path of the spec stands."""
        for end in range(len(path), -1, -1):
            if path[:end] in self._sources:
                return (*self._sources[path[:end]], *path[end:])
        return path

    def _find(self, path: KeyPath) -> tuple[Document, int | None]:
        for document in self.documents:
            line = document.line_of(path)
            if line is not None:
                return document, line
        first = self.documents[0]
        return first, first.nearest_line(path)


def still_assumed(listed: Any, stated: Mapping[str, Any]) -> Any:
    """The assumptions of a preset or a plan, less those that `stated` now says for itself."""
    if not isinstance(listed, list):
        return listed
    return [
        row
        for row in listed
        if not (isinstance(row, Mapping) and _states(stated, str(row.get("key")).split(".")))
    ]


def _states(data: Mapping[str, Any], keys: list[str]) -> bool:
    here: Any = data
    for key in keys:
        if isinstance(here, str):  # "precision: fp8" states every part of it
            return True
        if not isinstance(here, Mapping) or here.get(key) is None:
            return False
        here = here[key]
    return True


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid over it, at any depth."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(dict(inner or {}), value) if both else value
    return result


def leaves(data: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of a mapping that is no mapping itself, with its path."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def place(data: dict[str, Any], path: KeyPath, value: Any) -> bool:
    """Puts a value where none stands; False when one does (or something else is in the way)."""
    here: Any = data
    for key in path[:-1]:
        inner = here.get(key)
        if inner is not None and not isinstance(inner, Mapping):
            return False
        copied = dict(inner or {})
        here[key] = copied
        here = copied
    if here.get(path[-1]) is not None:
        return False
    here[path[-1]] = value
    return True
