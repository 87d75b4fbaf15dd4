"""One candidate in full: memory by stage, every operator over a grid of steps, balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import get_args

import numpy as np

from optimizer.cost.calibration import Constants
from optimizer.cost.demand import Device
from optimizer.cost.job import Job, step_columns
from optimizer.cost.memory import MemoryColumns
from optimizer.cost.price import part_seconds
from optimizer.cost.pricers import asks, operator_seconds
from optimizer.cost.pricing import correction, memory_of
from optimizer.cost.rows import Rows
from optimizer.cost.silicon.grids import LABELS
from optimizer.cost.stages import stage_maximum, stages_of
from optimizer.layout import Layouts
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, Family, Floats, Operator, lower
from optimizer.plan import GridPoint, Memory, OperatorRow, PhaseTable, StageMemory
from optimizer.plan.tables import Timing
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
    steps, grid = steps_around(job, phase, columns, chunk)
    names = job.model.layer_names
    counts = {name: names.count(name) for name in job.model.layer_types}
    counts |= {EMBEDDING: 1, HEAD: 1, BOUNDARY: int(layouts.pp[0]) - 1}
    families = lower(job.model, job.workload.engine)
    found = operator_rows(families, grid, counts, job.device, job.constants, scale)
    first = {name: column[:1] for name, column in grid.items()}
    parts = part_seconds(families, first, job.device, job.constants)
    layers = {name: parts[name] for name in job.model.layer_types}
    slowest = stage_maximum(job.model, layouts.pp, layers, parts[EMBEDDING], parts[HEAD], job.cut)
    slowest = scale * (slowest + np.where(layouts.pp > 1, parts[BOUNDARY], 0.0))
    return summed_table(steps, found, float(slowest[0]))


def steps_around(
    job: Job, phase: str, columns: dict[str, Floats], chunk: float
) -> tuple[list[dict[str, float]], dict[str, Floats]]:
    """The grid of a phase around its own step (columns of length 1): its points, and as columns."""
    own = {name: float(column[0]) for name, column in columns.items()}
    steps = _grid(job, phase, own, np.ceil(chunk / own["cp"]))
    return steps, {name: np.array([step[name] for step in steps]) for name in steps[0]}


def operator_rows(
    families: Iterable[Family],
    grid: dict[str, Floats],
    counts: Mapping[str, int],
    device: Device,
    constants: Constants,
    scale: float,
    pool: str | None = None,
) -> list[OperatorRow]:
    """Every operator that takes any time, of parts that are met `counts` times."""
    found = []
    for family in families:
        for operator in family.build({name: grid[name] for name in family.depends}):
            count = counts.get(family.part, 0)
            seconds = scale * operator_seconds(operator, device, constants)
            if count and np.any(seconds):
                points = len(grid["tokens"])
                found.append(_row(device, family.part, count, operator, seconds, points, pool))
    return found


def summed_table(
    steps: list[dict[str, float]], found: list[OperatorRow], slowest_stage_s: float
) -> PhaseTable:
    """A phase's rows with their sums."""
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
        slowest_stage_s=slowest_stage_s,
    )


def _row(
    device: Device,
    part: str,
    count: int,
    operator: Operator,
    seconds: Floats,
    points: int,
    pool: str | None,
) -> OperatorRow:
    def column(values: Floats | float) -> tuple[float, ...]:
        return tuple(float(value) for value in np.broadcast_to(values, points))

    group_size, leaf = int(column(operator.group_size)[0]), column(operator.leaf)[0]
    return OperatorRow(
        name=operator.name,
        part=part,
        group=operator.group,
        kind=operator.kind,
        axis=operator.axis,
        compute=device.compute(operator.format),
        count=count,
        group_size=group_size,
        inside=int(column(operator.inside)[0]),
        leaf=None if np.isinf(leaf) else int(min(leaf, group_size)),
        pool=pool,
        m=column(operator.m),
        n=column(operator.n),
        k=column(operator.k),
        flops=column(operator.flops),
        bytes=column(operator.bytes),
        payload_bytes=column(operator.payload_bytes),
        seconds=column(seconds),
        timed=_timing(operator, device, points),
    )


def _timing(operator: Operator, device: Device, points: int) -> tuple[Timing, ...] | None:
    """Where the seconds of each grid point come from; None where no table has such operators."""
    first, *_ = asks(operator, device)
    if first.pricer != "measured":
        return None
    labels = np.where(first.share > 0, first.demand.label, len(LABELS)).astype(int)
    names = get_args(Timing)  # LABELS and then the roofline
    return tuple(names[label] for label in np.broadcast_to(labels, points))
