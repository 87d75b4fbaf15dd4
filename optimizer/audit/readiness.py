"""READY or NOT READY: whether a strategy can run in a phase, and the limits in its way."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.audit.case import Case
from optimizer.audit.finding import Phase, Readiness
from optimizer.audit.training import training_memory
from optimizer.errors import InfeasibleError
from optimizer.plan import Plan
from optimizer.spec.workload import TrainingWorkload


def readiness(case: Case) -> tuple[Readiness, ...]:
    """A verdict for each phase that the report leaves open; where it does not say how a step is
    run, training in each of its readings."""
    found: list[Readiness] = []
    for phase, outcome in case.outcomes.items():
        if phase == "training" and not isinstance(case.workload, TrainingWorkload):
            found += _readings(case)
        else:
            found.append(_planned(case, phase, outcome))
    return tuple(found)


def _planned(case: Case, phase: Phase, outcome: Plan | InfeasibleError) -> Readiness:
    row = {"case": case.name, "strategy": case.strategy, "phase": phase}
    if isinstance(outcome, InfeasibleError):
        limits = outcome.reasons or (str(outcome),)
        return Readiness.model_validate({**row, "ready": False, "limits": limits})
    memory = outcome.deployment.memory
    text = (
        f"{memory.fullest_bytes / 1e9:.4g} GB of {memory.limit_bytes / 1e9:.4g} GB a GPU, "
        f"{outcome.deployment.gpus} of {case.cluster.num_live_gpus} GPUs"
    )
    return Readiness.model_validate({**row, "ready": True, "arithmetic": text})


def _readings(case: Case) -> Iterator[Readiness]:
    there, limit = case.cluster.num_live_gpus, case.gpu.memory_bytes
    limit *= 1 - case.workload.memory_margin
    found = list(training_memory(case))
    for where in dict.fromkeys(derived.labels[1] for derived in found):
        limits: list[str] = []
        fitting: list[str] = []
        if case.layout.gpus > there:
            limits.append(f"GPUs: {case.layout.gpus} needed, {there} there")
        for derived in found:
            if derived.labels[1] == where:
                need, kept = float(derived.value), derived.labels[2]
                if need > limit:
                    over = f"{need / 1e9:.4g} GB needed, {limit / 1e9:.4g} GB allowed"
                    limits.append(f"memory: {over}, {kept}")
                else:
                    fitting.append(f"{need / 1e9:.4g} GB of {limit / 1e9:.4g} GB, {kept}")
        yield Readiness(
            case=case.name,
            strategy=case.strategy,
            phase="training",
            reading=where,
            ready=not limits,
            limits=tuple(limits),
            arithmetic="; ".join(fitting),
        )
