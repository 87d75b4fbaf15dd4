"""Figures that claim nothing but what follows from other figures of the same report."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told, differences, ratios, shortfalls, terms_of

_TERMS = ("terms: the figures that it follows from",)


def sum_of_terms(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """The sum of counts: "32 experts + 8 layers"."""
    terms = terms_of(claim, told)
    if not terms:
        return Answer(missing=_TERMS)
    value = sum(term.figure for term in terms)
    return Answer((Derived(value, f"{' + '.join(term.text for term in terms)} = {value:g}"),))


def product_of_terms(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """The product of counts: "64 modules x 2 GPUs"."""
    terms = terms_of(claim, told)
    if not terms:
        return Answer(missing=_TERMS)
    value = prod(term.figure for term in terms)
    return Answer((Derived(value, f"{' x '.join(term.text for term in terms)} = {value:g}"),))


def ratio_of_terms(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """first / second of the report's own figures."""
    return _answer(ratios(claim, told, ""))


def excess_of_terms(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """first - second."""
    return _answer(differences(claim, told))


def shortfall_of_terms(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """(first - second) of what there is, or of what is needed."""
    return _answer(shortfalls(claim, told))


def _answer(found: list[Derived]) -> Answer:
    return Answer(tuple(found), () if found else _TERMS)
