"""The best plan on the same GPUs beside the audited strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from optimizer.audit.case import Case
from optimizer.audit.finding import BetterPlan
from optimizer.audit.phases import TIMES
from optimizer.errors import InfeasibleError
from optimizer.plan import Plan
from optimizer.units import figure

NOTABLE = 1.01  # times the tokens/s, from which a plan counts as better
SAME = 1 + 1e-9


def better_plans(case: Case) -> Iterator[BetterPlan]:
    """One a phase in which anything runs at all."""
    for phase, best in case.best.items():
        if isinstance(best, InfeasibleError):
            continue
        claimed = case.outcomes[phase]
        if isinstance(claimed, InfeasibleError):
            text = f"{said(best)} runs; {case.strategy} does not: {'; '.join(claimed.reasons)}"
            name, times = "", None
        else:
            text, name = _compared(best, claimed, TIMES[phase]), claimed.name
            times = rate_of(best) / rate_of(claimed)
        yield BetterPlan(
            case=case.name,
            strategy=case.strategy,
            phase=phase,
            claimed_plan=name,
            plan=best.name,
            times=times,
            comparison=text,
        )


def rate_of(plan: Plan) -> float:
    """Tokens a second of all GPUs."""
    return plan.predictions["tokens_per_s"].value


def said(plan: Plan) -> str:
    """A plan's name; of a training plan with how a step is run too."""
    step = plan.deployment.training
    if step is None:
        return plan.name
    modes = Counter(step.recompute)
    many = len(step.recompute) - modes.pop("none", 0)
    what = "all" if "full" in modes else "+".join(modes)
    layers = "" if many == len(step.recompute) else f" in {many} of {len(step.recompute)} layers"
    repeated = [f"{what} recomputed{layers}"] if len(modes) == 1 else []
    repeated += [f"{many} layers recomputed, not all alike"] if len(modes) > 1 else []
    sharded = {"none": [], "optimizer": ["optimizer state sharded"]}
    rest = [
        f"micro-batch {step.micro_batch}",
        *(["zero bubble"] if step.schedule == "zero_bubble" else []),
        *sharded.get(step.sharding, [f"{step.sharding} sharded"]),
        *(repeated or ["nothing recomputed"]),
    ]
    return f"{plan.name} ({', '.join(rest)})"


def _proven(plan: Plan) -> bool:
    step = plan.deployment.training
    joint = "OPTIMAL" if step is None else step.joint.status
    return plan.proof.status == joint == "OPTIMAL"


def _compared(best: Plan, claimed: Plan, time: tuple[str, str]) -> str:
    """How much more, and how much sooner; each figure of both plans."""
    rates = [rate_of(plan) for plan in (best, claimed)]
    if rates[0] <= rates[1] * SAME:
        beside = "" if best.name == claimed.name else f", as many as {said(best)}"
        proof = "proven" if _proven(best) else "the best that was found, without proof"
        return f"{said(claimed)} is the best plan: {figure(rates[1], 5)} tokens/s{beside}, {proof}"
    name, what = time
    times = [plan.predictions[name].value * 1e3 for plan in (best, claimed)]
    return (
        f"{said(best)} gives {figure(rates[0], 5)} tokens/s against {figure(rates[1], 5)} of "
        f"{said(claimed)} = {rates[0] / rates[1]:.2f} x, {times[0]:.4g} ms {what} against "
        f"{times[1]:.4g} ms"
    )
