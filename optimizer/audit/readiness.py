"""READY or NOT READY: whether a strategy can run in a phase, and the limits in its way."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.audit.case import Case
from optimizer.audit.finding import Readiness
from optimizer.audit.training import training_memory
from optimizer.errors import InfeasibleError


def readiness(case: Case) -> tuple[Readiness, ...]:
    """A verdict for each phase that the report leaves open; training in each of its readings."""
    found = [*_inference(case)]
    if "training" in case.phases:
        found += _training(case)
    return tuple(found)


def _inference(case: Case) -> Iterator[Readiness]:
    for phase, outcome in case.outcomes.items():
        if isinstance(outcome, InfeasibleError):
            yield Readiness(
                case=case.name,
                strategy=case.strategy,
                phase=phase,
                ready=False,
                limits=outcome.reasons or (str(outcome),),
            )
            continue
        memory = outcome.deployment.memory
        text = (
            f"{memory.fullest_bytes / 1e9:.4g} GB of {memory.limit_bytes / 1e9:.4g} GB a GPU, "
            f"{outcome.deployment.gpus} of {case.cluster.num_live_gpus} GPUs"
        )
        yield Readiness(
            case=case.name, strategy=case.strategy, phase=phase, ready=True, arithmetic=text
        )


def _training(case: Case) -> Iterator[Readiness]:
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
