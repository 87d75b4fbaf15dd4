"""Claims files to cases; every wrong key with its file and line, all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.audit.amounts import UNITS, printed
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim, ClaimsFile
from optimizer.audit.finding import Phase
from optimizer.audit.judging import unit_labels
from optimizer.audit.quantities import QUANTITIES, Quantity
from optimizer.audit.terms import figure_of
from optimizer.errors import Problem, SpecError
from optimizer.pipeline import readings
from optimizer.spec.document import Document
from optimizer.spec.draft import Draft
from optimizer.spec.files import read_document
from optimizer.spec.presets import locate
from optimizer.spec.reading import read_cluster, read_model, read_workload
from optimizer.spec.wording import nearest


def read_cases(sources: Sequence[str | Path]) -> list[Case]:
    """The cases of several files; raises one SpecError with the problems of all."""
    cases: list[Case] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            cases.append(read_case(source))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(*dict.fromkeys(problems))
    return cases


def read_case(source: str | Path) -> Case:
    """One claims file, or the folder that holds a claims.yaml."""
    document = read_document(locate(str(source), "hardware", ("claims.yaml",)))
    draft = Draft(document)
    spec: ClaimsFile = draft.finish(ClaimsFile, document.data)
    for index, claim in enumerate(spec.claims):
        _check(draft, spec, index, claim)
    for key in ("hardware", "model"):
        if key not in document.data:
            draft.problem((key,), "is missing")
    if draft.problems:
        raise SpecError(*sorted(draft.problems, key=lambda problem: problem.line or 0))
    return _case(draft, document, spec)


def _case(draft: Draft, document: Document, spec: ClaimsFile) -> Case:
    cluster = read_cluster(_beside(document, spec.hardware))
    found = read_model(_beside(document, spec.model))
    workload = read_workload(document.under("workload") or found.workload)
    strategy = spec.strategy or found.strategy
    if strategy is None:
        draft.problem(("strategy",), "is missing; write for example EP8_TP2")
    named: list[tuple[tuple[str | int, ...], str | None]] = [(("strategy",), strategy)]
    for index, claim in enumerate(spec.claims):
        changed = claim.change.strategy if claim.change else None
        named += [
            (("claims", index, "strategy"), claim.strategy),
            (("claims", index, "baseline"), claim.baseline),
            (("claims", index, "change", "strategy"), changed),
        ]
    for path, name in named:
        if name is not None:
            try:
                readings(cluster, found.model, name)
            except SpecError as error:
                draft.problem(path, error.problems[0].message)
    if draft.problems or strategy is None:
        raise SpecError(*draft.problems)
    phase: Phase | None = None if spec.phase == "not stated" else spec.phase
    case = Case(spec.case, cluster, found.model, workload, phase, strategy, spec.claims)
    for index, claim in enumerate(spec.claims):
        _check_readings(draft, case, ("claims", index, "reading"), claim)
    if draft.problems:
        raise SpecError(*draft.problems)
    return case


def _check_readings(draft: Draft, case: Case, path: tuple[str | int, ...], claim: Claim) -> None:
    """A reading that a claim states must be one that its quantity has."""
    if not claim.reading:
        return
    answer = QUANTITIES[claim.quantity].derive(case.with_strategy(claim.strategy), claim, {})
    every = [label for each in answer.derived for label in (*each.labels, *each.departures)]
    known = dict.fromkeys((*every, *unit_labels(claim)))
    for wanted in claim.reading:
        if wanted not in known:
            draft.problem(path, f"no such reading; known here: {', '.join(known) or 'none'}")


def _beside(document: Document, name: str) -> str | Path:
    """A file beside the claims file where there is one, else a path or a preset's name."""
    path = Path(document.file or "").parent / name
    return path if path.exists() else name


def _check(draft: Draft, spec: ClaimsFile, index: int, claim: Claim) -> None:
    """What a schema cannot say: quantities, their units and components, figures and terms."""
    here = ("claims", index)
    quantity = QUANTITIES.get(claim.quantity)
    if quantity is None:
        meant = nearest(claim.quantity, QUANTITIES)
        hint = f"did you mean '{meant}'? " if meant else ""
        known = ", ".join(QUANTITIES)
        draft.problem((*here, "quantity"), f"unknown quantity; {hint}known are {known}")
        return
    if claim.component is None and quantity.components and "" not in quantity.components:
        names = ", ".join(quantity.components)
        draft.problem((*here, "component"), f"is missing; one of {names}")
    if claim.component is not None and claim.component not in quantity.components:
        names = ", ".join(name for name in quantity.components if name) or "none"
        draft.problem((*here, "component"), f"unknown component; known here: {names}")
    if quantity.dimension == "statement":
        return
    if claim.value is None:
        if claim.direction is None or quantity.dimension != "fraction":
            draft.problem((*here, "value"), "is missing; write the figure, for example 57.17")
        return
    if printed(claim.value) is None:
        draft.problem((*here, "value"), "is no figure; write for example 57.17")
    _check_unit(draft, (*here, "unit"), claim.unit, quantity)
    earlier = {each.id for each in spec.claims[:index] if each.id}
    for position, term in enumerate(claim.terms):
        if term not in earlier and figure_of(term) is None:
            draft.problem(
                (*here, "terms", position),
                "is neither the id of an earlier claim nor a figure with a unit, such as 80 GB",
            )


def _check_unit(
    draft: Draft, path: tuple[str | int, ...], unit: str | None, quantity: Quantity
) -> None:
    fitting = [name for name, found in UNITS.items() if found.dimension == quantity.dimension]
    if unit is None:
        example = quantity.example or fitting[0]
        draft.problem(path, f"the claim has no unit; write for example unit: {example}")
    elif unit not in fitting:
        draft.problem(path, f"'{unit[:20]}' does not fit here; known are {', '.join(fitting)}")
