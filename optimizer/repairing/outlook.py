"""A job's candidates, priced from few rows: whether any works, and what they lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from optimizer import pipeline
from optimizer.cost.accounting import stage_memory
from optimizer.cost.candidates import Candidates
from optimizer.cost.rows import Rows, expand
from optimizer.cost.spanning import Spanning
from optimizer.cost.spanning_accounts import spanning_memory, split_of
from optimizer.layout import Layouts, Space
from optimizer.pipeline import Priced, price, readings
from optimizer.plan import Memory
from optimizer.repairing.changes import MOST_GPUS, with_gpus
from optimizer.repairing.job import Job
from optimizer.search.conflicts import layout_name
from optimizer.search.room import with_room
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

GROWTH = (2, 4, 8, 16, 32)  # times the GPUs that are looked at


def few_rows(
    layouts: Layouts,
    workload: ForwardWorkload | ServingWorkload,
    num_gpus: int,
    replicas: int | None = None,
) -> Rows:
    """The rows that decide whether a layout works at all.

    Where the load is free that is one sequence a rank: every need grows with the sequences. For a
    request rate, where fewer sequences take more GPUs, it is each power of two.
    """
    if isinstance(workload, ForwardWorkload) or workload.concurrency is not None:
        return expand(layouts, workload, num_gpus, replicas)
    if workload.request_rate is not None:
        rows = expand(layouts, workload, num_gpus, replicas)
        return rows.take(rows.sequences & (rows.sequences - 1) == 0)
    one = workload.model_copy(update={"concurrency": 1})
    rows = expand(layouts, one, num_gpus, replicas)
    room = num_gpus // layouts.gpus_per_replica[rows.layout]
    return replace(rows, replicas_max=room if replicas is None else rows.replicas_max)


def price_few(job: Job, rows_of: Callable[..., Rows] = few_rows) -> Priced:
    """A job's candidates, with room on the nodes among the limits."""
    priced = price(
        job.cluster,
        job.model,
        job.workload,
        _spaces(job),
        job.strategy,
        rows_of,
        confidence=job.confidence,
    )
    return priced._replace(candidates=with_room(job.cluster, priced.candidates))


def _spaces(job: Job) -> list[Space]:
    """As the line enumerates them, but a strategy that needs more GPUs than there are stays."""
    if job.strategy is None:
        return pipeline.enumerate_spaces(job.cluster, job.model, job.workload)
    layout = readings(job.cluster, job.model, job.strategy)[0].layout
    return pipeline.spaces_of(job.cluster, job.model, layout, job.workload)


def works(job: Job) -> bool:
    """Whether some candidate keeps every limit."""
    return bool((price_few(job).candidates.broken() == 0).any())


class Outlook(NamedTuple):
    """A job's own candidates; the same beside those that more GPUs would hold, and how many times
    as many GPUs it takes (2 where none of the growths looked at helps)."""

    own: Priced
    wide: Priced
    times: int


def outlook(
    job: Job, growth: Sequence[int] = GROWTH, rows_of: Callable[..., Rows] = few_rows
) -> Outlook:
    """Looks at ever more GPUs until some candidate lacks nothing else.

    A strategy fixes its own number of GPUs: all that it needs is among its own candidates.
    """
    own = wide = price_few(job, rows_of)
    if job.strategy is None:
        lacking = 1 << list(own.candidates.limits).index("GPUs")
        for times in growth:
            if times * job.cluster.num_gpus > MOST_GPUS:
                break
            wide = _with_more_gpus(job, own, times)
            if (wide.candidates.broken() == lacking).any():
                return Outlook(own, wide, times)
    return Outlook(own, wide, GROWTH[0])


def _with_more_gpus(job: Job, priced: Priced, times: int) -> Priced:
    """The candidates, and beside them those that only `times` as many GPUs would hold.

    The others keep their bound on GPUs, so that GPUs are one more limit that they break.
    """
    bigger = job
    for pool, held in enumerate(job.cluster.pools):
        bigger = with_gpus(bigger, pool, (times - 1) * sum(held.sizes)).job
    more = price_few(bigger)
    live = np.array(
        [
            sum(len(domain.gpus) for domain in job.cluster.domains if domain.pool == pool)
            for pool in range(len(job.cluster.pools))
        ],
        dtype=np.float64,
    )
    there = np.zeros(len(more.candidates))
    for pool, (stages, _) in more.candidates.shares().items():
        there += np.where(stages > 0, live[pool], 0.0)
    more_candidates = replace(
        more.candidates,
        precision=more.candidates.precision + len(priced.jobs),
        limits={**more.candidates.limits, "GPUs": there},
    )
    lacking = more_candidates.take(more_candidates.needs["GPUs"] > there)
    return priced._replace(
        jobs=(*priced.jobs, *more.jobs),
        candidates=Candidates.concatenate([priced.candidates, lacking]),
    )


def where(priced: Priced, limit: str, row: int) -> str:
    """A candidate for a reader: "EP8-TP8", for memory "stage 0 of EP8-TP8"."""
    name = layout_name(priced.candidates, row)
    if limit != "memory":
        return name
    return f"stage {memory_of_row(priced, row).fullest_stage} of {name}"


def memory_of_row(priced: Priced, row: int) -> Memory:
    """A candidate's memory by stage and component."""
    one = priced.candidates.take(np.array([row]))
    rows = Rows(
        np.zeros(1, dtype=np.int64),
        one.sequences,
        one.chunk,
        one.micro_batches,
        one.replicas_min,
        one.replicas_max,
    )
    job = priced.jobs[int(one.precision[0])]
    if isinstance(job, Spanning):
        return spanning_memory(job, rows, *split_of(job, one))
    return stage_memory(job, rows, one.layouts)
