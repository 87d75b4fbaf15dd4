"""Seconds and bytes of layers and ends, priced once for what they depend on, read off for rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.training.layer_seconds import seconds_of
from optimizer.cost.training.layouts import Floats, TrainingLayouts
from optimizer.cost.training.lowering import Lowered, lower
from optimizer.cost.training.memory import activations_of, in_flight, state_bytes
from optimizer.cost.training.pieces import Piece, assembled, layer_piece
from optimizer.cost.training.stage_memory import GATHERED_LAYERS
from optimizer.cost.training.step import Stages, data_parallel_s, finished, optimizer_s
from optimizer.layout import Ints
from optimizer.search.training.job import TrainingJob

SUMS = ("both_s", "weight_gradient_s", "dense_parameters", "expert_parameters")
Columns = dict[str, Floats]


@dataclass(frozen=True)
class RowPrices:
    """n rows under one way to recompute; T layer types. Of one layer, and of what stands before the
    first and behind the last: seconds (both ways, one micro-batch), parameters, bytes of a rank."""

    lowered: Lowered
    layer: Columns  # SUMS, resident, kept, working, gathered [n, T]
    first: Columns  # SUMS, resident [n]: the embedding
    last: Columns  # SUMS, resident, kept, logits [n]: head and MTP
    around: Floats  # [n] bytes on every stage: workspace, gathered tables, context

    def take(self, rows: NDArray[Any]) -> RowPrices:
        """The chosen rows."""
        return RowPrices(
            self.lowered.take(rows),
            _taken(self.layer, rows),
            _taken(self.first, rows),
            _taken(self.last, rows),
            self.around[rows],
        )


def _taken(columns: Columns, rows: NDArray[Any]) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


class PriceTable:
    """Layers and ends of a few layouts, under each way to recompute, priced when first asked for.

    Rows whose parameters are not sharded depend on nothing else than the degrees of their layers,
    the micro-batch, sequence parallelism and the span; the others are their own entries.
    """

    def __init__(self, job: TrainingJob, few: TrainingLayouts) -> None:
        self._job, self._few = job, few
        self._known: dict[int, tuple[Lowered, Columns, Columns, Columns]] = {}
        self._work_s: dict[int, Floats] = {}

    def prices(self, rows: TrainingLayouts, entry: Ints, bits: int) -> RowPrices:
        """The rows, each with its entry, with these recompute bits in every layer."""
        lowered, layer, first, last = self._of(bits)
        job = self._job
        own = lowered.take(entry)
        layer, first, last = _taken(layer, entry), _taken(first, entry), _taken(last, entry)
        (dense, routed), (adam, routed_adam) = state_bytes(rows, job.rates, own.trained)
        table = own.table_parameters * (dense + adam)
        layer["resident"] = layer["dense_parameters"] * (dense + adam)[:, None]
        layer["resident"] += layer["expert_parameters"] * (routed + routed_adam)[:, None]
        whole = layer["dense_parameters"] + layer["expert_parameters"]
        sharded = rows.fully_sharded
        layer["gathered"] = np.where(sharded[:, None], 2.0 * GATHERED_LAYERS * whole, 0.0)
        many, copied = float(np.max(own.mtp_layers)), own.last or 0
        last["resident"] = np.where(rows.pp == 1, 1.0 - own.tied, 1.0) * table
        last["resident"] = last["resident"] + many * layer["resident"][:, copied]
        last["kept"] = many * layer["kept"][:, copied]
        first["resident"] = table
        gathered = np.where(sharded, 2.0 * own.table_parameters, 0.0)
        around = gathered + job.rates.workspace_bytes + job.reserve_bytes
        return RowPrices(own, layer, first, last, around)

    def work_s(self, bits: int) -> Floats:
        """One micro-batch through the whole model, both ways [entries]."""
        if bits not in self._work_s:
            _, layer, first, last = self._of(bits)
            body: Floats = layer["both_s"] @ layer_counts(self._job)
            self._work_s[bits] = body + first["both_s"] + last["both_s"]
        return self._work_s[bits]

    def _of(self, bits: int) -> tuple[Lowered, Columns, Columns, Columns]:
        if bits not in self._known:
            self._known[bits] = self._priced(bits)
        return self._known[bits]

    def _priced(self, bits: int) -> tuple[Lowered, Columns, Columns, Columns]:
        job = self._job
        few = replace(self._few, recompute=np.full(len(self._few), bits))
        rates, model = job.rates, job.model
        lowered = lower(model, few, job.step)
        layers = tuple(
            layer_piece(layer, seconds_of(layer.works, few, rates, lowered), few, rates)
            for layer in lowered.layers
        )
        head = seconds_of(lowered.head, few, rates, lowered)
        embedding = seconds_of(lowered.embedding, few, rates, lowered)
        pieces = assembled(lowered, layers, head, embedding)
        activations = activations_of(model, few, rates, job.step)
        layer = {name: _stack([getattr(each, name) for each in layers]) for name in SUMS}
        layer["kept"] = _stack([each * rates.kept for each in activations.kept])
        layer["working"] = _stack([each * rates.working for each in activations.working])
        last = {name: _of(pieces.head, name) + _of(pieces.mtp, name) for name in SUMS}
        passes = 1 + np.asarray(lowered.mtp_layers)
        last["logits"] = activations.logits * rates.logit_bytes * passes
        first = {name: _of(pieces.embedding, name) for name in SUMS}
        return replace(lowered, layers=()), layer, first, last


def _stack(columns: list[Floats]) -> Floats:
    return np.stack(columns, axis=1)


def _of(piece: Piece, name: str) -> Floats:
    found: Floats = getattr(piece, name)
    return found


def row_prices(job: TrainingJob, rows: TrainingLayouts, bits: int) -> RowPrices:
    """Each row as its own entry."""
    return PriceTable(job, rows).prices(rows, np.arange(len(rows)), bits)


def flights(rows: TrainingLayouts) -> Floats:
    """Micro-batches whose activations each stage keeps [n, P]; 0 beyond a row's own stages."""
    stages = int(rows.pp.max(initial=1))
    found = np.zeros((len(rows), stages))
    for stage in range(stages):
        held = in_flight(rows, float(stage))
        found[:, stage] = np.where(rows.pp > stage, held, 0.0)
    return found


