"""Layouts to priced candidates of one pool and one choice of number formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.correcting import Factors, corrected, factors, series_of
from optimizer.cost.factoring import representatives
from optimizer.cost.fullest import fullest_bytes
from optimizer.cost.job import Job, degree_columns, micro_sequences, sequence_tokens, step_columns
from optimizer.cost.memory import (
    RUNTIME_RESERVE_BYTES,
    LayoutBytes,
    MemoryColumns,
    layout_bytes,
    memory_columns,
    working_bytes,
)
from optimizer.cost.price import Step, part_seconds, step_of
from optimizer.cost.rows import Rows
from optimizer.cost.serving import Pipe, Prefill, decode_cycle, peak, serving_times
from optimizer.layout import Ints, Layouts
from optimizer.operators import Floats, lower
from optimizer.spec.workload import ForwardWorkload, Limit, ServingWorkload


def _most_tokens(job: Job, rows: Rows, cp: Floats, micro: Floats) -> Floats:
    """New tokens of one attention rank in its largest step."""
    if isinstance(job.workload, ForwardWorkload):
        return np.ceil(micro * job.workload.seq_len / cp)
    return np.maximum(np.ceil(rows.chunk / cp), micro)


def held_sequences(job: Job, rows: Rows) -> Floats:
    """Sequences whose cache a rank keeps; a forward pass keeps none."""
    if isinstance(job.workload, ForwardWorkload):
        return np.zeros(len(rows))
    return rows.sequences.astype(np.float64)


def memory_of(job: Job, rows: Rows, layouts: Layouts) -> MemoryColumns:
    """Memory of every candidate at the peak of its largest step."""
    degrees, micro = degree_columns(job, layouts), micro_sequences(rows)
    columns = {name: column[rows.layout] for name, column in degrees.items()}
    columns["tokens"] = _most_tokens(job, rows, columns["cp"], micro)
    columns["held"] = held_sequences(job, rows)
    columns["logits"] = micro
    tokens, redundant = sequence_tokens(job.workload), job.workload.redundant_experts
    return memory_columns(job.model, columns, tokens, _reserve(job), redundant)


def _reserve(job: Job) -> float:
    return job.workload.runtime_reserve_bytes or RUNTIME_RESERVE_BYTES


class Points(NamedTuple):
    """A phase's step at its distinct points, and the point of each candidate [n]."""

    parts: dict[str, Floats]
    pp: Ints
    back: Ints


class Uncut(NamedTuple):
    """What no cut of the layers changes: bytes of each layout, working memory and the correction of
    each candidate [n], and the parts of its steps."""

    held: LayoutBytes
    working_bytes: Floats
    correction: Factors
    steps: dict[str, Points]

    def take(self, rows: Ints) -> Uncut:
        steps = {
            phase: points._replace(back=points.back[rows]) for phase, points in self.steps.items()
        }
        drawn = Factors(*(column[rows] for column in self.correction))
        return Uncut(self.held, self.working_bytes[rows], drawn, steps)


def uncut(job: Job, rows: Rows, layouts: Layouts) -> Uncut:
    """What pricing the candidates under any cut starts from."""
    degrees, redundant = degree_columns(job, layouts), job.workload.redundant_experts
    held = layout_bytes(job.model, degrees, sequence_tokens(job.workload), redundant)
    tokens = _most_tokens(job, rows, degrees["cp"][rows.layout], micro_sequences(rows))
    chosen, back = representatives(rows.layout, tokens)
    columns = {name: column[rows.layout[chosen]] for name, column in degrees.items()}
    activations, buffers = working_bytes(job.model, {**columns, "tokens": tokens[chosen]})
    working = (activations + buffers + _reserve(job))[back]
    is_forward = isinstance(job.workload, ForwardWorkload)
    phases = ("prefill",) if is_forward else ("prefill", "decode")
    steps = {phase: _points(job, phase, rows, layouts) for phase in phases}
    return Uncut(held, working, correction(job, rows, layouts), steps)


