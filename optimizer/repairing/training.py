"""Changes that may give a training job a plan, cheapest first; the line proves or refuses each."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.errors import InfeasibleError
from optimizer.layout import ParallelLayout, divisibility_problems
from optimizer.repairing.changes import (
    MOST_GPUS,
    Change,
    with_count,
    with_gpus,
    with_layout,
    with_limit,
)
from optimizer.repairing.job import Job
from optimizer.search.relaxing import cost_of
from optimizer.spec.workload import TrainingWorkload

OPEN = {  # what a workload may restrict -> all of it
    name: TrainingWorkload.model_fields[name].default
    for name in ("recompute", "sharding", "schedules", "sequence_parallel", "micro_batch")
}
NEAR_BATCHES = 4  # other global batches that are offered
GROWTH = (2, 4, 8, 16)
SHORTER = (2, 4, 8)
LONGEST_STEP_S = 1e7


def training_proposals(job: Job, judged: ParallelLayout | None) -> list[tuple[Change, ...]]:
    """Single changes: what the workload forbids, layout, batch, length, limit, more GPUs."""
    found = [*_allowed(job), *_batches(job, judged), *_lengths(job), *_limits(job), *_grown(job)]
    if judged is not None:
        found += _layouts(job, judged)
    works = [change for change in found if judged is None or _divides(change, judged)]
    return [(change,) for change in sorted(works, key=lambda change: change.cost)]


def _divides(change: Change, judged: ParallelLayout) -> bool:
    """Whether the judged layout, where it stays, divides what it must after a change."""
    job = change.job
    if job.strategy is None or change.kind == "degree":
        return True
    return not divisibility_problems(judged, job.model, job.workload)


def _allowed(job: Job) -> Iterator[Change]:
    workload = job.workload
    for name, everything in OPEN.items():
        if getattr(workload, name) != everything:
            changed = workload.model_copy(update={name: everything})
            words = "any" if everything is None else ", ".join(everything)
            text = f"{name.replace('_', ' ')}: {words}"
            after = job._replace(workload=changed)
            yield Change("degree", name, text, cost_of("degree", 2.0), after)


def _batches(job: Job, judged: ParallelLayout | None) -> Iterator[Change]:
    """The nearest global batches that the judged layout's ranks share evenly."""
    if judged is None:
        return
    workload = job.workload
    assert isinstance(workload, TrainingWorkload)
    batch, unit = workload.global_batch, judged.dp * (workload.micro_batch or 1)
    unit *= judged.pp if judged.vp > 1 else 1
    for many in range(max(1, batch // unit - 1), batch // unit + NEAR_BATCHES - 1):
        if many * unit != batch:
            yield with_count(job, "global_batch", many * unit, "load")


def _lengths(job: Job) -> Iterator[Change]:
    assert isinstance(job.workload, TrainingWorkload)
    length = job.workload.sequence_length
    for factor in SHORTER:
        if length % (2 * factor) == 0:
            yield with_count(job, "sequence_length", length // factor, "tokens")


def _limits(job: Job) -> Iterator[Change]:
    """The step time that the best plan takes where nothing limits it."""
    limit = getattr(job.workload, "step_time", None)
    if limit is None:
        return
    free = job._replace(workload=job.workload.model_copy(update={"step_time": None}))
    try:
        best = free.plan().best
    except InfeasibleError:
        return
    yield with_limit(job, "step_time", best.predictions["step_s"].value / limit.value_s)


def _grown(job: Job) -> Iterator[Change]:
    for times in GROWTH:
        if times * job.cluster.num_gpus > MOST_GPUS:
            return
        pool = max(range(len(job.cluster.pools)), key=job.cluster.live_gpus)
        yield with_gpus(job, pool, (times - 1) * job.cluster.live_gpus(pool))


def _layouts(job: Job, judged: ParallelLayout) -> Iterator[Change]:
    """The best layouts of all that work."""
    try:
        plans = job._replace(strategy=None).plan(top=3)
    except InfeasibleError:
        return
    for plan in plans.plans:
        yield with_layout(job, judged, plan.deployment.layout)
