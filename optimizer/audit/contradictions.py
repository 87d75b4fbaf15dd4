"""Claims that cannot hold together: in one report, and across several reports of one plan.

A check is one function and one line below. What one claim contradicts alone (work taken for a rate,
integers that are no equal shares, layers of their own where PP = 1) its quantity says itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

from optimizer.audit.amounts import UNITS, show
from optimizer.audit.case import Case
from optimizer.audit.claim import PER_GPU, Claim
from optimizer.audit.finding import Finding, contradiction
from optimizer.audit.own_figures import Told, in_si, ratios, terms_of
from optimizer.audit.quantities.steps import bubble
from optimizer.audit.step_contradictions import (
    beyond_the_peak,
    share_against_rate,
    step_against_rate,
)

Report = tuple[Case, Sequence[Told]]

ALIKE = 0.05  # relative difference that rounding of two printed figures may explain


def _with_figure(judged: Sequence[Told], *quantities: str) -> list[Told]:
    return [
        told
        for told in judged
        if told.claim.quantity in quantities and told.claim.figure and told.claim.unit
    ]


def components_against_total(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """A total is the sum of its components, in one unit."""
    by_id = {told.claim.id: told for told in judged if told.claim.id}
    for told in _with_figure(judged, "memory_per_gpu", "compute_rate"):
        parts = [by_id[name] for name in told.claim.terms if name in by_id]
        if len(parts) < 2:
            continue
        text = " + ".join(f"{part.claim.value} {part.claim.unit}" for part in parts)
        total = sum(in_si(part.claim) for part in parts)
        room = sum(_rounding(part.claim) for part in (*parts, told))
        if abs(total - in_si(told.claim)) > room * 1.000001:
            unit = UNITS[str(told.claim.unit)].scales[0].size
            yield contradiction(
                case.name,
                f"components against total: {told.claim.claim}",
                f"{text} = {total / unit:.6g} {told.claim.unit}, not {told.claim.value}",
            )
        read = [{hit.unit_reading for hit in part.hits} for part in parts if part.hits]
        if len(read) > 1 and not set.intersection(*read):
            yield contradiction(
                case.name,
                f"one sum in two units: {told.claim.claim}",
                f"{text}: {'; '.join(_unit_used(part) for part in parts if part.hits)}; figures in "
                f"different units are not added digit by digit: in one unit they come to "
                f"{show(sum(map(_as_read, parts)), UNITS[str(told.claim.unit)].dimension)}",
            )


def _rounding(claim: Claim) -> float:
    """What rounding may hide of a figure, in SI."""
    assert claim.figure is not None
    return float(claim.figure.half_step) * UNITS[str(claim.unit)].scales[0].size


def _as_read(told: Told) -> float:
    """A figure in SI by the unit that reproduces it, else at its word."""
    unit = UNITS[str(told.claim.unit)]
    read = told.hits[0].unit_reading if told.hits else ""
    sizes = {scale.reading: scale.size for scale in unit.scales}
    return in_si(told.claim) / unit.scales[0].size * sizes.get(read, unit.scales[0].size)


def _unit_used(told: Told) -> str:
    """By which unit a figure is reproduced, and from what."""
    hit = told.hits[0]
    unit = (hit.unit_reading or str(told.claim.unit)).split(" as ")[-1]
    return f"{told.claim.value} is {unit} ({hit.derived.arithmetic})"


def ratio_against_terms(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """A share is the quotient of the two figures that it is said to be of."""
    known = {told.claim.id: told for told in judged if told.claim.id}
    for told in _with_figure(judged, "share_of_capacity", "utilisation", "mfu", "ratio"):
        found = ratios(told.claim, known)
        units = {each.labels[1:] for each in found}
        if found and not any(hit.derived.labels[1:] in units for hit in told.hits):
            yield contradiction(
                case.name,
                f"ratio against its terms: {told.claim.claim}",
                f"{found[0].arithmetic}, not {told.claim.value} {told.claim.unit}, "
                "under no reading of the units",
            )


def tokens_in_flight(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """Throughput x latency is what is in flight (Little, 1961): one token a request at most, or all
    tokens of a pass. Less is no contradiction: requests also wait and are read in."""
    whole_pass = case.batch * case.seq_len
    if case.phase == "training":
        return  # step_against_rate says it
    for rate in _with_figure(judged, "throughput"):
        for delay in _with_figure(judged, "latency"):
            gpus = case.layout.gpus if rate.claim.component == PER_GPU else 1
            times = f" x {gpus} GPUs" if gpus > 1 else ""
            flight = in_si(rate.claim) * gpus * in_si(delay.claim)
            wait = f"{delay.claim.value} {delay.claim.unit}"
            passes = case.phase != "serving" and abs(flight / whole_pass - 1) <= ALIKE
            if flight > (1 + ALIKE) * case.batch and not passes:
                yield contradiction(
                    case.name,
                    f"throughput x latency: {rate.claim.claim}; {delay.claim.claim}",
                    f"{rate.claim.value} tokens/s{times} x {wait} = "
                    f"{flight:,.0f} tokens in flight (Little's law); the batch is {case.batch}",
                )


def throughput_turned_over(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """1 / throughput is no latency, and a factor of a thousand is a slip of the unit."""
    for rate in _with_figure(judged, "throughput"):
        for delay in _with_figure(judged, "latency"):
            figure = delay.claim.figure
            per_second = in_si(rate.claim)
            if figure is None or not per_second or rate.claim.component or case.batch == 1:
                continue
            size = UNITS[str(delay.claim.unit)].scales[0].size
            for factor, slip in (
                (1.0, ""),
                (1e3, ", a thousand times less"),
                (1e-3, ", a thousand times more"),
            ):
                if figure.shows(factor / per_second / size):
                    yield contradiction(
                        case.name,
                        f"a latency that is a throughput turned over: {delay.claim.claim}",
                        f"1 / {rate.claim.value} tokens/s = {1e6 / per_second:.4g} us, not "
                        f"{delay.claim.value} {delay.claim.unit}: the unit is off by a thousand"
                        if slip
                        else f"1 / {rate.claim.value} tokens/s = {1e6 / per_second:.4g} us is "
                        "the time between two tokens of all requests",
                    )


def pipeline_bubble(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """No stage works while a pipeline fills and drains; a served one need not drain, and a
    zero-bubble schedule fills the time with weight gradients."""
    if case.phase == "serving" or "zero_bubble" in getattr(case.workload, "schedules", ()):
        return
    share, text = bubble(case)
    for told in _with_figure(judged, "utilisation", "mfu"):
        if told.claim.comparison in ("equal", "above") and in_si(told.claim) > share:
            yield contradiction(
                case.name,
                f"pipeline bubble against utilisation: {told.claim.claim}",
                f"{text}, less than {told.claim.value} {told.claim.unit}",
            )


def two_readings_of_one_figure(case: Case, judged: Sequence[Told]) -> Iterator[Finding]:
    """Claims that speak of the same figure must hold under one reading of its unit."""
    shares = [told for told in judged if told.claim.terms and told.hits]
    for first, second in combinations(shares, 2):
        terms = [name for name in first.claim.terms if name in second.claim.terms]
        if not terms:
            continue
        texts = [
            f"{term.text} as "
            for term in terms_of(first.claim, {each.claim.id or "": each for each in judged})
            if term.text in _texts(second, judged)
        ]
        read = [_units_read(told, texts) for told in (first, second)]
        if all(read) and not read[0] & read[1]:
            yield contradiction(
                case.name,
                f"one figure read in two ways: {first.claim.claim}; {second.claim.claim}",
                " but ".join(
                    f"{told.claim.value} {told.claim.unit} needs {' or '.join(sorted(each))}: "
                    f"{told.hits[0].derived.arithmetic}"
                    for told, each in zip((first, second), read, strict=True)
                ),
            )


def _texts(told: Told, judged: Sequence[Told]) -> set[str]:
    known = {each.claim.id or "": each for each in judged}
    return {term.text for term in terms_of(told.claim, known)}


def _units_read(told: Told, texts: Sequence[str]) -> set[str]:
    """The ways to read the given terms under which a claim holds: "80 GB as GiB, ..."."""
    found = set()
    for hit in told.hits:
        labels = [label for label in hit.derived.labels if label.startswith(tuple(texts))]
        if len(labels) == len(texts) and not hit.unit_reading:
            found.add(", ".join(labels))
    return found


def reports_of_one_plan(reports: Sequence[Report]) -> Iterator[Finding]:
    """The same cluster, model and strategy cannot have two values of one quantity, unless each of
    them holds under a reading."""
    for (first, told), (second, others) in combinations(reports, 2):
        if not _same_plan(first, second):
            continue
        for mine, theirs in product(told, others):
            one, other = mine.claim, theirs.claim
            if _what(one) != _what(other) or not _both_figures(one, other) or _agree(one, other):
                continue
            if mine.confirmed and theirs.confirmed:
                continue
            ratio = max(in_si(one), in_si(other)) / max(min(in_si(one), in_si(other)), 1e-300)
            yield contradiction(
                f"{first.name}, {second.name}",
                f"two reports of one plan: {_what(one)}",
                f"{first.name}: {one.value} {one.unit} ({one.claim}); {second.name}: "
                f"{other.value} {other.unit} ({other.claim}); {ratio:,.4g} times apart, equal "
                "under no reading of the units",
            )


def _same_plan(first: Case, second: Case) -> bool:
    alike = {"name": ""}
    return (
        first.layout == second.layout
        and first.cluster.model_copy(update=alike) == second.cluster.model_copy(update=alike)
        and first.model.model_copy(update=alike) == second.model.model_copy(update=alike)
        and first.workload == second.workload
    )


def _both_figures(one: Claim, other: Claim) -> bool:
    return bool(one.figure and other.figure and one.unit and other.unit)


def _what(claim: Claim) -> str:
    component = claim.component or ("total" if claim.quantity == "utilisation" else "")
    return " / ".join(part for part in (claim.quantity.replace("_", " "), component) if part)


def _agree(one: Claim, other: Claim) -> bool:
    """Whether any reading of both units makes the two figures print alike."""
    first, second = one.figure, other.figure
    assert first is not None
    assert second is not None
    for mine in UNITS[str(one.unit)].scales:
        for theirs in UNITS[str(other.unit)].scales:
            gap = abs(float(first.value) * mine.size - float(second.value) * theirs.size)
            room = float(first.half_step) * mine.size + float(second.half_step) * theirs.size
            if gap <= room * 1.000001:
                return True
    return False


CASE_CHECKS: tuple[Callable[[Case, Sequence[Told]], Iterator[Finding]], ...] = (
    components_against_total,
    ratio_against_terms,
    tokens_in_flight,
    throughput_turned_over,
    pipeline_bubble,
    two_readings_of_one_figure,
    step_against_rate,
    share_against_rate,
    beyond_the_peak,
)
REPORT_CHECKS: tuple[Callable[[Sequence[Report]], Iterator[Finding]], ...] = (reports_of_one_plan,)
