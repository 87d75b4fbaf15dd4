"""Candidates whose replicas span two pools: the first stages and layers in one, the rest in the
other, each pool's operators at its own rates and each stage under its own pool's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Calibration
from optimizer.cost.candidates import Candidates
from optimizer.cost.correcting import Factors
from optimizer.cost.demand import Device
from optimizer.cost.factoring import representatives
from optimizer.cost.job import Job, degree_columns, micro_sequences, sequence_tokens, step_columns
from optimizer.cost.memory import layout_bytes
from optimizer.cost.price import Step, part_seconds
from optimizer.cost.pricing import Uncut, correction, held_sequences, price_steps, uncut
from optimizer.cost.rows import Rows
from optimizer.cost.shares import Contents, contents_of
from optimizer.layout import Ints, Split
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, Floats, lower
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload, ServingWorkload


class Spanning(NamedTuple):
    """What prices replicas that span two pools: the job of either, the first stages' first. Ranks
    lie in the usual order in both; the engine's own work is that of the first pool's hosts."""

    first: Job
    second: Job

    @property
    def jobs(self) -> tuple[Job, Job]:
        return self.first, self.second

    @property
    def pools(self) -> tuple[int, int]:
        return self.first.pool, self.second.pool

    @property
    def cluster(self) -> Cluster:
        return self.first.cluster

    @property
    def model(self) -> ModelSpec:
        return self.first.model

    @property
    def workload(self) -> ForwardWorkload | ServingWorkload:
        return self.first.workload

    @property
    def calibration(self) -> Calibration:
        return self.first.calibration

    @property
    def crossing(self) -> Device:
        """What sends from the first pool to the second: all goes over the link between them."""
        link = self.cluster.between(*self.pools)
        return Device(self.first.device.gpu, link, link)

    def apart(self, rows: int) -> dict[str, Floats]:
        """The columns of that sending: neighbours share neither a domain nor a switch [rows]."""
        return {"pp_inside": np.ones(rows), "pp_leaf": np.full(rows, np.inf)}


class Tables(NamedTuple):
    """All that candidates are priced from, by number of layers in the first pool: bytes of the
    fullest stage of either pool without what is working [points, n], steps of each phase."""

    held: tuple[Floats, Floats]
    over: Floats  # bytes by which the worse of both exceeds its limit
    least_over: Floats  # of any number of layers [points]
    roomiest: Ints  # that number
    point: Ints  # of each candidate
    working: Floats  # bytes beside weights, cache and logits of each candidate
    correction: Factors
    phases: dict[str, tuple[Step, Ints]]  # the step [points, n], and the point of each candidate


def priced_at(
    job: Spanning, rows: Rows, split: Split, tables: Tables, row: Ints, layers: Ints
) -> Candidates:
    """Rows with so many layers in the first pool."""
    point = tables.point[row]
    held = [each[point, layers] + tables.working[row] for each in tables.held]
    limits = [each.memory_limit_bytes for each in job.jobs]
    fuller = held[0] / limits[0] >= held[1] / limits[1]
    memory = np.where(fuller, held[0], held[1])
    steps = {}
    for phase, (step, points) in tables.phases.items():
        at = (points[row], layers)
        steps[phase] = Step(step.total_s[at], step.slowest_stage_s[at])
    drawn = Factors(*(column[row] for column in tables.correction))
    found = price_steps(job.first, rows.take(row), split.layouts, steps, drawn, memory)
    live = sum(job.cluster.live_gpus(pool) for pool in job.pools)
    bounds = {
        "memory": np.where(fuller, limits[0], limits[1]),
        "GPUs": np.full(len(row), float(live)),
    }
    chosen = split.take(rows.layout[row])
    shares = chosen.shares
    counts = (layers, job.model.num_layers - layers)
    return replace(
        found,
        limits={**found.limits, **bounds},
        stages={pool: share.pp for pool, share in zip(job.pools, shares, strict=True)},
        layers=dict(zip(job.pools, counts, strict=True)),
        spans={pool: share.span for pool, share in zip(job.pools, shares, strict=True)},
    )


def tables_of(job: Spanning, rows: Rows, split: Split) -> Tables:
    """Every number of layers in the first pool for every candidate."""
    known = tuple(uncut(*each) for each in zip(job.jobs, [rows] * 2, split.shares, strict=True))
    micro, sequences = micro_sequences(rows), held_sequences(job.first, rows)
    few, point = representatives(rows.layout, sequences, micro)
    own = rows.layout[few]
    held = layout_bytes(
        job.model,
        degree_columns(job.first, split.layouts),
        sequence_tokens(job.workload),
        job.workload.redundant_experts,
    )
    layers = [
        (layer.dense + layer.experts)[own] + layer.cache[own] * sequences[few]
        for layer in held.layers.values()
    ]
    ends = held.first[own], held.last[own] + held.logits[own] * micro[few]
    stages = [share.pp[own] for share in split.shares]
    counts = np.arange(job.model.num_layers + 1)
    sums = [
        _by_stages(held_in, own_stages, Contents.largest_bytes, (*layers, end), len(counts))
        for held_in, own_stages, end in zip(contents_of(job.model), stages, ends, strict=True)
    ]
    over = sums[0] - job.first.memory_limit_bytes
    np.maximum(over, sums[1] - job.second.memory_limit_bytes, out=over)
    over[(counts < stages[0][:, None]) | (counts[::-1] < stages[1][:, None])] = np.inf
    roomiest = over.argmin(axis=1)
    return Tables(
        (sums[0], sums[1]),
        over,
        over[np.arange(len(over)), roomiest],
        roomiest,
        point,
        known[0].working_bytes,
        correction(job.first, rows, split.layouts),
        {phase: _phase(job, phase, rows, split, known) for phase in known[0].steps},
    )


def _by_stages(
    contents: Callable[[int], Contents],
    stages: Ints,
    summed: Callable[[Contents, tuple[Floats, ...]], Floats],
    values: tuple[Floats, ...],
    width: int,
) -> Floats:
    """A sum over so many stages of one pool [points, width], of what layers and the end add at each
    point."""
    found = np.empty((len(stages), width))
    for count in np.unique(stages).tolist():
        here = np.flatnonzero(stages == count)
        found[here] = summed(contents(count), tuple(value[here] for value in values))
    return found


def _phase(
    job: Spanning, phase: str, rows: Rows, split: Split, known: tuple[Uncut, ...]
) -> tuple[Step, Ints]:
    """Each stage hands over at its end: to the next in its pool, or to the next pool."""
    one, other = (each.steps[phase] for each in known)
    crossing = _hand_over_seconds(job, phase, rows.take(representatives(one.back)[0]), split)
    totals, slowest = [], []
    sends = hand_over = crossing
    for points, contents, end in zip(
        (one, other), contents_of(job.model), (EMBEDDING, HEAD), strict=True
    ):
        values = (*(points.parts[name] for name in job.model.layer_types), points.parts[end])
        boundary = points.parts[BOUNDARY]
        sends = sends + (points.pp - 1) * boundary
        hand_over = np.maximum(hand_over, np.where(points.pp > 1, boundary, 0.0))
        width = job.model.num_layers + 1
        totals.append(_by_stages(contents, points.pp, Contents.total, values, width))
        slowest.append(_by_stages(contents, points.pp, Contents.largest, values, width))
        slowest[-1] += hand_over[:, None]
        hand_over = np.zeros_like(crossing)
    total, more = totals
    total += more
    total += sends[:, None]
    return Step(total, np.maximum(slowest[0], slowest[1], out=slowest[0])), one.back


def _hand_over_seconds(job: Spanning, phase: str, points: Rows, split: Split) -> Floats:
    """Sending from the first pool to the second, of each point."""
    columns = step_columns(job.first, points, split.shares[0])[phase]
    families = [family for family in lower(job.model) if family.part == BOUNDARY]
    apart = {**columns, **job.apart(len(points))}
    return part_seconds(families, apart, job.crossing, job.first.constants)[BOUNDARY]
