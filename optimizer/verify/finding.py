"""What a check says, and how two numbers are held against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from optimizer.verify.document import Json, is_number

Outcome = tuple[bool, str]  # whether it holds, and what stands against what
Check = Callable[[Json], Iterator[Outcome]]

ROUNDING = 1e-12  # share by which products of a few floats may differ
WHOLE = 2**53  # below it floats hold whole numbers, and sums of them, exactly


@dataclass(frozen=True)
class Finding:
    """One thing that was checked; the detail names the plan's number and the one derived here."""

    check: str
    ok: bool
    detail: str


def shown(value: object) -> str:
    """A value for a reader: whole numbers in full, others with seven digits, long texts cut."""
    if isinstance(value, int | float) and is_number(value) and abs(value) < 2**63:
        return f"{int(value):,}" if value == int(value) else f"{value:.7g}"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def same(planned: Any, derived: Any, tolerance: float = 0.0) -> bool:
    """Equal; numbers to within a share of the larger one."""
    if is_number(planned) and is_number(derived):
        return bool(
            planned == derived
            or abs(planned - derived) <= tolerance * max(abs(planned), abs(derived))
        )
    return type(planned) is type(derived) and bool(planned == derived)


def equal(what: str, planned: Any, derived: Any, tolerance: float = 0.0) -> Outcome:
    """The plan's value is the derived one."""
    allowed = f" (within {tolerance:.0%})" if tolerance > ROUNDING else ""
    return (
        same(planned, derived, tolerance),
        f"{what}: the plan says {shown(planned)}, derived {shown(derived)}{allowed}",
    )


def rounding(*terms: float) -> float:
    """Share by which a sum of these may be off: none where all are whole, else a bit a term."""
    whole = all(term == int(term) for term in terms) and abs(sum(terms)) < WHOLE
    return 0.0 if whole else len(terms) * 2.0**-52


def at_most(what: str, smaller: Any, larger: Any) -> Outcome:
    """One number is no larger than another, rounding aside."""
    ok = is_number(smaller) and is_number(larger)
    ok = ok and smaller <= larger + ROUNDING * abs(larger)
    return ok, f"{what}: {shown(smaller)} of at most {shown(larger)}"


def all_hold(what: str, outcomes: Iterable[Outcome]) -> Outcome:
    """Many comparisons as one outcome: how many there were and failed, and the first that did."""
    every = list(outcomes)
    failed = [detail for ok, detail in every if not ok]
    if failed:
        return False, f"{what}: {len(failed)} of {len(every)} fail, the first: {failed[0]}"
    last = f"; the last: {every[-1][1]}" if every else ""
    return True, f"{what}: all {len(every)} hold{last}"
