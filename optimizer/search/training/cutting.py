"""Layers on stages: how many each stage holds, vectorised over rows of choices.

With layers of one type the cut is exact: the least time T at which the stages together have room,
each for floor((T - its end) / layer) layers and no more than its memory holds, has the smallest
slowest stage of all cuts. Layer types that differ are first cut at their mean and then added up
where they lie; what that leaves on the table the joint model finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.training.layouts import Floats, TrainingLayouts
from optimizer.cost.training.step import Stages, finished
from optimizer.layout import Ints
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import SUMS, RowPrices, flights

HALVINGS = 20  # of the time between the mean stage and two layers more

Flags = NDArray[np.bool_]


class Cuts(NamedTuple):
    """Layers of each stage [n, P], the step that they make [n], bytes of the fullest stage [n]."""

    layers: Ints
    step_s: Floats
    memory_bytes: Floats


def roomy_rows(job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> Flags:
    """Rows whose stages together hold all layers, as the mean layer needs memory [n]."""
    shape = _Shape.of(job, rows, prices, flights(rows))
    found: Flags = shape.caps(job.memory_limit_bytes).sum(axis=1) >= job.model.num_layers
    return found


def cut_rows(job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> Cuts:
    """The cut of each row with the smallest slowest stage within the memory; where memory holds no
    cut, the layers dealt evenly."""
    flight = flights(rows)
    shape = _Shape.of(job, rows, prices, flight)
    caps = shape.caps(job.memory_limit_bytes)
    layers = shape.even()
    roomy = np.flatnonzero(caps.sum(axis=1) >= job.model.num_layers)
    if len(roomy):
        filled = shape.take(roomy).fill(caps[roomy])
        layers[roomy, : filled.shape[1]] = filled
    return cuts_of(job, rows, prices, layers, flight)


def cuts_of(
    job: TrainingJob, rows: TrainingLayouts, prices: RowPrices, layers: Ints, flight: Floats
) -> Cuts:
    """Step and bytes of given layers on stages."""
    held = held_types(job, rows, layers)
    stages = stages_of(rows, prices, held)
    step = finished(stages, prices.lowered, rows, job.rates).step_s
    return Cuts(layers, step, stage_bytes(rows, prices, held, flight).max(axis=1))


def stages_of(rows: TrainingLayouts, prices: RowPrices, held: Floats) -> Stages:
    """What a step is made of, from layers of each type on each stage [n, P, T]."""
    sums = {name: np.einsum("nst,nt->ns", held, prices.layer[name]) for name in SUMS}
    at = np.arange(len(rows))
    for name, column in sums.items():
        column[:, 0] += prices.first[name]
        column[at, rows.pp - 1] += prices.last[name]
    slowest = sums["both_s"].argmax(axis=1)
    weights = sums["weight_gradient_s"]
    tied = np.where(rows.pp == 1, prices.lowered.tied, 0.0) * prices.lowered.table_parameters
    fullest = (sums["dense_parameters"] + sums["expert_parameters"]).argmax(axis=1)
    return Stages(
        sums["both_s"][at, slowest],
        sums["both_s"].sum(axis=1),
        weights[at, slowest],
        weights.sum(axis=1),
        sums["dense_parameters"][at, fullest] - tied,
        sums["expert_parameters"][at, fullest],
        {},
    )


def stage_bytes(rows: TrainingLayouts, prices: RowPrices, held: Floats, flight: Floats) -> Floats:
    """Peak bytes of each stage [n, P]."""
    exists = np.arange(held.shape[1])[None, :] < rows.pp[:, None]
    at, last = np.arange(len(rows)), rows.pp - 1
    total = np.einsum("nst,nt->ns", held, prices.layer["resident"])
    kept = np.einsum("nst,nt->ns", held, prices.layer["kept"])
    kept[at, last] += prices.last["kept"]
    total += kept * flight
    total[:, 0] += prices.first["resident"]
    total[at, last] += prices.last["resident"] + prices.last["logits"]
    for name in ("working", "gathered"):
        total += np.where(held > 0, prices.layer[name][:, None, :], 0.0).max(axis=2)
    return np.where(exists, total + prices.around[:, None], 0.0)


def chunk_sizes(layers: Ints, pp: Ints, vp: Ints) -> Ints:
    """Layers of each chunk [n, most pp x vp]: a stage's layers over its vp chunks; what does not
    divide goes to later chunks on the first stage (the embedding lies in its first), to earlier
    ones on all others (the head lies in the last)."""
    count = int((pp * vp).max(initial=1))
    chunk = np.arange(count)[None, :]
    stage, turn = chunk % pp[:, None], chunk // pp[:, None]
    here = np.take_along_axis(layers, np.minimum(stage, layers.shape[1] - 1), axis=1)
    base, extra = here // vp[:, None], here % vp[:, None]
    later, earlier = turn >= vp[:, None] - extra, turn < extra
    more = np.where((stage == 0) & (pp[:, None] > 1), later, earlier)
    return np.where(chunk < (pp * vp)[:, None], base + more, 0)


def held_types(job: TrainingJob, rows: TrainingLayouts, layers: Ints) -> Floats:
    """Layers of each type on each stage [n, P, T], chunk by chunk in the model's order."""
    model = job.model
    kinds = list(model.layer_types)
    if len(kinds) == 1:
        return layers[:, :, None].astype(np.float64)
    sizes = chunk_sizes(layers, rows.pp, rows.vp)
    ends = np.minimum(np.cumsum(sizes, axis=1), model.num_layers)
    starts = np.concatenate([np.zeros((len(rows), 1), dtype=np.int64), ends[:, :-1]], axis=1)
    stage = np.arange(sizes.shape[1])[None, :] % rows.pp[:, None]
    cell = (np.arange(len(rows))[:, None] * layers.shape[1] + stage).ravel()
    found = np.zeros((len(rows), layers.shape[1], len(kinds)))
    for index, name in enumerate(kinds):
        here = np.array([each == name for each in model.layer_names], dtype=np.int64)
        before = np.concatenate([[0], np.cumsum(here)])
        inside = (before[ends] - before[starts]).ravel()
        total = np.bincount(cell, weights=inside, minlength=len(rows) * layers.shape[1])
        found[:, :, index] = total.reshape(len(rows), layers.shape[1])
    return found