def _points(job: Job, phase: str, rows: Rows, layouts: Layouts) -> Points:
    """One step of a phase, priced once for each layout and number of tokens: a prefill of serving
    depends on the chunk alone, every other step on the micro-batch."""
    is_chunked = phase == "prefill" and not isinstance(job.workload, ForwardWorkload)
    chosen, back = representatives(rows.layout, rows.chunk if is_chunked else micro_sequences(rows))
    points = rows.take(chosen)
    columns = step_columns(job, points, layouts)[phase]
    families = lower(job.model, job.workload.engine)
    parts = part_seconds(families, columns, job.device, job.constants)
    return Points(parts, layouts.pp[points.layout], back)


def price_rows(job: Job, rows: Rows, layouts: Layouts, known: Uncut | None = None) -> Candidates:
    """Seconds and bytes of every candidate under the job's cut, and each limit's need; `known`:
    what is uncut of these candidates."""
    known = known or uncut(job, rows, layouts)
    own, micro = held_sequences(job, rows), micro_sequences(rows)
    fullest = fullest_bytes(job.model, known.held, layouts.pp, rows.layout, own, micro, job.cut)
    memory_bytes = fullest + known.working_bytes
    steps = {phase: _step(job, points) for phase, points in known.steps.items()}
    return price_steps(job, rows, layouts, steps, known.correction, memory_bytes)


def price_steps(
    job: Job,
    rows: Rows,
    layouts: Layouts,
    steps: Mapping[str, Step],
    drawn: Factors,
    memory_bytes: Floats,
) -> Candidates:
    """Candidates of known steps and known memory."""
    chosen = layouts.take(rows.layout)
    if isinstance(job.workload, ForwardWorkload):
        return _forward(job, job.workload, rows, chosen, steps["prefill"], memory_bytes)
    return _serving(job, job.workload, rows, chosen, steps, drawn, memory_bytes)


def _step(job: Job, points: Points) -> Step:
    step = step_of(job.model, points.parts, points.pp, job.cut)
    return Step(step.total_s[points.back], step.slowest_stage_s[points.back])


def _forward(
    job: Job,
    workload: ForwardWorkload,
    rows: Rows,
    chosen: Layouts,
    step: Step,
    memory_bytes: Floats,
) -> Candidates:
    latency = step.total_s + (rows.micro_batches - 1) * step.slowest_stage_s
    share = workload.batch / rows.replicas_min
    nothing = np.zeros(len(rows))
    return _candidates(
        job,
        rows,
        chosen,
        memory_bytes,
        concurrency=share,
        tokens_per_s=share * workload.seq_len / latency,
        ttft_s=nothing,
        tpot_s=nothing,
        latency_s=latency,
    )


