"""Training candidates: the columns of any candidate, and the choices that a layout leaves open."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.cost.training.layouts import Floats, TrainingLayouts
from optimizer.layout import Ints, Layouts, ParallelLayout
from optimizer.search.training.job import TrainingJob
from optimizer.spec.workload import Limit


@dataclass(frozen=True)
class TrainingCandidates(Candidates):
    """n candidates; sequences and micro_batches are of a micro-batch and of a step, latency_s is
    the step. mode: recompute bits of all layers; counts: an object a row, what recomputes by layer
    where that is chosen one by one (None: all layers alike, cut_rows says where).
    """

    vp: Ints
    mode: Ints
    schedule: Ints
    sharding: Ints
    shard: Ints
    sequence_parallel: Ints
    counts: NDArray[Any]
    has_experts: Ints
    origin: Ints  # the layout's place in the space

    def layout(self, row: int, replicas: int) -> ParallelLayout:
        """The degrees, with interleaving and the expert grid's data parallelism."""
        found = self.layouts.layout(row, replicas)
        routed = found.ep * found.etp
        edp = found.width // routed if self.has_experts[row] else 1
        return found.model_copy(update={"vp": int(self.vp[row]), "edp": edp})


def training_layouts(job: TrainingJob, found: TrainingCandidates) -> TrainingLayouts:
    """The candidates as rows that the cost model reads."""
    own = found.layouts
    smallest = min(job.cluster.live_sizes[job.pool])
    n = len(found)
    return TrainingLayouts(
        tp=own.tp,
        cp=own.cp,
        pp=own.pp,
        vp=found.vp,
        dp=own.dp,
        ep=own.ep,
        etp=own.etp,
        micro_batch=found.sequences,
        micro_batches=found.micro_batches,
        sequence_parallel=found.sequence_parallel,
        recompute=found.mode,
        recompute_share=np.ones(n),
        sharding=found.sharding,
        shard=found.shard,
        schedule=found.schedule,
        bits=np.full(n, job.bits),
        span=own.span,
        stages_inside=(2 * own.width <= smallest).astype(np.int64),
    )


def candidates_of(
    job: TrainingJob,
    index: int,
    rows: TrainingLayouts,
    mode: Ints,
    step_s: Floats,
    memory_bytes: Floats,
    counts: NDArray[Any] | None = None,
) -> TrainingCandidates:
    """Rows of choices with their steps, bytes and limits; `index` is the job's place."""
    n, workload = len(rows), job.workload
    names = [each.name for each in fields(Layouts) if each.name != "leaf"]
    layouts = Layouts(**{name: getattr(rows, name) for name in names}, leaf=0 * rows.span)
    one, zero = np.ones(n, dtype=np.int64), np.zeros(n)
    needs = {"memory": memory_bytes, "GPUs": rows.gpus.astype(np.float64)}
    bounds = {
        "memory": job.memory_limit_bytes,
        "GPUs": float(job.cluster.live_gpus(job.pool)),
    }
    limit: Limit | None = workload.step_time
    if limit is not None:
        needs["step time"], bounds["step time"] = step_s, limit.value_s
    if job.model.max_context is not None:
        needs["context"] = np.full(n, float(workload.sequence_length))
        bounds["context"] = float(job.model.max_context)
    tokens = workload.global_batch * workload.sequence_length
    return TrainingCandidates(
        pool=np.full(n, job.pool),
        precision=np.full(n, index),
        layouts=layouts,
        sequences=rows.micro_batch,
        chunk=0 * one,
        micro_batches=rows.micro_batches,
        replicas_min=one,
        replicas_max=one,
        memory_bytes=memory_bytes,
        concurrency=np.full(n, float(workload.global_batch)),
        tokens_per_s=tokens / step_s,
        ttft_s=zero,
        tpot_s=zero,
        latency_s=step_s,
        needs=needs,
        limits={name: np.full(n, bound) for name, bound in bounds.items()},
        vp=rows.vp,
        mode=mode,
        schedule=rows.schedule,
        sharding=rows.sharding,
        shard=rows.shard,
        sequence_parallel=rows.sequence_parallel,
        counts=np.full(n, None) if counts is None else counts,
        has_experts=np.full(n, job.model.moe is not None),
        origin=0 * one,
    )
