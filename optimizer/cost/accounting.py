"""One candidate in full: memory by stage, every operator over a grid of steps, balance."""

from __future__ import annotations

from collections import defaultdict
from typing import get_args

import numpy as np

from optimizer.cost.job import Job, step_columns
from optimizer.cost.memory import MemoryColumns
from optimizer.cost.price import part_seconds
from optimizer.cost.pricers import asks, operator_seconds
from optimizer.cost.pricing import correction, memory_of
from optimizer.cost.rows import Rows
from optimizer.cost.silicon.grids import LABELS
from optimizer.cost.stages import stage_maximum, stages_of
from optimizer.layout import Layouts
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, Floats, Operator, lower
from optimizer.plan import GridPoint, Memory, OperatorRow, PhaseTable, StageMemory
from optimizer.plan.document import Timing
from optimizer.spec.workload import ForwardWorkload


def stage_memory(job: Job, rows: Rows, layouts: Layouts) -> Memory:
    """Memory of every stage of one candidate (rows and layouts of length 1)."""
    columns: MemoryColumns = memory_of(job, rows, layouts)
    types = tuple(job.model.layer_types)
    pp = int(layouts.pp[0])
    stages = []
    for index, stage in enumerate(stages_of(job.model.layer_names, types, job.cut(job.model, pp))):
        components = columns.stage(types, stage, 0)
        stages.append(
            StageMemory(stage=index, components=components, total_bytes=sum(components.values()))
        )
    fullest = max(stages, key=lambda stage: (stage.total_bytes, -stage.stage))
    return Memory(
        gpu_bytes=job.device.gpu.memory_bytes,
        limit_bytes=job.memory_limit_bytes,
        fullest_stage=fullest.stage,
        fullest_bytes=fullest.total_bytes,
        stages=tuple(stages),
    )


def _grid(job: Job, phase: str, point: dict[str, float], chunk: float) -> list[dict[str, float]]:
    """The plan's own step first, then steps around it that a simulator interpolates between; a
    prefill step may hold several prompts, up to `chunk` tokens of one rank."""
    changes: list[dict[str, float]] = []
    if phase == "decode":
        most = point["sequences"]
        workload = job.workload
        assert not isinstance(workload, ForwardWorkload)
        contexts = (float(workload.input_len), float(workload.input_len + workload.output_len))
        counts = sorted({1.0, np.ceil(most / 4), np.ceil(most / 2), most, 2 * most})
        changes = [
            {"tokens": count, "sequences": count, "logits": count, "context": context}
            for count in counts
            for context in contexts
        ]
    else:
        tokens = point["tokens"]
        sizes = sorted(
            {1.0, *(np.ceil(tokens / share) for share in (16, 4, 2, 1)), max(tokens, chunk)}
        )
        contexts = (point["context"], 4 * point["context"])
        changes = [{"tokens": size, "context": context} for size in sizes for context in contexts]
    grid = [point, *({**point, **change} for change in changes)]
    return [step for index, step in enumerate(grid) if step not in grid[:index]]


def phase_tables(job: Job, rows: Rows, layouts: Layouts) -> dict[str, PhaseTable]:
    """Each phase's operators over its grid (rows and layouts of length 1)."""
    drawn = correction(job, rows, layouts)
    scale = {"prefill": float(drawn.ttft[0]), "decode": float(drawn.tpot[0])}
    return {
        phase: _phase_table(job, phase, columns, layouts, float(rows.chunk[0]), scale[phase])
        for phase, columns in step_columns(job, rows, layouts).items()
    }


def _phase_table(
    job: Job,
    phase: str,
    columns: dict[str, Floats],
    layouts: Layouts,
    chunk: float,
    scale: float,
) -> PhaseTable:
    own = {name: float(column[0]) for name, column in columns.items()}
    steps = _grid(job, phase, own, np.ceil(chunk / own["cp"]))
    grid = {name: np.array([step[name] for step in steps]) for name in steps[0]}
    names = job.model.layer_names
    counts = {name: names.count(name) for name in job.model.layer_types}
    counts |= {EMBEDDING: 1, HEAD: 1, BOUNDARY: int(layouts.pp[0]) - 1}
    found = []
    for family in lower(job.model, job.workload.engine):
        for operator in family.build({name: grid[name] for name in family.depends}):
            row = _row(job, family.part, counts[family.part], operator, len(steps), scale)
            if row.count and any(row.seconds):
                found.append(row)
    totals = {
        name: tuple(
            sum(row.count * getattr(row, name)[point] for row in found)
            for point in range(len(steps))
        )
        for name in ("flops", "bytes", "payload_bytes", "seconds")
    }
    by_group: dict[str, float] = defaultdict(float)
    for row in found:
        by_group[row.group] += row.count * row.seconds[0]
    first = {name: column[:1] for name, column in grid.items()}
    parts = part_seconds(lower(job.model, job.workload.engine), first, job.device, job.constants)
    layers = {name: parts[name] for name in job.model.layer_types}
    slowest = stage_maximum(job.model, layouts.pp, layers, parts[EMBEDDING], parts[HEAD], job.cut)
    slowest = scale * (slowest + np.where(layouts.pp > 1, parts[BOUNDARY], 0.0))
    return PhaseTable(
        grid=tuple(
            GridPoint(tokens=step["tokens"], sequences=step["sequences"], context=step["context"])
            for step in steps
        ),
        rows=tuple(found),
        total_flops=totals["flops"],
        total_bytes=totals["bytes"],
        total_payload_bytes=totals["payload_bytes"],
        total_seconds=totals["seconds"],
        by_group=dict(by_group),
        slowest_stage_s=float(slowest[0]),
    )


def _row(
    job: Job, part: str, count: int, operator: Operator, points: int, scale: float
) -> OperatorRow:
    seconds = scale * operator_seconds(operator, job.device, job.constants)

    def column(values: Floats | float) -> tuple[float, ...]:
        return tuple(float(value) for value in np.broadcast_to(values, points))

    group_size, leaf = int(column(operator.group_size)[0]), column(operator.leaf)[0]
    return OperatorRow(
        name=operator.name,
        part=part,
        group=operator.group,
        kind=operator.kind,
        axis=operator.axis,
        compute=job.device.compute(operator.format),
        count=count,
        group_size=group_size,
        inside=int(column(operator.inside)[0]),
        leaf=None if np.isinf(leaf) else int(min(leaf, group_size)),
        m=column(operator.m),
        n=column(operator.n),
        k=column(operator.k),
        flops=column(operator.flops),
        bytes=column(operator.bytes),
        payload_bytes=column(operator.payload_bytes),
        seconds=column(seconds),
        timed=_timing(operator, job, points),
    )


def _timing(operator: Operator, job: Job, points: int) -> tuple[Timing, ...] | None:
    """Where the seconds of each grid point come from; None where no table has such operators."""
    first, *_ = asks(operator, job.device)
    if first.pricer != "measured":
        return None
    labels = np.where(first.share > 0, first.demand.label, len(LABELS)).astype(int)
    names = get_args(Timing)  # LABELS and then the roofline
    return tuple(names[label] for label in np.broadcast_to(labels, points))
