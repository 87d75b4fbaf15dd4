"""A claim against every reading of its quantity: the verdict, and the arithmetic behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial

from optimizer.audit.amounts import NATURAL, UNITS, Printed, Scale
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim, Comparison
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.finding import Finding, Verdict
from optimizer.audit.own_figures import OWN, Hit, Told, in_si
from optimizer.audit.quantities import QUANTITIES, Quantity
from optimizer.errors import InfeasibleError

_SIGNS: dict[str, Comparison] = {"less": "below", "more": "above", "same": "equal"}
_NO_CHANGE = Printed(Decimal(0), Decimal("0.5"))


def judge(case: Case, claim: Claim, told: Mapping[str, Told]) -> tuple[Finding, Told]:
    """The finding on one claim, and what later claims may build on."""
    quantity = QUANTITIES[claim.quantity]
    case = case.with_strategy(claim.strategy)
    answer = quantity.derive(case, claim, told)
    admitted = [each for each in answer.derived if each.holds and _pinned(claim, each)]
    hits = sorted(_hits(claim, answer.derived), key=partial(_distance, claim))
    good = [hit for hit in hits if hit.derived in admitted and _unit_pinned(claim, hit)]
    if _by_chance(hits, good):
        good = []
    missing = (*answer.missing, *_decisive(case, claim, quantity))
    if not admitted and not missing:
        missing = _no_plan(case)
    verdict, reading = _verdict(claim, good, admitted, missing)
    chosen = good[0].derived if good else (admitted[0] if admitted else None)
    if verdict in ("confirmed", "confirmed-under-reading"):
        missing = ()
    value, unit = _derived(claim, quantity, chosen, good[0] if good else None)
    finding = Finding(
        case=case.name,
        claim=claim.claim,
        quantity=" / ".join(part for part in (claim.quantity, claim.component) if part),
        claimed_value=_claimed(claim),
        claimed_unit=claim.unit or "",
        verdict=verdict,
        derived_value=value,
        derived_unit=unit,
        arithmetic=_arithmetic(answer, admitted, hits, chosen, verdict),
        reading=reading,
        readings=tuple(dict.fromkeys(_named(hit) for hit in (*good, *hits) if _named(hit))),
        missing=missing if verdict == "unverifiable" else (),
        assumptions=case.assumed(*quantity.keys(claim.component)),
    )
    return finding, Told(claim, verdict, tuple(hits))


def judge_all(case: Case) -> tuple[list[Finding], list[Told]]:
    """Every claim of a report in its order."""
    findings: list[Finding] = []
    judged: list[Told] = []
    named: dict[str, Told] = {}
    for claim in case.claims:
        finding, told = judge(case, claim, named)
        findings.append(finding)
        judged.append(told)
        if claim.id is not None:
            named[claim.id] = told
    return findings, judged


def _hits(claim: Claim, derived: Sequence[Derived]) -> Iterator[Hit]:
    """Every reading that reproduces the claim, with every reading of its unit."""
    for each in derived:
        if isinstance(each.value, str):
            if each.value == (claim.value or "true"):
                yield Hit(each, "")
            continue
        if not each.holds and not _is_equality(claim):
            continue  # where a figure comes from explains no bound
        for scale in _scales(claim):
            if _reproduces(claim, each, scale):
                yield Hit(each, scale.reading)
            elif each.holds and _is_equality(claim):
                yield from _slips(claim, each, scale)


def _slips(claim: Claim, derived: Derived, scale: Scale) -> Iterator[Hit]:
    """A unit that is off by a thousand: explains a figure, never confirms it."""
    figure = claim.figure
    if derived.low is not None or claim.about or figure is None or not figure.value:
        return  # anything lies near an interval or near enough
    for factor in (1e3, 1e-3):
        if figure.half_step and _reproduces(claim, derived, Scale(scale.size * factor)):
            unit = scale.reading or str(claim.unit)
            yield Hit(derived._replace(holds=False), f"{unit} off by a thousand")


def _is_equality(claim: Claim) -> bool:
    return claim.comparison == "equal" and claim.figure is not None


def _scales(claim: Claim) -> tuple[Scale, ...]:
    return UNITS[claim.unit].scales if claim.unit else UNITS["%"].scales


def _reproduces(claim: Claim, derived: Derived, scale: Scale) -> bool:
    assert not isinstance(derived.value, str)
    shown = derived.value / scale.size
    comparison = claim.comparison
    figure = claim.figure
    if figure is None:  # an effect of which only the direction is claimed
        figure = _NO_CHANGE
        comparison = _SIGNS[claim.direction or "same"]
    claimed = float(figure.value)
    if comparison == "above":
        return shown > claimed
    if comparison == "below":
        return shown < claimed
    if comparison == "not":
        return not figure.shows(shown, claim.about)
    if derived.low is not None and derived.high is not None:
        return derived.low <= claimed * scale.size <= derived.high
    return figure.shows(shown, claim.about)


def _by_chance(hits: Sequence[Hit], good: Sequence[Hit]) -> bool:
    """Whether a figure only lies in a prediction's interval, while wrong figures of the same report
    give it digit for digit: then it was not predicted but computed from them."""
    wrong = any(OWN in hit.derived.labels and not hit.derived.holds for hit in hits)
    return wrong and all(hit.derived.low is not None for hit in good)


def _distance(claim: Claim, hit: Hit) -> tuple[bool, int, float]:
    """Departures from the claim's word; that a figure follows from others explains it last. Of
    predictions in whose intervals it lies the nearest comes first."""
    derived, apart = hit.derived, 0.0
    if derived.low is not None and not isinstance(derived.value, str) and claim.figure:
        apart = abs(derived.value - in_si(claim))
    return OWN in derived.labels, len(derived.departures) + bool(hit.unit_reading), apart


def _pinned(claim: Claim, derived: Derived) -> bool:
    """Whether a reading is one that the claim allows."""
    allowed = (*derived.labels, *derived.departures, *unit_labels(claim))
    return all(wanted in allowed for wanted in claim.reading)


def _unit_pinned(claim: Claim, hit: Hit) -> bool:
    pinned = set(claim.reading) & set(unit_labels(claim))
    return not pinned or (hit.unit_reading or f"{claim.unit} as {claim.unit}") in pinned


def unit_labels(claim: Claim) -> tuple[str, ...]:
    """The readings of a claim's unit: "MB as MB", "MB as MiB"."""
    if claim.unit is None:
        return ()
    return tuple(scale.reading or f"{claim.unit} as {claim.unit}" for scale in _scales(claim))