@dataclass
class _Shape:
    """What every stage of every row has beside its layers, and what a mean layer adds."""

    layers: int
    exists: Flags  # [n, P]
    ends_s: Floats  # [n, P]
    mean_s: Floats  # [n]
    fixed_bytes: Floats  # [n, P]
    layer_bytes: Floats  # [n, P]
    least: Ints  # [n, P] layers that a stage must hold

    @classmethod
    def of(
        cls, job: TrainingJob, rows: TrainingLayouts, prices: RowPrices, flight: Floats
    ) -> _Shape:
        stage = np.arange(flight.shape[1])[None, :]
        exists = stage < rows.pp[:, None]
        first, last = stage == 0, stage == rows.pp[:, None] - 1
        ends_s = first * prices.first["both_s"][:, None] + last * prices.last["both_s"][:, None]
        working = sum(prices.layer[name].max(axis=1) for name in ("working", "gathered"))
        behind = prices.last["resident"] + prices.last["logits"]
        fixed = (prices.around + working)[:, None] + first * prices.first["resident"][:, None]
        fixed = fixed + last * (behind[:, None] + flight * prices.last["kept"][:, None])
        names = job.model.layer_names
        share = np.array([names.count(name) for name in job.model.layer_types]) / len(names)
        layer = (prices.layer["resident"] @ share)[:, None]
        layer = layer + flight * (prices.layer["kept"] @ share)[:, None]
        spare = (first | last) & (rows.pp[:, None] > 1)
        least = np.where(exists, rows.vp[:, None] - spare, 0)
        mean_s = prices.layer["both_s"] @ share
        return cls(job.model.num_layers, exists, ends_s, mean_s, fixed, layer, least)

    def take(self, rows: Ints) -> _Shape:
        names = ("exists", "ends_s", "mean_s", "fixed_bytes", "layer_bytes", "least")
        most = int(self.exists[rows].sum(axis=1).max(initial=1))
        columns = [getattr(self, name)[rows] for name in names]
        return _Shape(self.layers, *(each[:, :most] if each.ndim > 1 else each for each in columns))

    def caps(self, limit_bytes: float) -> Ints:
        """Mean layers that each stage's memory holds; 0 where that is less than it must hold."""
        many = np.floor((limit_bytes - self.fixed_bytes) / self.layer_bytes)
        many = np.clip(many, 0, self.layers).astype(np.int64)
        short = np.any(self.exists & (many < self.least), axis=1, keepdims=True)
        found: Ints = np.where(self.exists & ~short, many, 0)
        return found

    def even(self) -> Ints:
        """Layers dealt evenly, but no stage less than it must hold."""
        stages = self.exists.sum(axis=1)[:, None]
        stage = np.arange(self.exists.shape[1])[None, :]
        dealt = self.layers // stages + (stage < self.layers % stages)
        return self._trimmed(np.where(self.exists, np.maximum(dealt, self.least), 0))

    def fill(self, caps: Ints) -> Ints:
        """Layers of each stage at the least time at which all stages together have room."""
        caps = caps[:, : self.exists.shape[1]]
        mean = self.mean_s[:, None]
        whole = self.mean_s * self.layers + self.ends_s.sum(axis=1)
        low = whole / self.exists.sum(axis=1)
        near = low + 2 * self.mean_s + self.ends_s.max(axis=1)

        def room(time: Floats) -> Ints:
            many = np.floor((time[:, None] - self.ends_s) / mean + 1e-9).astype(np.int64)
            return np.where(self.exists, np.minimum(np.maximum(many, self.least), caps), 0)

        def enough(time: Floats) -> Flags:
            found: Flags = room(time).sum(axis=1) >= self.layers
            return found

        high = np.where(enough(low), low, np.where(enough(near), near, whole))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            reached = enough(middle)
            high, low = np.where(reached, middle, high), np.where(reached, low, middle)
        return self._trimmed(room(high))

    def _trimmed(self, layers: Ints) -> Ints:
        """One layer less a stage, from the first on, until none is too many."""
        while ((surplus := layers.sum(axis=1) - self.layers) > 0).any():
            spare = (layers > self.least) & self.exists
            taken = spare & (np.cumsum(spare, axis=1) <= surplus[:, None])
            if not taken.any():
                break
            layers = layers - taken
        return layers
