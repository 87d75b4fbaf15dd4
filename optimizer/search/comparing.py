"""Why one plan lost to another: time by operator group, memory, idle GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from optimizer.plan import Plan, RunnerUp
from optimizer.units import gib, milliseconds


class Term(NamedTuple):
    """One term of a comparison: what it is, here and in the other plan; larger is worse here."""

    what: str
    here: float
    other: float
    unit: str


def terms(loser: Plan, winner: Plan) -> list[Term]:
    """Every term in which two plans differ, by phase and operator group, then memory and GPUs."""
    found = []
    for phase in loser.deployment.phases:
        here = loser.deployment.phases[phase].by_group
        other = (
            winner.deployment.phases[phase].by_group if phase in winner.deployment.phases else {}
        )
        for group in dict.fromkeys([*here, *other]):
            found.append(Term(f"{phase} {group}", here.get(group, 0.0), other.get(group, 0.0), "s"))
    for name in dict.fromkeys([*loser.predictions, *winner.predictions]):
        if name.endswith("_s") and name in loser.predictions and name in winner.predictions:
            pair = loser.predictions[name].value, winner.predictions[name].value
            unit = "/s" if "per_s" in name else "s"
            found.append(Term(name, *pair, unit))
    memory = loser.deployment.memory.fullest_bytes, winner.deployment.memory.fullest_bytes
    found.append(Term("memory of the fullest GPU", *memory, "B"))
    idle = loser.deployment.balance.idle_gpus, winner.deployment.balance.idle_gpus
    found.append(Term("idle GPUs", float(idle[0]), float(idle[1]), "GPUs"))
    used = loser.deployment.gpus, winner.deployment.gpus
    found.append(Term("GPUs used", float(used[0]), float(used[1]), "GPUs"))
    return found


def why_it_lost(loser: Plan, winner: Plan) -> str:
    """One line: the deciding figure, and what is behind it."""
    ours, best = loser.proof.value / loser.proof.scale, winner.proof.value / winner.proof.scale
    if loser.proof.value == winner.proof.value:
        head = f"equal in {loser.proof.objective}; lost on {', '.join(loser.proof.tie_break)}"
    else:
        change = abs(ours - best) / max(abs(best), 1e-12)
        word = "less" if loser.proof.sense == "maximize" else "more"
        head = f"{change:.1%} {word} {loser.proof.objective}"
    reasons = []
    slower = [
        term
        for term in terms(loser, winner)
        if term.unit == "s" and " " in term.what and term.here > term.other
    ]
    for term in sorted(slower, key=lambda term: term.other - term.here)[:2]:
        reasons.append(f"{term.what} {milliseconds(term.here)} against {milliseconds(term.other)}")
    idle = loser.deployment.balance.idle_gpus
    if idle > winner.deployment.balance.idle_gpus:
        reasons.append(f"{idle} GPUs idle")
    ours_at_once = loser.deployment.batch.concurrency
    if ours_at_once < winner.deployment.batch.concurrency:
        room = gib(loser.deployment.memory.limit_bytes - loser.deployment.memory.fullest_bytes)
        reasons.append(
            f"{ours_at_once:,.0f} requests at once against "
            f"{winner.deployment.batch.concurrency:,.0f} ({room} of memory left)"
        )
    return "; ".join([head, *reasons])


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