def _no_plan(case: Case) -> tuple[str, ...]:
    """Why nothing could be derived: the strategy cannot run, or no cost model knows the phase."""
    errors = [error for error in case.outcomes.values() if isinstance(error, InfeasibleError)]
    reasons = dict.fromkeys(reason for error in errors for reason in error.reasons)
    if reasons:
        return (f"a plan to derive it from: {'; '.join(reasons)}",)
    return ("a plan to derive it from: none is made for this phase",)


def _verdict(
    claim: Claim, good: Sequence[Hit], admitted: Sequence[Derived], missing: Sequence[str]
) -> tuple[Verdict, str]:
    if good:
        best = good[0]
        if not {*best.derived.departures, *filter(None, [best.unit_reading])} - {*claim.reading}:
            return "confirmed", ""
        if len(admitted) > 1 and _under_all(good, admitted):
            return "confirmed", ""
        return "confirmed-under-reading", _named(best)
    return ("unverifiable", "") if missing or not admitted else ("refuted", "")


def _under_all(good: Sequence[Hit], admitted: Sequence[Derived]) -> bool:
    """Whether a claim holds under every reading, in each phase that the report leaves open."""
    at_word = [hit.derived for hit in good if not hit.unit_reading]
    return all(each in at_word for each in admitted)


def _named(hit: Hit) -> str:
    return "; ".join(part for part in (*hit.derived.departures, hit.unit_reading) if part)


def _decisive(case: Case, claim: Claim, quantity: Quantity) -> tuple[str, ...]:
    """Keys that nobody stated and without which a figure cannot be refuted."""
    rests_on = {row.key for row in case.assumed_rows(*quantity.keys(claim.component))}
    found = tuple(key for key in quantity.decisive if key in rests_on)
    phase = () if case.phase or not quantity.decisive else ("phase",)
    return (*phase, *found) if found else ()


def _claimed(claim: Claim) -> float | str | None:
    if claim.figure is not None:
        return float(claim.figure.value)
    return claim.value or claim.direction


def _derived(
    claim: Claim, quantity: Quantity, chosen: Derived | None, hit: Hit | None
) -> tuple[float | str | None, str]:
    """The derived value in the claim's own unit, as it was read."""
    if chosen is None or isinstance(chosen.value, str):
        return (chosen.value if chosen else None), ""
    if claim.unit is None:
        unit, size = NATURAL[quantity.dimension]
        return _rounded(chosen.value / size), unit
    scales = UNITS[claim.unit].scales
    read = hit.unit_reading if hit else ""
    scale = next(scale for scale in scales if scale.reading == read)
    unit = read.split(" as ")[-1] if read else claim.unit
    return _rounded(chosen.value / scale.size), unit


def _rounded(value: float) -> float:
    """Nine digits: what floating point adds beyond them is noise."""
    return float(f"{value:.9g}")


def _arithmetic(
    answer: Answer,
    admitted: Sequence[Derived],
    hits: Sequence[Hit],
    chosen: Derived | None,
    verdict: Verdict,
) -> str:
    """The arithmetic of the reading that holds; where none does, of the claim at its word and of
    what explains the figure."""
    parts: list[str] = []
    if chosen is not None:
        parts.append(chosen.arithmetic)
    if verdict in ("refuted", "unverifiable"):
        parts += [each.arithmetic for each in _first_departures(admitted)]
        if hits:
            first = next((hit for hit in hits if hit.derived not in admitted), hits[0])
            parts.append(
                f"where the figure comes from: {_named(first)}: {first.derived.arithmetic}"
            )
    elif chosen is not None and admitted:
        plain = [each for each in admitted if each.departures == chosen.departures[:-1]]
        at_word = dict.fromkeys((*plain[:1], admitted[0]))
        parts += [f"otherwise: {each.arithmetic}" for each in at_word if each is not chosen]
    if answer.note:
        parts.append(answer.note)
    return "\n".join(dict.fromkeys(parts)) or "nothing to derive it from"


def _first_departures(admitted: Sequence[Derived]) -> list[Derived]:
    """Of each way to depart from the claim's word, the readings that go no further than needed."""
    nearest: dict[str, int] = {}
    for each in admitted:
        way = each.departures[0] if each.departures else ""
        nearest[way] = min(len(each.departures), nearest.get(way, len(each.departures)))
    return [
        each
        for each in admitted
        if len(each.departures) == nearest[each.departures[0] if each.departures else ""]
    ]
