"""Documents of a run as ranked answers, each with why it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from optimizer.cost.serving import sustained
from optimizer.plan import Answer, Plan, Share, sealed
from optimizer.plan.fleet import FleetPlan, sealed_fleet
from optimizer.spec.fleet import Mode
from optimizer.units import milliseconds

Some = TypeVar("Some")


def answer_of(document: Plan | FleetPlan, mode: Mode, value: int) -> Answer:
    """A document as an answer without a rank; value: of the deciding criterion, on its grid."""
    if isinstance(document, Plan):
        deployment = document.deployment
        pools = dict.fromkeys(deployment.stage_pools)
        served = document.predictions["requests_per_s"].value
        share = Share("serving", " and ".join(pools), document, served, capacity_per_s(document))
        return Answer(0, document, mode, (share,), 0.0, value)
    shares = tuple(
        Share(
            part.role, part.pool, document.plans[part.plan], part.share_per_s, part.capacity_per_s
        )
        for part in document.parts
    )
    return Answer(0, document, mode, shares, document.served[0].transfer_s or 0.0, value)


def capacity_per_s(plan: Plan) -> float:
    """Requests a second that a plan sustains with room for the peaks of random arrivals."""
    deployment = plan.deployment
    slots = deployment.batch.sequences_per_rank * deployment.layout.dp * deployment.layout.replicas
    return sustained(float(slots)) / plan.predictions["request_s"].value


def foremost(found: Sequence[Some], modes: Sequence[Mode], top: int) -> list[Some]:
    """The first `top` of what is in order, and after them the first of each mode that is not among
    them."""
    return [
        each
        for place, (each, mode) in enumerate(zip(found, modes, strict=True))
        if place < top or mode not in modes[:place]
    ]


def in_order(
    answers: Sequence[Answer], goal: str, notes: Sequence[str], top: int
) -> tuple[Answer, ...]:
    """The foremost different answers by value, GPUs and seconds of a request; the best one's
    document says what stands beside it."""
    every = sorted(
        {answer.name: answer for answer in reversed(answers)}.values(),
        key=lambda answer: (answer.value, answer.gpus, answer.request_s),
    )
    best, *others = foremost(every, [answer.mode for answer in every], top)
    ranked = [
        replace(answer, rank=rank, why=why_it_lost(answer, best, goal))
        for rank, answer in enumerate(others, start=2)
    ]
    beside = (f"{each.rank}. {each.mode} {each.name}: {each.why}" for each in ranked)
    return (with_notes(replace(best, rank=1), [*notes, *beside]), *ranked)


def why_it_lost(answer: Answer, best: Answer, goal: str) -> str:
    """One line: the deciding figure, and what keeps the answer from more."""
    rates = answer.requests_per_s, best.requests_per_s
    if goal == "served" and answer.value != best.value:
        less = 1 - rates[0] / rates[1]
        lost = f"{less:.1%} fewer requests/s ({rates[0]:,.4g} against {rates[1]:,.4g})"
    elif answer.gpus != best.gpus:
        lost = f"as many requests/s; {answer.gpus} GPUs against {best.gpus}"
    else:
        times = [milliseconds(each.request_s) for each in (answer, best)]
        lost = f"as many requests/s and GPUs; a request takes {times[0]} against {times[1]}"
    return f"{lost}; limited by {answer.limited_by}"


def with_notes(answer: Answer, notes: Sequence[str]) -> Answer:
    """The answer with notes in its sealed document."""
    document = answer.document
    update = {"notes": (*document.notes, *notes)}
    if isinstance(document, Plan):
        plan = sealed(document.model_copy(update=update))
        return replace(answer, document=plan, shares=(answer.shares[0]._replace(plan=plan),))
    return replace(answer, document=sealed_fleet(document.model_copy(update=update)))
