"""--config FILE.yaml of vLLM and SGLang: flags without their dashes, below those of the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optimizer.audit.launch.command import Command
from optimizer.errors import Problem, SpecError
from optimizer.spec.files import read_document


def with_config(command: Command, tokens: Sequence[str]) -> tuple[str, ...]:
    """The tokens with the flags of --config before the command's own, which win."""
    for index, token in enumerate(tokens):
        name, equals, inline = token.partition("=")
        if name == "--config":
            follows = tokens[index + 1] if index + 1 < len(tokens) else ""
            path = inline if equals else follows
            if not path or path.startswith("-"):
                raise SpecError(command.problem("'--config' needs a value"))
            rest = tokens[index + 1 :] if equals else tokens[index + 2 :]
            own = (*tokens[:index], *rest)
            first = next((at for at, each in enumerate(own) if each.startswith("-")), len(own))
            return (*own[:first], *_tokens(beside(command, path)), *own[first:])
    return tuple(tokens)


def beside(command: Command, name: str) -> Path:
    """A file that a command names: beside the file that the command stands in, or from here."""
    path = Path(command.file).parent / name if command.file else Path(name)
    return path if path.is_file() else Path(name)


def _tokens(path: Path) -> Iterator[str]:
    document = read_document(path)
    for key, value in document.data.items():
        if value is None or value is False:
            continue
        if value is True:
            yield f"--{key}"
            continue
        if isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
            line = document.nearest_line((key,))
            raise SpecError(Problem("must be a plain value or a list", document.file, line, key))
        yield f"--{key}"
        yield from _words(value)


def _words(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [json.dumps(value)]
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