def _serving(
    job: Job,
    workload: ServingWorkload,
    rows: Rows,
    chosen: Layouts,
    steps: Mapping[str, Step],
    drawn: Factors,
    memory_bytes: Floats,
) -> Candidates:
    one, step = steps["prefill"], steps["decode"]
    chunks = np.ceil((workload.input_len - workload.prefix_len) / rows.chunk)
    busy = chunks * one.slowest_stage_s
    fresh = float(workload.input_len - workload.prefix_len)
    behind = np.where(chosen.pp > 1, one.total_s - one.slowest_stage_s, 0.0)
    room = np.maximum(np.floor(rows.chunk / fresh) - 1.0, 0.0)
    prefill = Prefill(one.total_s + busy - one.slowest_stage_s, busy, behind, room)
    running, constants = rows.sequences.astype(np.float64), job.constants
    around = np.maximum(step.total_s, rows.micro_batches * step.slowest_stage_s)
    times = serving_times(
        decode_cycle(around, running, chosen.dp, chosen.tp, constants),
        prefill,
        running,
        0.0,  # none waits: a plan's sequences all fit the cache
        workload.output_len,
        constants,
        Pipe(
            rows.micro_batches,
            step.slowest_stage_s,
            step.total_s,
            one.slowest_stage_s,
            one.total_s,
            chunks,
        ),
        chosen.dp,
    )
    times = corrected(times, drawn, workload.output_len)
    concurrency = (rows.sequences * chosen.dp).astype(np.float64)
    if workload.concurrency is not None:
        concurrency = workload.concurrency / rows.replicas_min
    if workload.request_rate is not None:
        in_flight = workload.request_rate * times.request_s
        needed = np.ceil(peak(in_flight) / concurrency)
        replicas = np.maximum(1, needed).astype(np.int64)
        concurrency = in_flight / replicas
        rows = Rows(rows.layout, rows.sequences, rows.chunk, rows.micro_batches, replicas, replicas)
    return _candidates(
        job,
        rows,
        chosen,
        memory_bytes,
        concurrency=concurrency,
        tokens_per_s=concurrency * workload.output_len / times.request_s,
        ttft_s=times.ttft_s,
        tpot_s=times.tpot_s,
        latency_s=times.request_s,
    )


def correction(job: Job, rows: Rows, layouts: Layouts) -> Factors:
    """What measured runs multiply the serving times of the rows by [n]."""
    workload, corrections = job.workload, job.calibration.corrections
    if corrections is None or isinstance(workload, ForwardWorkload):
        return Factors(np.ones(len(rows)), np.ones(len(rows)))
    chosen = layouts.take(rows.layout)
    gpus = chosen.gpus_per_replica.astype(np.float64)
    in_flight = (rows.sequences * chosen.dp).astype(np.float64)
    lengths = np.full(len(rows), workload.input_len), np.full(len(rows), workload.output_len)
    series = series_of(job.model, job.cluster.pools[job.pool].gpu, workload.engine)
    return factors(corrections, series, np.stack([gpus, in_flight, *lengths], axis=-1))


def at_statistic(job: Job, name: str, limit: Limit) -> float:
    """The bound on a mean that keeps the named percentile within its limit."""
    return limit.value_s / job.calibration.percentiles.get(name, {}).get(limit.statistic, 1.0)


def _candidates(
    job: Job,
    rows: Rows,
    chosen: Layouts,
    memory_bytes: Floats,
    *,
    concurrency: Floats,
    tokens_per_s: Floats,
    ttft_s: Floats,
    tpot_s: Floats,
    latency_s: Floats,
) -> Candidates:
    length, workload = len(rows), job.workload
    needs = {"memory": memory_bytes}
    bounds = {"memory": job.memory_limit_bytes}
    times = {"ttft": ttft_s, "tpot": tpot_s, "latency": latency_s}
    for name, values in times.items():
        limit: Limit | None = getattr(workload, name, None)
        if limit is not None:
            needs[name], bounds[name] = values, at_statistic(job, name, limit)
    if job.model.max_context is not None:
        needs["context"] = np.broadcast_to(float(sequence_tokens(workload)), length)
        bounds["context"] = float(job.model.max_context)
    live = job.cluster.live_gpus(job.pool)
    needs["GPUs"] = (rows.replicas_min * chosen.gpus_per_replica).astype(np.float64)
    bounds["GPUs"] = float(live)
    return Candidates(
        pool=np.broadcast_to(np.int64(job.pool), length),
        precision=np.broadcast_to(np.int64(0), length),
        layouts=chosen,
        sequences=rows.sequences,
        chunk=rows.chunk,
        micro_batches=rows.micro_batches,
        replicas_min=rows.replicas_min,
        replicas_max=rows.replicas_max,
        memory_bytes=memory_bytes,
        concurrency=concurrency,
        tokens_per_s=tokens_per_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        latency_s=latency_s,
        needs=needs,
        limits={name: np.broadcast_to(bound, length) for name, bound in bounds.items()},
    )
