"""Files to documents; what is too large, binary or empty is refused before it is parsed."""

from __future__ import annotations

from pathlib import Path

from optimizer.errors import Problem, SpecError
from optimizer.spec.document import Document

MAX_YAML_BYTES = 4_000_000
MAX_JSON_BYTES = 32_000_000  # a plan file is an input too, and lists what every GPU holds


def read_document(path: Path) -> Document:
    """The mapping in a YAML or JSON file; raises SpecError with file and line."""
    file = str(path)
    is_json = path.suffix.lower() == ".json"
    text = read_text(path, MAX_JSON_BYTES if is_json else MAX_YAML_BYTES)
    if is_json:
        from optimizer.spec.json_lines import parse_json  # each is imported only where needed

        data, line_of = parse_json(text, file)
    else:
        from optimizer.spec.yaml_lines import parse_yaml

        data, line_of = parse_yaml(text, file)
    if data is None:
        raise SpecError(Problem("holds nothing but comments", file))
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else f"'{str(data)[:40]}'"
        raise SpecError(Problem(f"must hold a mapping (key: value), not {kind}", file, 1))
    if not data:
        raise SpecError(Problem("holds an empty mapping", file, 1))
    return Document(file, data, line_of)


def read_text(path: Path, limit: int = MAX_YAML_BYTES) -> str:
    """The text of a file; what is too large, binary or empty is refused."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except OSError as error:
        raise SpecError(Problem(f"cannot be read: {error.strerror or error}", file)) from None
    if len(raw) > limit:
        raise SpecError(
            Problem(f"is larger than {limit // 10**6} MB; no input of this kind is", file)
        )
    if b"\0" in raw:
        raise SpecError(Problem("is a binary file; a text file in YAML or JSON belongs here", file))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(Problem("is not UTF-8 text; save it as UTF-8", file, line)) from None
    if not text.strip():
        raise SpecError(Problem("is empty", file))
    return text
