"""Terms of a claim as people write them: "80 GB"."""

from __future__ import annotations

import re

from optimizer.audit.amounts import UNITS

_TERM = re.compile(r"(?P<figure>[+-]?[0-9][0-9_,]*(?:\.[0-9]+)?)\s*(?P<unit>\S.*)?")


def figure_of(term: str) -> tuple[str, str] | None:
    """(figure, unit) of a term that is no claim's id."""
    match = _TERM.fullmatch(term.strip())
    if match is None or match["unit"] not in UNITS:
        return None
    return match["figure"], match["unit"]
