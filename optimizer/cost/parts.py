"""All candidates of a run, a part of the layouts at a time, so that few are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from optimizer.cost.calibration import Calibration, load_calibration
from optimizer.cost.candidates import Candidates
from optimizer.cost.job import Job
from optimizer.cost.ordering import price_best_order
from optimizer.cost.quickest import price_spanning
from optimizer.cost.robust import tightened
from optimizer.cost.rows import Rows, expand
from optimizer.cost.spanning import Spanning
from optimizer.layout import Ints, Layouts, Space, SpanningSpace, Split, leaf_offers
from optimizer.layout.rules import divides
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.precisions import precision_choices
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

PART_ROWS = 1 << 17  # about so many candidates a part: its columns stay in the caches
SPANNING_ROWS = PART_ROWS // 4  # of those that span pools, which stand in tables of all cuts
SAMPLE = 16  # layouts of a space whose rows tell how many layouts make a part


Some = TypeVar("Some", Layouts, Split)


def jobs_of(
    cluster: Cluster,
    model: ModelSpec,
    workload: ForwardWorkload | ServingWorkload,
    imbalances: tuple[tuple[int, float], ...] = (),
    calibration: Calibration | None = None,
    spaces: Sequence[Space] = (),
) -> tuple[Job | Spanning, ...]:
    """One job for each pool, then for each pair of pools that `spaces` has, and each choice of
    number formats."""
    calibration = calibration or load_calibration()
    own = [
        [
            Job(cluster, pool, model.with_precision(precision), workload, calibration, imbalances)
            for precision in precision_choices(model, workload)
        ]
        for pool in range(len(cluster.pools))
    ]
    pairs = [space.pools for space in spaces if isinstance(space, SpanningSpace)]
    both = [
        Spanning(*jobs)
        for first, second in pairs
        for jobs in zip(own[first], own[second], strict=True)
    ]
    return (*(job for jobs in own for job in jobs), *both)


def price_parts(
    jobs: Sequence[Job | Spanning],
    spaces: Sequence[Space],
    replicas: int | None = None,
    rows_of: Callable[..., Rows] = expand,
    confidence: float | None = None,
) -> Iterator[Candidates]:
    """Every candidate of every job with its seconds, bytes and limits; at least one part.

    candidates.precision is the job that priced a row; `rows_of` spells out the layouts.
    """
    pairs = {space.pools: space.split for space in spaces if isinstance(space, SpanningSpace)}
    for index, job in enumerate(jobs):
        if isinstance(job, Spanning):
            parts = _spanning_parts(job, pairs[job.pools], replicas, rows_of)
        else:
            parts = _pool_parts(job, spaces[job.pool].layouts, replicas, rows_of, confidence)
        for found in parts:
            if len(job.cluster.pools) > 1:
                found = _over_pools(job.cluster, found, job)
            yield replace(found, precision=np.broadcast_to(np.int64(index), len(found)))


def _pool_parts(
    job: Job,
    layouts: Layouts,
    replicas: int | None,
    rows_of: Callable[..., Rows],
    confidence: float | None,
) -> Iterator[Candidates]:
    live = job.cluster.live_gpus(job.pool)
    divisible = layouts.take(divides(layouts, job.model))  # other formats cut in other blocks
    offers = leaf_offers(job.cluster, job.pool, divisible)
    if len(offers):
        divisible = Layouts.concatenate([divisible, offers])

    def rows_in(part: Layouts) -> Rows:
        return rows_of(part, job.workload, live, replicas)

    for part, rows in _cut(divisible, rows_in, PART_ROWS):
        found = price_best_order(job, rows, part)
        if confidence is not None:
            found = tightened(job, rows, part, found, confidence)
        yield found


def _spanning_parts(
    job: Spanning, split: Split, replicas: int | None, rows_of: Callable[..., Rows]
) -> Iterator[Candidates]:
    divisible = split.take(np.flatnonzero(divides(split.layouts, job.model)))

    def rows_in(part: Split) -> Rows:
        room = part.replicas(job.cluster, job.pools) * part.layouts.gpus_per_replica
        return rows_of(part.layouts, job.workload, room, replicas)

    for part, rows in _cut(divisible, rows_in, SPANNING_ROWS):
        yield price_spanning(job, rows, part)


def _over_pools(cluster: Cluster, found: Candidates, job: Job | Spanning) -> Candidates:
    """The same candidates with what lies in every pool: nothing in most."""
    nothing = np.broadcast_to(np.int64(0), len(found))
    if isinstance(job, Job):
        own = job.pool
        layers = np.broadcast_to(np.int64(job.model.num_layers), len(found))
        found = replace(
            found,
            stages={own: found.layouts.pp},
            layers={own: layers},
            spans={own: found.layouts.span},
        )

    def every(columns: Mapping[int, Ints]) -> dict[int, Ints]:
        return {pool: columns.get(pool, nothing) for pool in range(len(cluster.pools))}

    return replace(
        found, stages=every(found.stages), layers=every(found.layers), spans=every(found.spans)
    )


def _cut(
    layouts: Some, rows_in: Callable[[Some], Rows], most_rows: int
) -> Iterator[tuple[Some, Rows]]:
    """Layouts with their rows, in parts of about so many."""
    few = layouts.take(np.arange(0, len(layouts), max(1, len(layouts) // SAMPLE)))
    each = len(rows_in(few)) / max(1, len(few))
    size = max(1, int(most_rows / max(1.0, each)))
    for start in range(0, max(1, len(layouts)), size):
        part = layouts.take(np.arange(start, min(start + size, len(layouts))))
        yield part, rows_in(part)
