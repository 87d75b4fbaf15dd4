"""One candidate that spans two pools in full: memory by stage, every operator in the pool where it
runs, and what an even cut would be worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.cost.accounting import operator_rows, steps_around, summed_table
from optimizer.cost.candidates import Candidates
from optimizer.cost.job import step_columns
from optimizer.cost.pricing import correction, memory_of
from optimizer.cost.rows import Rows
from optimizer.cost.shares import cut_of
from optimizer.cost.spanning import Spanning, priced_at, tables_of
from optimizer.cost.stages import stages_of
from optimizer.layout import Split
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, lower
from optimizer.plan import Memory, OperatorRow, PhaseTable, StageMemory


def split_of(job: Spanning, candidate: Candidates) -> tuple[Split, int]:
    """(the layout of a single candidate over both pools, its layers in the first)."""
    first, second = job.pools
    split = Split(candidate.layouts, candidate.stages[first], candidate.spans[second])
    return split, int(candidate.layers[first][0])


def stages_in(job: Spanning, split: Split) -> tuple[int, int]:
    """Stages of a replica in either pool."""
    first, second = (int(share.pp[0]) for share in split.shares)
    return first, second


def spanning_memory(job: Spanning, rows: Rows, split: Split, layers: int) -> Memory:
    """Memory of every stage beside its own pool's limit (one row, one layout)."""
    columns = memory_of(job.first, rows, split.layouts)
    types, own = tuple(job.model.layer_types), stages_in(job, split)
    cut = cut_of(job.model, own, layers)
    owners = [job.first] * own[0] + [job.second] * own[1]
    stages = []
    for index, stage in enumerate(stages_of(job.model.layer_names, types, cut)):
        components = columns.stage(types, stage, 0)
        stages.append(
            StageMemory(
                stage=index,
                components=components,
                total_bytes=sum(components.values()),
                limit_bytes=owners[index].memory_limit_bytes,
            )
        )
    share = [
        stage.total_bytes / owner.memory_limit_bytes
        for stage, owner in zip(stages, owners, strict=True)
    ]
    fullest = share.index(max(share))
    return Memory(
        gpu_bytes=owners[fullest].device.gpu.memory_bytes,
        limit_bytes=owners[fullest].memory_limit_bytes,
        fullest_stage=fullest,
        fullest_bytes=stages[fullest].total_bytes,
        stages=tuple(stages),
    )


def spanning_phases(job: Spanning, rows: Rows, split: Split, layers: int) -> dict[str, PhaseTable]:
    """Each phase's operators over its grid, those of either pool and the sending between them."""
    drawn = correction(job.first, rows, split.layouts)
    scale = {"prefill": float(drawn.ttft[0]), "decode": float(drawn.tpot[0])}
    phases = tables_of(job, rows, split).phases
    found = {}
    for phase, (step, _) in phases.items():
        slowest = scale[phase] * float(step.slowest_stage_s[0, layers])
        found[phase] = _table(job, phase, rows, split, layers, scale[phase], slowest)
    return found


def _table(
    job: Spanning,
    phase: str,
    rows: Rows,
    split: Split,
    layers: int,
    scale: float,
    slowest_s: float,
) -> PhaseTable:
    families = lower(job.model, job.workload.engine)
    names = job.model.layer_names
    held = (names[:layers], names[layers:])
    found: list[OperatorRow] = []
    for which, (each, share) in enumerate(zip(job.jobs, split.shares, strict=True)):
        columns = step_columns(each, rows, share)[phase]
        steps, grid = steps_around(each, phase, columns, float(rows.chunk[0]))
        counts = {name: held[which].count(name) for name in job.model.layer_types}
        counts |= {(EMBEDDING, HEAD)[which]: 1, BOUNDARY: int(share.pp[0]) - 1}
        pool = job.cluster.pools[each.pool].name
        prices = (each.device, each.constants, scale, pool)
        found += operator_rows(families, grid, counts, *prices)
        if which == 0:
            apart = {**grid, **job.apart(len(steps))}
            sent = operator_rows(
                families, apart, {BOUNDARY: 1}, job.crossing, each.constants, scale, pool
            )
            found += [row.model_copy(update={"name": POOL_SEND}) for row in sent]
    return summed_table(steps, found, slowest_s)


POOL_SEND = "pool_send"  # from the last stage of a pool to the first of the next


def even_split_loss(job: Spanning, rows: Rows, split: Split, chosen: Candidates) -> float | None:
    """The share of tokens/s that is lost where every stage holds as many layers as any other; None
    where that breaks a limit."""
    pp, here = int(split.layouts.pp[0]), stages_in(job, split)[0]
    even = np.array([round(job.model.num_layers * here / pp)])
    one = np.zeros(1, dtype=np.int64)
    found = priced_at(job, rows, split, tables_of(job, rows, split), one, even)
    found = replace(found, replicas_min=chosen.replicas_min)
    if found.broken()[0]:
        return None
    return float(1 - found.tokens_per_s[0] / chosen.tokens_per_s[0])
