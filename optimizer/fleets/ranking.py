"""Documents of a run as ranked answers, each with why it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optimizer.cost.serving import sustained
from optimizer.plan import Answer, Plan, Share, sealed
from optimizer.plan.fleet import FleetPlan, sealed_fleet
from optimizer.spec.fleet import Mode
from optimizer.units import milliseconds


def answer_of(document: Plan | FleetPlan, mode: Mode, value: int) -> Answer:
    """A document as an answer without a rank; value: of the deciding criterion, on its grid."""
    if isinstance(document, Plan):
        deployment, predicted = document.deployment, document.predictions
        slots = deployment.batch.sequences_per_rank * deployment.layout.dp
        capacity = sustained(float(slots * deployment.layout.replicas))
        share = Share(
            "serving",
            deployment.pool,
            document,
            predicted["requests_per_s"].value,
            capacity / predicted["request_s"].value,
        )
        return Answer(0, document, mode, (share,), 0.0, value)
    shares = tuple(
        Share(
            part.role, part.pool, document.plans[part.plan], part.share_per_s, part.capacity_per_s
        )
        for part in document.parts
    )
    return Answer(0, document, mode, shares, document.served[0].transfer_s or 0.0, value)


def in_order(answers: Sequence[Answer], goal: str, notes: Sequence[str]) -> tuple[Answer, ...]:
    """Different answers by value, GPUs and seconds of a request; the best one's document says what
    stands beside it."""
    best, *others = sorted(
        {answer.name: answer for answer in reversed(answers)}.values(),
        key=lambda answer: (answer.value, answer.gpus, answer.request_s),
    )
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
