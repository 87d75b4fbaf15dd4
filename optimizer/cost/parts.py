"""All candidates of a run, a part of the layouts at a time, so that few are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from optimizer.cost.calibration import Calibration, load_calibration
from optimizer.cost.candidates import Candidates
from optimizer.cost.cuts import price_best_cut
from optimizer.cost.job import Job
from optimizer.cost.robust import tightened
from optimizer.cost.rows import Rows, expand
from optimizer.layout import Layouts, Space
from optimizer.layout.rules import divides
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.precisions import precision_choices
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

PART_ROWS = 1 << 17  # about so many candidates a part: its columns stay in the caches
SAMPLE = 64  # layouts of a pool whose rows tell how many layouts make a part


def jobs_of(
    cluster: Cluster,
    model: ModelSpec,
    workload: ForwardWorkload | ServingWorkload,
    imbalances: tuple[tuple[int, float], ...] = (),
    calibration: Calibration | None = None,
) -> tuple[Job, ...]:
    """One job for each pool and each choice of number formats."""
    calibration = calibration or load_calibration()
    return tuple(
        Job(cluster, pool, model.with_precision(precision), workload, calibration, imbalances)
        for pool in range(len(cluster.pools))
        for precision in precision_choices(model, workload)
    )


def price_parts(
    jobs: Sequence[Job],
    spaces: Sequence[Space],
    replicas: int | None = None,
    rows_of: Callable[..., Rows] = expand,
    confidence: float | None = None,
) -> Iterator[Candidates]:
    """Every candidate of every job with its seconds, bytes and limits; at least one part.

    candidates.precision is the job that priced a row; `rows_of` spells out the layouts.
    """
    for index, job in enumerate(jobs):
        live = job.cluster.live_gpus(job.pool)
        for layouts, rows in _cut(spaces[job.pool].layouts, rows_of, job, live, replicas):
            found = price_best_cut(job, rows, layouts)
            if confidence is not None:
                found = tightened(job, rows, layouts, found, confidence)
            yield replace(found, precision=np.broadcast_to(np.int64(index), len(rows)))


def _cut(
    layouts: Layouts, rows_of: Callable[..., Rows], job: Job, live: int, replicas: int | None
) -> Iterator[tuple[Layouts, Rows]]:
    """Layouts that the job's formats divide into, with their rows, in parts."""
    divisible = layouts.take(divides(layouts, job.model))  # other formats cut in other blocks
    few = divisible.take(np.arange(0, len(divisible), max(1, len(divisible) // SAMPLE)))
    each = len(rows_of(few, job.workload, live, replicas)) / max(1, len(few))
    size = max(1, int(PART_ROWS / max(1.0, each)))
    for start in range(0, max(1, len(divisible)), size):
        part = divisible.take(np.arange(start, min(start + size, len(divisible))))
        yield part, rows_of(part, job.workload, live, replicas)
