"""Ignore and target lists: whole name parts, globs, and "re:" regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

MAX_PATTERNS = 20_000
MAX_WILDCARDS = 100  # globs and expressions, each tried on every matrix
MAX_REPEATS = 4
MAX_LENGTH = 300

_ESCAPE = re.compile(r"\\.|\[\^?\]?[^]]*\]")  # an escaped character or a character class
_WILD = re.compile(r"\)\s*[*+{]|\(\?(?!:)")  # a repeated group, a look-around, a back reference


class Patterns:
    """A list of patterns; a module is named by any of them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        given = tuple(patterns)
        self.refused = [text for text in given if len(text) > MAX_LENGTH]
        given = tuple(text for text in given if len(text) <= MAX_LENGTH)
        expressions = [text[3:] for text in given if text.startswith("re:")]
        self.refused += [text for text in expressions if not is_tame(text)]
        self._expressions = [re.compile(text) for text in expressions if is_tame(text)]
        plain = [text for text in given if not text.startswith("re:")]
        globs = [text for text in plain if "*" in text]
        below = [form for text in globs for form in (text, f"{text}.*")]
        self._globs = re.compile("|".join(map(translate, below))) if globs else None
        self._runs = {tuple(text.strip(".").split(".")) for text in plain if "*" not in text}
        self.too_many = len(given) > MAX_PATTERNS or len(expressions) + len(globs) > MAX_WILDCARDS

    def match(self, names: tuple[str, ...]) -> bool:
        """Whether a pattern names the module under any of its names.

        "lm_head" and "mlp.gate" name whole parts in a row ("gate" is not gate_proj);
        "model.layers.*.self_attn" stands for everything below it.
        """
        return any(self._match(name) for name in names)

    def _match(self, name: str) -> bool:
        parts = name.split(".")
        ends = range(1, len(parts) + 1)
        if any(tuple(parts[start:end]) in self._runs for end in ends for start in range(end)):
            return True
        if self._globs is not None and self._globs.match(name):
            return True
        return any(expression.match(name) for expression in self._expressions)


def is_tame(expression: str) -> bool:
    """Whether a regular expression repeats a few times at most, and never inside a repeat."""
    simple = _ESCAPE.sub("x", expression)
    repeats = sum(simple.count(sign) for sign in "*+{")
    if _WILD.search(simple) or repeats > MAX_REPEATS:
        return False
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
