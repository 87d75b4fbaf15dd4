"""The public `optimize`: plans of one layout, or with `modes` every way to serve in one ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args, overload

from optimizer import pipeline
from optimizer.cost.calibration import Calibration
from optimizer.errors import Problem, SpecError
from optimizer.fleets import compose
from optimizer.fleets.composing import unsound
from optimizer.plan import Answers, Plans
from optimizer.search.objectives import Objective
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Mode
from optimizer.spec.model import ModelSpec
from optimizer.spec.reading import Job
from optimizer.spec.workload import Workload


@overload
def optimize(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    *,
    modes: None = None,
    objective: Objective = "throughput",
    top: int = 5,
    strategy: str | None = None,
    confidence: float | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = ...,
) -> Plans: ...


@overload
def optimize(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    *,
    modes: Sequence[Mode],
    objective: Objective = "throughput",
    top: int = 5,
    strategy: None = None,
    confidence: None = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = ...,
) -> Answers: ...


def optimize(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    *,
    modes: Sequence[Mode] | None = None,
    objective: Objective = "throughput",
    top: int = 5,
    strategy: str | None = None,
    confidence: float | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Plans | Answers:
    """The best `top` plans of one layout in one pool; with `modes` (aggregated, disaggregated) the
    best ways to serve, prefill and decode together or apart, in one pool or several.

    See optimizer.pipeline.optimize and optimizer.fleets.compose for what else is given.
    """
    if modes is None:
        return pipeline.optimize(
            cluster,
            model,
            workload,
            objective=objective,
            top=top,
            strategy=strategy,
            confidence=confidence,
            calibration=calibration,
            progress=progress,
        )
    for name, value in (("strategy", strategy), ("confidence", confidence)):
        if value is not None:
            message = f"is of plans of one layout; leave out {name} or modes"
            raise SpecError(Problem(message, key=name))
    return compose(
        cluster,
        model,
        workload,
        modes=modes,
        objective=objective,
        top=top,
        calibration=calibration,
        progress=progress,
    )


def modes_of(stated: str | None, job: Job, objective: Objective) -> tuple[Mode, ...] | None:
    """The modes that are stated; else both, where several pools could share a load that is not
    fixed. None: plans of one layout are asked for."""
    if stated is not None:
        return read_modes(stated)
    if len(job.cluster.pools) == 1 or unsound(job.workload, objective) is not None:
        return None
    return get_args(Mode)


def read_modes(text: str) -> tuple[Mode, ...]:
    """ "aggregated,disaggregated" as modes; raises SpecError with what to write."""
    found = []
    for word in dict.fromkeys(each.strip() for each in text.split(",")):
        mode = next((mode for mode in get_args(Mode) if mode == word), None)
        if mode is None:
            message = f"must be aggregated, disaggregated or both with a comma, not {text!r}"
            raise SpecError(Problem(message, key="--modes"))
        found.append(mode)
    return tuple(found)
