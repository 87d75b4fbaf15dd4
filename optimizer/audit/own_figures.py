"""What follows from a report's own figures: sums, ratios and shortfalls of the terms it names.

A figure that follows from another holds only if that other one was not refuted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from optimizer.audit.amounts import UNITS, Dimension, Scale, show
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Derived
from optimizer.audit.finding import Verdict
from optimizer.audit.terms import figure_of

OWN = "from the report's own figures"


class Hit(NamedTuple):
    """A reading that reproduces a claim, and how its unit was then read."""

    derived: Derived
    unit_reading: str


class Told(NamedTuple):
    """A claim that was judged before."""

    claim: Claim
    verdict: Verdict
    hits: tuple[Hit, ...]

    @property
    def confirmed(self) -> bool:
        return self.verdict in ("confirmed", "confirmed-under-reading")


class Term(NamedTuple):
    """A figure that another follows from."""

    text: str  # "57.17 MB"
    figure: float
    unit: str
    scales: tuple[Scale, ...]
    refuted: bool


def in_si(claim: Claim) -> float:
    """A claim's figure in SI, its unit at its word."""
    assert claim.figure is not None
    assert claim.unit is not None
    return float(claim.figure.value) * UNITS[claim.unit].scales[0].size


def terms_of(claim: Claim, told: Mapping[str, Told]) -> list[Term]:
    """The terms that a claim names, earlier claims among them."""
    found = []
    for name in claim.terms:
        before = told.get(name)
        if before is not None:
            figure, unit = str(before.claim.value), str(before.claim.unit)
        else:
            figure, unit = figure_of(name) or ("0", "B")
        refuted = before is not None and before.verdict == "refuted"
        value = float(figure.replace(",", "").replace("_", ""))
        found.append(Term(f"{figure} {unit}", value, unit, UNITS[unit].scales, refuted))
    return found


def _readings(terms: Sequence[Term]) -> Iterator[tuple[tuple[Scale, ...], tuple[str, ...]]]:
    """Every way to read the units of the terms, at their word first, with a label for each."""
    for scales in product(*(term.scales for term in terms)):
        labels = (
            f"{term.text} as {(scale.reading or term.unit).split(' as ')[-1]}"
            for term, scale in zip(terms, scales, strict=True)
        )
        yield scales, tuple(labels)


def _of_terms(
    terms: Sequence[Term],
    dimension: Dimension,
    label: str,
    formula: Callable[[Sequence[float]], float],
    written: Callable[[Sequence[str]], str],
) -> Iterator[Derived]:
    for scales, labels in _readings(terms):
        amounts = [term.figure * scale.size for term, scale in zip(terms, scales, strict=True)]
        value = formula(amounts)
        units = [
            (scale.reading or term.unit).split(" as ")[-1]
            for term, scale in zip(terms, scales, strict=True)
        ]
        figures = [
            f"{term.text.split()[0]} {unit}" for term, unit in zip(terms, units, strict=True)
        ]
        own = label
        if label and any(term.refuted for term in terms):
            own = f"{label}, of which one is refuted"
        read = [] if not any(scale.reading for scale in scales) else [" over ".join(units)]
        yield Derived(
            value,
            f"{written(figures)} = {show(value, dimension)}",
            (label, *labels),
            (*([own] if own else []), *read),
            not any(term.refuted for term in terms),
        )


def _quotient(above: float, below: float) -> float:
    return above / below if below else 0.0


def ratios(claim: Claim, told: Mapping[str, Told], label: str = OWN) -> list[Derived]:
    """first / second."""
    terms = terms_of(claim, told)
    if len(terms) != 2:
        return []
    return list(
        _of_terms(
            terms,
            "fraction",
            label,
            lambda amounts: _quotient(amounts[0], amounts[1]),
            lambda figures: f"{figures[0]} / {figures[1]}",
        )
    )


def sums(claim: Claim, told: Mapping[str, Told], dimension: Dimension) -> list[Derived]:
    """The sum of all terms, units at their word."""
    terms = terms_of(claim, told)
    if not terms:
        return []
    return [next(_of_terms(terms, dimension, OWN, sum, " + ".join))]


def differences(claim: Claim, told: Mapping[str, Told]) -> list[Derived]:
    """first - second: what is too much."""
    terms = terms_of(claim, told)
    if len(terms) != 2:
        return []
    return list(
        _of_terms(
            terms,
            "bytes",
            "",
            lambda amounts: amounts[0] - amounts[1],
            lambda figures: f"{figures[0]} - {figures[1]}",
        )
    )


def shortfalls(claim: Claim, told: Mapping[str, Told]) -> list[Derived]:
    """(first - second) of what there is, or of what is needed."""
    terms = terms_of(claim, told)
    if len(terms) != 2:
        return []
    there = _of_terms(
        terms,
        "fraction",
        "",
        lambda amounts: _quotient(amounts[0] - amounts[1], amounts[1]),
        lambda figures: f"({figures[0]} - {figures[1]}) / {figures[1]}",
    )
    needed = _of_terms(
        terms,
        "fraction",
        "of what is needed, not of what there is",
        lambda amounts: _quotient(amounts[0] - amounts[1], amounts[0]),
        lambda figures: f"({figures[0]} - {figures[1]}) / {figures[0]}",
    )
    return [*there, *needed]
