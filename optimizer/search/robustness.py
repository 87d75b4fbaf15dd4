"""What robust plans cost: the plans under tightened limits beside the nominal best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.job import Job
from optimizer.cost.pricing import at_statistic
from optimizer.cost.robust import interval_factors
from optimizer.layout import DEGREES
from optimizer.plan import Plan, Plans, Robustness, sealed
from optimizer.search.choosing import Ranked


def with_robustness(
    plans: Plans, job: Job, best: Ranked, candidates: Candidates, confidence: float
) -> Plans:
    """The plans with what keeping limits at the pessimistic end costs against the nominal best.

    `best`: the nominal winner; `candidates`: all of them under the tightened limits.
    """
    value = abs(best.choice.value) / best.criterion.scale
    factors = interval_factors(job, confidence)
    row = matching_row(candidates, best.candidate)
    binding = tuple(
        name
        for name, limit in candidates.limits.items()
        if row is not None and candidates.needs[name][row] > limit[row]
    )
    found = []
    for plan in plans.plans:
        bounds = {limit.name: limit for limit in plan.limits}
        interval = {name: factors[name] for name in bounds if name in factors}
        own = plan.proof.value / plan.proof.scale
        shares = {
            name: stated_limit(job, plan, name) / bounds[name].limit / interval[name]
            for name in interval
        }
        robustness = Robustness(
            confidence=confidence,
            interval=interval,
            stress=shares,
            nominal_name=best.layout.name,
            nominal_objective=value,
            cost=abs(own - value) / max(abs(value), 1e-300),
            binding=binding,
        )
        found.append(sealed(plan.model_copy(update={"robustness": robustness})))
    return replace(plans, plans=tuple(found))


def stated_limit(job: Job, plan: Plan, name: str) -> float:
    """A limit as the workload states it, on the mean."""
    if name == "memory":
        return plan.deployment.memory.limit_bytes
    return at_statistic(job, name, getattr(plan.workload, name))


def matching_part(parts: Iterable[Candidates], one: Candidates) -> Candidates:
    """The part that holds the single candidate `one`; where none does, the last."""
    for part in parts:
        if matching_row(part, one) is not None:
            break
    return part


def matching_row(candidates: Candidates, one: Candidates) -> int | None:
    """The row of `candidates` that is the single candidate `one`, replicas aside."""
    same = (candidates.pool == one.pool[0]) & (candidates.precision == one.precision[0])
    for name in ("sequences", "chunk", "micro_batches"):
        same &= getattr(candidates, name) == getattr(one, name)[0]
    for name in (*DEGREES, "span", "leaf"):
        same &= getattr(candidates.layouts, name) == getattr(one.layouts, name)[0]
    rows = np.flatnonzero(same)
    return int(rows[0]) if len(rows) else None
