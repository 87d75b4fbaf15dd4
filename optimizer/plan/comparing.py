"""Why one plan lost to another: time by operator group, memory, idle GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from optimizer.plan.document import Deployment, Plan, RunnerUp
from optimizer.plan.tables import PhaseTable
from optimizer.plan.training import Training
from optimizer.units import figure, gib, milliseconds


class Term(NamedTuple):
    """One term of a comparison: what it is, here and in the other plan; larger is worse here."""

    what: str
    here: float
    other: float
    unit: str

    def line(self) -> tuple[str, str, str, str]:
        """(what, here, other, difference) for a reader."""
        show = _showers.get(self.unit, milliseconds)
        sign = "+" if self.here >= self.other else "-"
        return (
            self.what,
            show(self.here),
            show(self.other),
            f"{sign}{show(abs(self.here - self.other))}",
        )


_showers: dict[str, Callable[[float], str]] = {
    "s": milliseconds,
    "B": gib,
    "/s": lambda value: figure(value, 4),
    "": figure,
}


def _tier(group: str, table: PhaseTable) -> str:
    """Where a communication group runs: inside a domain, or between domains."""
    rows = [row for row in table.rows if row.group == group and row.axis]
    if not rows:
        return group
    between = any(row.inside < row.group_size for row in rows)
    return f"{group} ({'between' if between else 'inside'} domains)"


def phase_terms(loser: Plan, winner: Plan, phase: str) -> list[Term]:
    """Seconds of one step by operator group; they sum to the step along the pipeline."""
    mine, theirs = _table(loser, phase), _table(winner, phase)
    here = mine.by_group if mine else {}
    other = theirs.by_group if theirs else {}
    found = []
    for group in dict.fromkeys([*here, *other]):
        table = mine if mine and group in here else theirs
        name = _tier(group, table) if table else group
        found.append(Term(name, here.get(group, 0.0), other.get(group, 0.0), "s"))
    return found


def _table(plan: Plan, phase: str) -> PhaseTable | None:
    return next((t for name, t in plan.deployment.phases.items() if name == phase), None)


def step_terms(loser: Training, winner: Training) -> list[Term]:
    """What the seconds of a training step go to; they sum to the step."""
    here, other = loser.step_seconds, winner.step_seconds
    names = dict.fromkeys([*here, *other])
    return [Term(name, here.get(name, 0.0), other.get(name, 0.0), "s") for name in names]


def _unit(prediction: str) -> str:
    if prediction.endswith("bytes"):
        return "B"
    return "/s" if "per_s" in prediction else "" if prediction == "mfu" else "s"


def terms(loser: Plan, winner: Plan) -> dict[str, list[Term]]:
    """All in which two plans may differ: steps by group, predictions, memory, batch, GPUs."""
    mine, theirs = loser.deployment, winner.deployment
    found = {
        f"{phase} step": phase_terms(loser, winner, phase)
        for phase in dict.fromkeys([*mine.phases, *theirs.phases])
    }
    if mine.training is not None and theirs.training is not None:
        found["training step"] = step_terms(mine.training, theirs.training)
    found["predictions"] = [
        Term(name, prediction.value, winner.predictions[name].value, _unit(name))
        for name, prediction in loser.predictions.items()
        if name in winner.predictions
    ]
    stages = (
        mine.memory.stages[mine.memory.fullest_stage].components,
        theirs.memory.stages[theirs.memory.fullest_stage].components,
    )
    found["memory of the fullest GPU"] = [
        Term(name, stages[0].get(name, 0.0), stages[1].get(name, 0.0), "B")
        for name in dict.fromkeys([*stages[0], *stages[1]])
    ]
    found["GPUs and batch"] = [
        Term("GPUs used", float(mine.gpus), float(theirs.gpus), ""),
        Term("idle GPUs", float(mine.balance.idle_gpus), float(theirs.balance.idle_gpus), ""),
        Term("requests at once", mine.batch.concurrency, theirs.batch.concurrency, ""),
        Term(
            "sequences of a rank",
            float(mine.batch.sequences_per_rank),
            float(theirs.batch.sequences_per_rank),
            "",
        ),
        Term("tokens of a prefill step", _prefill_tokens(mine), _prefill_tokens(theirs), ""),
    ]
    return found


def _prefill_tokens(deployment: Deployment) -> float:
    """What all attention ranks of all replicas take in at once."""
    layout = deployment.layout
    return float(deployment.batch.prefill_chunk * layout.dp * layout.replicas)


def headline(loser: Plan, winner: Plan) -> str:
    """The deciding figure: how much is lost, or which criterion broke the tie."""
    mine, best = loser.proof, winner.proof
    if mine.value != best.value:
        ours, theirs = mine.value / mine.scale, best.value / best.scale
        change = abs(ours - theirs) / max(abs(theirs), 1e-12)
        worse = (ours < theirs) == (mine.sense == "maximize")
        more = "less" if mine.sense == "maximize" else "more"
        fewer = "more" if mine.sense == "maximize" else "less"
        amount = f"{change:.1%}" if change >= 5e-4 else f"{100 * change:.1g}%"
        return f"{amount} {more if worse else fewer} {mine.objective}"
    broken = {
        "tokens/s": ("tokens_per_s", "fewer tokens/s"),
        "latency": ("request_s", "longer latency"),
    }
    for criterion in mine.tie_break:
        if criterion == "GPUs used" and loser.deployment.gpus != winner.deployment.gpus:
            return (
                f"equal in {mine.objective}; {loser.deployment.gpus} GPUs used against "
                f"{winner.deployment.gpus}"
            )
        name, words = broken.get(criterion, ("", ""))
        if name == "request_s":
            names = (name, "latency_s", "step_s")
            name = next(each for each in names if each in loser.predictions)
        if name and loser.predictions[name].value != winner.predictions[name].value:
            return f"equal in {mine.objective}; {words}"
    return f"equal in {mine.objective} and all else; later in canonical order"


def why_it_lost(loser: Plan, winner: Plan) -> str:
    """One line: the deciding figure, and what is behind it."""
    reasons = [headline(loser, winner)]
    slower = [
        (f"{phase} {term.what}", term)
        for phase in loser.deployment.phases
        for term in phase_terms(loser, winner, phase)
        if term.here > term.other
    ]
    if loser.deployment.training is not None and winner.deployment.training is not None:
        slower = [
            (term.what, term)
            for term in step_terms(loser.deployment.training, winner.deployment.training)
            if term.here > term.other
        ]
    for what, term in sorted(slower, key=lambda pair: pair[1].other - pair[1].here)[:2]:
        reasons.append(f"{what} {milliseconds(term.here)} against {milliseconds(term.other)}")
    idle = loser.deployment.balance.idle_gpus
    if idle > winner.deployment.balance.idle_gpus:
        reasons.append(f"{idle} GPUs idle")
    mine, theirs = loser.deployment.batch.concurrency, winner.deployment.batch.concurrency
    if mine < theirs:
        memory = loser.deployment.memory
        left = gib(memory.limit_bytes - memory.fullest_bytes)
        reasons.append(
            f"{mine:,.0f} requests at once against {theirs:,.0f} ({left} of memory left)"
        )
    return "; ".join(reasons)


def explanation(plan: Plan, best: Plan) -> str:
    """A plan beside the best one, term by term; of the best one, beside the second in one line."""
    if plan is best:
        lines = [f"{plan.name} is the best. What stands against it:"]
        lines += [f"  {other.rank}. {other.name}: {other.why}" for other in plan.others]
        return "\n".join(lines)
    rank = f" (rank {plan.rank})" if plan.rank != best.rank else ""
    lines = [f"{plan.name}{rank} beside {best.name}: {headline(plan, best)}"]
    for title, found in terms(plan, best).items():
        rows = [(title, plan.name, best.name, "difference")]
        rows += [term.line() for term in found if term.here or term.other]
        if title.endswith(" step") and found:
            total = Term(
                "in all", sum(t.here for t in found), sum(t.other for t in found), found[0].unit
            )
            rows.append(total.line())
        lines += ["", *_columns(rows)]
    rows = [("limit", "needed", "there", "left")]
    for limit in plan.limits:
        unit = limit.unit if limit.unit in ("s", "B") else ""
        show = _showers[unit]
        rows.append((limit.name, show(limit.need), show(limit.limit), show(limit.slack)))
    return "\n".join([*lines, "", *_columns(rows)])


def _columns(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def runners_up(plan: Plan, plans: Sequence[Plan]) -> tuple[RunnerUp, ...]:
    """The other ranked plans, each with why it lost to the best (the best: what it wins by)."""
    best = plans[0]
    return tuple(
        RunnerUp(
            rank=other.rank,
            name=other.name,
            value=other.proof.value,
            objective=other.proof.value / other.proof.scale,
            gpus=other.deployment.gpus,
            why=why_it_lost(other, best) if other is not best else "the best",
        )
        for other in plans
        if other is not plan
    )
