"""Ranked plans simulated under their own load: is the winner confirmed?"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from optimizer.plan import Plan
from optimizer.simulate.serving.asked import asked_load
from optimizer.simulate.serving.serve import serve
from optimizer.simulate.serving.summary import summarize
from optimizer.spec.workload import ForwardWorkload, Limit

TIE = 0.01  # plans that differ by less in the objective are equally good


class Simulated(NamedTuple):
    """One plan, predicted and simulated; `score` is smaller for a better plan."""

    plan: Plan
    tokens_per_s: float
    latency_s: float
    score: float
    broken: tuple[str, ...]


class Confirmation(NamedTuple):
    """Simulated plans, the best first; plans that break a limit stand behind all others."""

    ranked: tuple[Simulated, ...]

    @property
    def winner(self) -> Simulated:
        """The plan that the planner ranks first."""
        return min(self.ranked, key=lambda each: each.plan.rank)

    @property
    def confirmed(self) -> bool:
        """No plan that keeps its limits beats the winner by more than a tie, and it keeps its."""
        best, winner = self.ranked[0], self.winner
        if winner.broken:
            return bool(best.broken)
        return winner.score - best.score <= TIE * abs(best.score)


def confirm(plans: Sequence[Plan]) -> Confirmation:
    """Simulates each plan under its own load."""
    runs = [(plan, summarize(serve(plan, asked_load(plan)))) for plan in plans]
    rates = [found["tokens_per_s"] for _, found in runs]
    latencies = [_latency(plan, found) for plan, found in runs]
    ranked = [
        Simulated(plan, rate, latency, _score(plan, rate, latency, rates, latencies), broken)
        for (plan, found), rate, latency in zip(runs, rates, latencies, strict=True)
        for broken in [_broken(plan, found)]
    ]
    return Confirmation(
        tuple(sorted(ranked, key=lambda each: (len(each.broken) > 0, each.score, each.plan.rank)))
    )


def _latency(plan: Plan, found: dict[str, Any]) -> float:
    """Of a request in the mean, or of one whole pass."""
    forward = isinstance(plan.workload, ForwardWorkload)
    return float(found["seconds"] if forward else found["request_s"]["mean"])


def _score(
    plan: Plan, rate: float, latency: float, rates: list[float], latencies: list[float]
) -> float:
    """The objective as a number to minimise; `balanced` weighs as the planner does, shares of the
    best simulated."""
    gpus = sum(deployment.gpus for deployment in plan.deployments)
    if plan.objective == "balanced":
        share = gpus / plan.cluster.num_live_gpus
        return 0.3 * latency / min(latencies) - 0.5 * rate / max(rates) + 0.2 * share
    return {"throughput": -rate, "latency": latency, "gpus": float(gpus)}[plan.objective]


def _broken(plan: Plan, found: dict[str, Any]) -> tuple[str, ...]:
    """Limits of the workload that the simulated distribution does not keep."""
    broken = []
    one_pass = dict.fromkeys(found["request_s"], found["seconds"])
    kept = {"ttft": found["ttft_s"], "tpot": found["tpot_s"], "latency": one_pass}
    for name, statistics in kept.items():
        limit: Limit | None = getattr(plan.workload, name, None)
        value = statistics.get(limit.statistic, 0.0) if limit is not None else 0.0
        if limit is not None and value > limit.value_s:
            broken.append(
                f"{name} {limit.statistic} {value * 1e3:.4g} ms of {limit.value_s * 1e3:.4g} ms"
            )
    return tuple(broken)


def confirmation_text(found: Confirmation) -> str:
    """A line a plan in the simulated order, and the verdict."""
    lines = [f"simulated: {_verdict(found)}"]
    for place, each in enumerate(found.ranked, start=1):
        predicted = each.plan.predictions["tokens_per_s"].value
        lines.append(
            f"  {place}. {each.plan.name} (planned {each.plan.rank}): {each.tokens_per_s:,.0f} "
            f"tokens/s of {predicted:,.0f} predicted, latency {each.latency_s:.4g} s"
            + "".join(f"; breaks {limit}" for limit in each.broken)
        )
    return "\n".join(lines)


def _verdict(found: Confirmation) -> str:
    winner, best = found.winner.plan.name, found.ranked[0].plan
    if found.confirmed:
        return f"{winner} is confirmed as the best of {len(found.ranked)}"
    if found.winner.broken:
        return f"the ranking changed: {winner} breaks a limit, {best.name} keeps them all"
    return f"the ranking changed: {best.name}, planned {best.rank}, beats {winner}"


def confirmation_csv(found: Confirmation) -> str:
    """simulated_strategies.csv: a plan a row in the simulated order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["simulated_rank", "planned_rank", "name", "tokens_per_s", "latency_s", "broken_limits"]
    )
    for place, each in enumerate(found.ranked, start=1):
        figures = [each.tokens_per_s, each.latency_s, "; ".join(each.broken)]
        writer.writerow([place, each.plan.rank, each.plan.name, *figures])
    return text.getvalue()
