"""Claims files to cases; every wrong key with its file and line, all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from optimizer.audit.amounts import UNITS, printed
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim, ClaimsFile
from optimizer.audit.finding import Phase
from optimizer.audit.judging import unit_labels
from optimizer.audit.phases import Load
from optimizer.audit.quantities import QUANTITIES, Quantity
from optimizer.audit.terms import figure_of
from optimizer.errors import Problem, SpecError
from optimizer.pipeline import readings
from optimizer.spec.cluster import Cluster
from optimizer.spec.document import Document, KeyPath
from optimizer.spec.draft import Draft
from optimizer.spec.files import read_document
from optimizer.spec.presets import locate
from optimizer.spec.reading import ModelInput, read_cluster, read_model, read_workload
from optimizer.spec.wording import nearest
from optimizer.spec.workload import ForwardWorkload, TrainingWorkload


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
    if draft.problems:
        raise SpecError(*sorted(draft.problems, key=lambda problem: problem.line or 0))
    return _case(draft, document, spec)


def _case(draft: Draft, document: Document, spec: ClaimsFile) -> Case:
    cluster, found, workload = _specs(draft, document, spec)
    strategy = spec.strategy or found.strategy
    if strategy is None:
        draft.problem(("strategy",), "is missing; write for example EP8_TP2")
    for path, name in _strategies(spec, strategy):
        try:
            readings(cluster, found.model, name)
        except SpecError as error:
            draft.problem(path, error.problems[0].message)
    if draft.problems or strategy is None:
        raise SpecError(*draft.problems)
    phase: Phase | None = None if spec.phase == "not stated" else spec.phase
    if phase is None and not isinstance(workload, ForwardWorkload):
        phase = workload.kind  # a batch alone says nothing; requests and steps do
    case = Case(spec.case, cluster, found.model, workload, phase, strategy, spec.claims)
    for index, claim in enumerate(spec.claims):
        _check_readings(draft, case, ("claims", index, "reading"), claim)
    if draft.problems:
        raise SpecError(*draft.problems)
    return case


def _specs(draft: Draft, document: Document, spec: ClaimsFile) -> tuple[Cluster, ModelInput, Load]:
    """What the file names; a name that leads nowhere is a problem of its own key."""
    cluster = found = workload = None
    try:
        cluster = read_cluster(_beside(document, spec.hardware), gpus=spec.gpus)
    except SpecError as error:
        _attribute(draft, "hardware", error)
    try:
        found = read_model(_beside(document, spec.model))
        workload = read_workload(document.under("workload") or found.workload)
    except SpecError as error:
        _attribute(draft, "model", error)
    trains = isinstance(workload, TrainingWorkload)
    if workload is not None and trains and spec.phase not in ("training", "not stated"):
        draft.problem(("phase",), f"is {spec.phase}, but the workload trains; write training")
        workload = None
    if cluster is None or found is None or workload is None:
        raise SpecError(*draft.problems)
    return cluster, found, workload


def _attribute(draft: Draft, key: str, error: SpecError) -> None:
    for problem in error.problems:
        if problem.file is None:
            draft.problem((key,), problem.message)
        else:
            draft.problems.append(problem)


def _strategies(spec: ClaimsFile, strategy: str | None) -> Iterator[tuple[KeyPath, str]]:
    """Every strategy that a file names, and where."""
    if strategy is not None:
        yield ("strategy",), strategy
    for index, claim in enumerate(spec.claims):
        here = ("claims", index)
        if claim.strategy is not None:
            yield (*here, "strategy"), claim.strategy
        if claim.baseline is not None:
            yield (*here, "baseline"), claim.baseline
        if claim.change is not None and claim.change.strategy is not None:
            yield (*here, "change", "strategy"), claim.change.strategy


def _check_readings(draft: Draft, case: Case, path: KeyPath, claim: Claim) -> None:
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
    before = [each for each in spec.claims[:index] if each.id]
    earlier = {each.id for each in before if each.figure and each.unit}
    if claim.id in {each.id for each in before}:
        draft.problem((*here, "id"), f"'{claim.id}' names an earlier claim already")
    for position, term in enumerate(claim.terms):
        if term not in earlier and figure_of(term) is None:
            draft.problem(
                (*here, "terms", position),
                "is neither the id of an earlier claim with a figure, nor a figure with a unit, "
                "such as 80 GB",
            )


def _check_unit(draft: Draft, path: KeyPath, unit: str | None, quantity: Quantity) -> None:
    fitting = [name for name, found in UNITS.items() if found.dimension == quantity.dimension]
    if unit is None:
        example = quantity.example or fitting[0]
        draft.problem(path, f"the claim has no unit; write for example unit: {example}")
    elif unit not in fitting:
        draft.problem(path, f"'{unit[:20]}' does not fit here; known are {', '.join(fitting)}")
