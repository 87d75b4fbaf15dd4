"""The keys of a config.json, each read under its known names, checked, and ticked off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimizer.spec.document import KeyPath
from optimizer.spec.draft import Draft
from optimizer.spec.wording import shown

MOST = 10**9


class Fields:
    """One mapping of a config.json; remembers which keys were read. null counts as not given."""

    def __init__(self, draft: Draft, data: Mapping[str, Any], path: KeyPath = ()) -> None:
        self.draft = draft
        self.data = data
        self.path = path
        self.used: set[str] = set()

    def get(self, *names: str) -> Any:
        """The first given of several names for one thing; all of them count as read."""
        self.used.update(names)
        return next((self.data[name] for name in names if self.data.get(name) is not None), None)

    def whole(self, *names: str, least: int = 1, most: int = MOST) -> int | None:
        """A whole number, or None where no name is given (or what is given is wrong)."""
        value = self.get(*names)
        if value is None:
            return None
        return self.draft.whole(value, self._given(names), least, most)

    def flag(self, *names: str) -> bool | None:
        value = self.get(*names)
        if value is None or isinstance(value, bool):
            return value
        self.problem(names, f"must be true or false, not {shown(value)}")
        return None

    def text(self, *names: str) -> str | None:
        value = self.get(*names)
        if value is None or isinstance(value, str):
            return value
        self.problem(names, f"must be a text, not {shown(value)}")
        return None

    def items(self, name: str) -> list[Any] | None:
        value = self.get(name)
        if value is None or isinstance(value, list):
            return value
        self.problem((name,), f"must be a list, [a, b], not {shown(value)}")
        return None

    def under(self, *names: str) -> Fields | None:
        """The mapping below the first given name."""
        value = self.get(*names)
        if value is None:
            return None
        if isinstance(value, Mapping):
            return Fields(self.draft, value, self._given(names))
        self.problem(names, f"must be a mapping (key: value), not {shown(value)}")
        return None

    def problem(self, names: tuple[str, ...], message: str) -> None:
        self.draft.problem(self._given(names), message)

    def _given(self, names: tuple[str, ...]) -> KeyPath:
        name = next((name for name in names if self.data.get(name) is not None), names[0])
        return (*self.path, name)