def even_stages(job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> Stages:
    """All work and all parameters spread evenly over the stages: no cut has a smaller slowest or
    fullest one. What the slowest stage's weight gradients could fill of a wait is all put off."""
    counts = layer_counts(job)
    total, weights, dense, experts = (
        prices.layer[name] @ counts + prices.first[name] + prices.last[name] for name in SUMS
    )
    tied = np.where(rows.pp == 1, prices.lowered.tied, 0.0) * prices.lowered.table_parameters
    return Stages(
        total / rows.pp,
        total,
        0.0 * weights,
        weights,
        (dense - tied) / rows.pp,
        experts / rows.pp,
        {},
    )


def bound_step(
    job: TrainingJob, rows: TrainingLayouts, prices: RowPrices, stages: Stages
) -> tuple[Floats, Floats]:
    """(a step that no cut beats whose slowest stage and sums are no less than these, its wait).

    The fullest stage has no fewer parameters than the mean, but perhaps of other layers: what runs
    once a step counts as if they were all of MoE layers, or as few of those as dense layers and
    tables can make up for, whichever costs less.
    """
    lowered, rates = prices.lowered, job.rates
    if job.model.moe is None:
        found = finished(stages, lowered, rows, rates)
        return found.step_s, found.parts["bubble"]
    every = stages.dense_parameters + stages.expert_parameters
    dense, experts = prices.layer["dense_parameters"], prices.layer["expert_parameters"]
    share = (experts / (dense + experts)).max(axis=1)
    plain = np.where(experts > 0, 0.0, dense) @ layer_counts(job) + 2.0 * lowered.table_parameters
    few = np.maximum(every - plain, 0.0) * share
    stages = replace(stages, dense_parameters=every - few, expert_parameters=few)
    found = finished(stages, lowered, rows, rates)
    routed = every * share
    stages = replace(stages, dense_parameters=every - routed, expert_parameters=routed)
    slowest = stages.slowest_s + found.parts["pp"] / rows.micro_batches
    other = data_parallel_s(stages, lowered, rows, rates, slowest)
    spared = np.maximum(found.parts["dp"] - other, 0.0)
    updated = optimizer_s(stages, lowered, rows, rates)
    spared = spared + np.maximum(found.parts["optimizer"] - updated, 0.0)
    return found.step_s - spared * jitter_of(job, rows), found.parts["bubble"]


def jitter_of(job: TrainingJob, rows: TrainingLayouts) -> Floats:
    """What stragglers make of a step's seconds."""
    domains = np.maximum(rows.gpus / job.rates.domain, 1.0)
    found: Floats = 1 + job.rates.jitter * np.log2(domains)
    return found


def layer_counts(job: TrainingJob) -> Floats:
    """Layers of each type."""
    names = job.model.layer_names
    return np.array([float(names.count(name)) for name in job.model.layer_types])
