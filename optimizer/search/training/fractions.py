"""A bound on the joint model: whole layers, their recomputation in fractions.

Each stage takes as many layers of the commonest type as its time T and its memory allow when it may
mix two ways to recompute in any proportion (two limits, so no optimum mixes more); the other types
are left out of both. The least T at which all stages together have room is below every cut's.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from optimizer.cost.training.layouts import NOTHING, Floats, TrainingLayouts
from optimizer.cost.training.step import finished
from optimizer.layout import Ints
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import (
    PriceTable,
    even_stages,
    flights,
    layer_counts,
)

HALVINGS = 16


def fraction_bound_s(
    job: TrainingJob, rows: TrainingLayouts, table: PriceTable, entry: Ints
) -> Floats:
    """The least step of each row; infinite where no fractions fit the memory."""
    counts = layer_counts(job)
    kind = int(counts.argmax())
    many = float(counts[kind])
    prices = [table.prices(rows, entry, bits) for bits in job.modes.values()]
    plain = table.prices(rows, entry, NOTHING)
    flight = flights(rows)
    stage = np.arange(flight.shape[1])[None, :]
    exists, last = stage < rows.pp[:, None], stage == rows.pp[:, None] - 1
    fixed = plain.around[:, None] + (stage == 0) * plain.first["resident"][:, None]
    fixed = fixed + last * (plain.last["resident"] + plain.last["logits"])[:, None]
    left = [
        job.memory_limit_bytes - fixed - each.layer["working"][:, kind][:, None] for each in prices
    ]
    ends = (stage == 0) * plain.first["both_s"][:, None] + last * plain.last["both_s"][:, None]
    seconds = [each.layer["both_s"][:, kind][:, None] for each in prices]
    sizes = [
        each.layer["resident"][:, kind][:, None] + each.layer["kept"][:, kind][:, None] * flight
        for each in prices
    ]
    even = even_stages(job, rows, plain)

    def layers(time: Floats) -> Floats:
        """Layers that all stages hold within a time."""
        own = time[:, None] - ends
        best = np.zeros_like(own)
        for second, size, room in zip(seconds, sizes, left, strict=True):
            best = np.maximum(best, np.minimum(own / second, room / size))
        for one, two in combinations(range(len(seconds)), 2):
            cross = seconds[one] * sizes[two] - seconds[two] * sizes[one]
            safe = np.where(cross == 0, 1.0, cross)
            room = np.minimum(left[one], left[two])
            a = (own * sizes[two] - room * seconds[two]) / safe
            b = (room * seconds[one] - own * sizes[one]) / safe
            both = (cross != 0) & (a >= 0) & (b >= 0)
            best = np.where(both, np.maximum(best, a + b), best)
        whole = np.floor(best * (1 + 1e-9))  # of a type so many layers at most
        found: Floats = np.where(exists & (own > 0), np.maximum(whole, 0.0), 0.0).sum(axis=1)
        return found

    low, high = even.slowest_s, even.total_s * 2
    fits = layers(high) >= many
    reached = layers(low) >= many
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = layers(middle) >= many
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    slowest = np.where(reached, even.slowest_s, low)
    stages = replace(even, slowest_s=slowest, total_s=np.maximum(even.total_s, slowest))
    step = finished(stages, plain.lowered, rows, job.rates).step_s
    return np.where(fits, step, np.inf)
