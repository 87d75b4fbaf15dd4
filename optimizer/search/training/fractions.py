"""A bound on the joint model: whole layers, their recomputation in fractions.

Each stage takes as many layers of the commonest type as its time T and its memory allow when it may
mix two ways to recompute in any proportion (two limits, so no optimum mixes more); the other types
are left out of both, or all types count as the least of any. The least T at which all stages
together have room is below every cut's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.training.layouts import NOTHING, Floats, TrainingLayouts
from optimizer.cost.training.step import Stages as EvenStages
from optimizer.layout import Ints
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import (
    PriceTable,
    RowPrices,
    bound_step,
    even_stages,
    flights,
    layer_counts,
)

HALVINGS = 16


def fraction_bound_s(
    job: TrainingJob, rows: TrainingLayouts, table: PriceTable, entry: Ints
) -> Floats:
    """The least step of each row; infinite where no fractions fit the memory."""
    plain = table.prices(rows, entry, NOTHING)
    modes = [table.prices(rows, entry, bits) for bits in job.modes.values()]
    even = even_stages(job, rows, plain)
    stages = _Stages.of(job, rows, plain)
    slowest = even.slowest_s
    for count, columns in _relaxed(job, modes):
        slowest = np.maximum(slowest, stages.slowest_s(columns, count, even))
    fits = np.isfinite(slowest)
    slowest = np.where(fits, slowest, even.total_s)
    found = replace(even, slowest_s=slowest, total_s=np.maximum(even.total_s, slowest))
    step, _ = bound_step(job, rows, plain, found)
    return np.where(fits, step, np.inf)


def _relaxed(job: TrainingJob, modes: list[RowPrices]) -> Iterator[tuple[float, list[Layer]]]:
    """(layers, one of them under each mode): the commonest type alone, and all types as one that
    needs the least of any in everything."""
    counts = layer_counts(job)
    names = ("both_s", "resident", "kept", "working")
    kind = int(counts.argmax())
    yield float(counts[kind]), [Layer(*(own.layer[n][:, kind] for n in names)) for own in modes]
    if len(counts) > 1:
        least = [Layer(*(own.layer[n].min(axis=1) for n in names)) for own in modes]
        yield float(counts.sum()), least


class Layer(NamedTuple):
    """One layer of each row under one way to recompute [n]."""

    seconds: Floats
    resident: Floats
    kept: Floats
    working: Floats


class _Stages(NamedTuple):
    """What stages have beside their layers [n, P]."""

    exists: NDArray[np.bool_]
    ends_s: Floats
    left_bytes: Floats
    flight: Floats

    @classmethod
    def of(cls, job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> _Stages:
        flight = flights(rows)
        stage = np.arange(flight.shape[1])[None, :]
        exists, first = stage < rows.pp[:, None], stage == 0
        last = stage == rows.pp[:, None] - 1
        fixed = prices.around[:, None] + first * prices.first["resident"][:, None]
        fixed = fixed + last * (prices.last["resident"] + prices.last["logits"])[:, None]
        ends = first * prices.first["both_s"][:, None] + last * prices.last["both_s"][:, None]
        return cls(exists, ends, job.memory_limit_bytes - fixed, flight)

    def slowest_s(self, modes: list[Layer], many: float, even: EvenStages) -> Floats:
        """The least time at which all stages together have room for so many layers."""
        low, high = even.slowest_s, 2.0 * even.total_s
        fits = self._layers(modes, high) >= many
        reached = self._layers(modes, low) >= many
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = self._layers(modes, middle) >= many
            high, low = np.where(enough, middle, high), np.where(enough, low, middle)
        found: Floats = np.where(reached, even.slowest_s, np.where(fits, low, np.inf))
        return found

    def _layers(self, modes: list[Layer], time: Floats) -> Floats:
        """Whole layers that all stages hold within a time [n]."""
        own = time[:, None] - self.ends_s
        seconds = [mode.seconds[:, None] for mode in modes]
        sizes = [mode.resident[:, None] + mode.kept[:, None] * self.flight for mode in modes]
        left = [self.left_bytes - mode.working[:, None] for mode in modes]
        best = np.zeros_like(own)
        for second, size, room in zip(seconds, sizes, left, strict=True):
            best = np.maximum(best, np.minimum(own / second, room / size))
        for one, two in combinations(range(len(modes)), 2):
            cross = seconds[one] * sizes[two] - seconds[two] * sizes[one]
            safe = np.where(cross == 0, 1.0, cross)
            room = np.minimum(left[one], left[two])
            a = (own * sizes[two] - room * seconds[two]) / safe
            b = (room * seconds[one] - own * sizes[one]) / safe
            both = (cross != 0) & (a >= 0) & (b >= 0)
            best = np.where(both, np.maximum(best, a + b), best)
        whole = np.floor(best * (1 + 1e-9))
        found: Floats = np.where(self.exists & (own > 0), np.maximum(whole, 0.0), 0.0).sum(axis=1)
        return found
