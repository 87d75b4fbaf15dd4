"""One input file as plain values, with the line of every key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """What a file says (`data`), and where it says it (`line_of`)."""

    file: str | None
    data: dict[str, Any]
    line_of: Callable[[KeyPath], int | None] = lambda path: None

    def nearest_line(self, path: KeyPath) -> int | None:
        """The line of a key, or of the closest mapping around it."""
        for end in range(len(path), 0, -1):
            line = self.line_of(path[:end])
            if line is not None:
                return line
        return None

    def under(self, key: str) -> Document | None:
        """The mapping below a key as a document of its own; None where there is none."""
        inner = self.data.get(key)
        if not isinstance(inner, dict):
            return None
        return Document(self.file, inner, lambda path: self.line_of((key, *path)))


def show_key(path: KeyPath) -> str:
    """A path as people write it: "pools[0].gpu.memory"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
