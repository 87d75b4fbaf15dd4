"""Statements without a figure: what is handed over, feasibility, readiness, optimality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

from optimizer.audit.better import NOTABLE, SAME, better_plans
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told
from optimizer.audit.readiness import readiness

TRUE = "true"


def artefact(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """What the report names and does not hand over."""
    note = "the report names it and does not hand it over"
    return Answer(missing=(f"the thing itself: {claim.value or claim.claim}",), note=note)


def mapping(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Whether every expert and group can be given GPUs: the planner's own placement names them."""
    plan = next(iter(case.plans.values()), None)
    if plan is None:
        return Answer(missing=("a plan: the strategy cannot run",))
    groups = plan.deployment.placement.groups
    counts = ", ".join(
        f"{plan.deployment.layout.replicas * len(ranks)} {name.upper()} groups of {len(ranks[0])}"
        for name, ranks in groups.items()
        if ranks and len(ranks[0]) > 1
    )
    text = (
        f"{plan.name} places {counts}; whether the report lists the same ones, only its lists tell"
    )
    return Answer((), (f"the mapping itself: {claim.claim}",), text)


def fits(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Whether the strategy can run, in each phase; "false" claims that it cannot."""
    return Answer(tuple(_ready(case, (TRUE, "false"))))


def ready(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """READY or NOT READY, in each phase."""
    return Answer(tuple(_ready(case, ("READY", "NOT READY"))))


def _ready(case: Case, words: tuple[str, str]) -> Iterator[Derived]:
    for found in readiness(case):
        text = (
            f"{found.phase}: {found.arithmetic}"
            if found.ready
            else f"{found.phase}: {'; '.join(found.limits)}"
        )
        labels = (found.phase, found.reading) if found.reading else (found.phase,)
        departs = labels if case.phase is None else labels[1:]
        yield Derived(words[0] if found.ready else words[1], text, labels, departs)


def optimal(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """No better plan on the same GPUs, by planning without the strategy; what is within 1 % of the
    best is as good as it only to the eye."""
    found = []
    for better in better_plans(case):
        departs: list[str] = [] if case.phase else [better.phase]
        times = better.times or inf
        if SAME < times < NOTABLE:
            departs.append("within 1 % of the best plan")
        text = f"{better.phase}: {better.comparison}"
        word = TRUE if times < NOTABLE else "false"
        found.append(Derived(word, text, (better.phase,), tuple(departs)))
    return Answer(tuple(found), () if found else ("a plan: nothing can run",))
