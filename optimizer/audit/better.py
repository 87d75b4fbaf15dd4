"""The best plan on the same GPUs beside the audited strategy."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.audit.case import Case
from optimizer.audit.finding import BetterPlan
from optimizer.errors import InfeasibleError
from optimizer.plan import Plan


def better_plans(case: Case) -> Iterator[BetterPlan]:
    """One a phase of inference in which anything runs at all."""
    for phase, best in case.best.items():
        if isinstance(best, InfeasibleError):
            continue
        claimed = case.outcomes[phase]
        if isinstance(claimed, InfeasibleError):
            text = f"{best.name} runs; {case.strategy} does not: {'; '.join(claimed.reasons)}"
            name = ""
        else:
            text, name = _compared(best, claimed), claimed.name
        yield BetterPlan(
            case=case.name,
            strategy=case.strategy,
            phase=phase,
            claimed_plan=name,
            plan=best.name,
            comparison=text,
        )


def _compared(best: Plan, claimed: Plan) -> str:
    """How much more, and how much sooner; each figure of both plans."""
    rates = [plan.predictions["tokens_per_s"].value for plan in (best, claimed)]
    if best.name == claimed.name:
        return f"{claimed.name} is the best plan: {rates[1]:,.5g} tokens/s, proven"
    name = "latency_s" if "latency_s" in best.predictions else "tpot_s"
    times = [plan.predictions[name].value * 1e3 for plan in (best, claimed)]
    what = "a pass" if name == "latency_s" else "a token"
    return (
        f"{best.name} gives {rates[0]:,.5g} tokens/s against {rates[1]:,.5g} of {claimed.name} = "
        f"{rates[0] / rates[1]:.2f} x, {times[0]:.4g} ms {what} against {times[1]:.4g} ms"
    )
