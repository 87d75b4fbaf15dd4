"""What no choice of a layout can beat: bounds on step and memory for each micro-batch size.

The work is spread to the last second over the stages and nothing is recomputed; the schedule waits
as little as its best one does; the fullest stage has no more parameters than the mean. Each of
these is no more than any cut, schedule and recomputation really have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from optimizer.cost.training.layouts import NOTHING, ZERO_BUBBLE, Floats, TrainingLayouts
from optimizer.cost.training.step import bubble_s
from optimizer.layout import Ints, Layouts
from optimizer.search.training.choices import Pairs, expand_plain, interleaves, most_chunks
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import (
    PriceTable,
    RowPrices,
    bound_step,
    even_stages,
    jitter_of,
    layer_counts,
    row_prices,
)

BLOCK = 32_768  # rows bounded at once: columns that stay in the caches


class Bounds(NamedTuple):
    """What the choices of each pair of a layout and a micro-batch size need at least [pairs]."""

    step_s: Floats  # infinite where no memory holds them
    memory_bytes: Floats


def bounds_of(
    job: TrainingJob, layouts: Layouts, pairs: Pairs, table: PriceTable, entry: Ints
) -> Bounds:
    """Bounds of every pair; `entry` is its place in the table of layers."""
    many = len(pairs.owner)
    steps, memory = np.full(many, np.inf), np.full(many, np.inf)
    for start in range(0, many, BLOCK):
        some = np.arange(start, min(start + BLOCK, many))
        rows, pair = expand_plain(job, layouts, pairs.take(some))
        for chosen in (~rows.fully_sharded, rows.fully_sharded):
            few, own = rows.take(chosen), some[pair[chosen]]
            if not len(few):
                continue
            whole = few.fully_sharded[0]
            prices = (
                row_prices(job, few, NOTHING) if whole else table.prices(few, entry[own], NOTHING)
            )
            needed = _least_memory(job, few, prices)
            step = np.where(
                needed <= job.memory_limit_bytes, _best_schedule(job, few, prices), np.inf
            )
            np.minimum.at(steps, own, step)
            np.minimum.at(memory, own, needed)
    return Bounds(steps, memory)


def least_step(job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> Floats:
    """The step with all work spread evenly, under the rows' own schedules."""
    return bound_step(job, rows, prices, even_stages(job, rows, prices))[0]


def _best_schedule(job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> Floats:
    """The even step under whichever schedule waits least, with the sends of the plainest."""
    stages = even_stages(job, rows, prices)
    plain, waits = bound_step(job, rows, prices, stages)
    turns = np.where(interleaves(job, rows.pp, rows.micro_batches), most_chunks(job, rows.pp), 1)
    least = bubble_s(stages, replace(rows, vp=turns))
    if "zero_bubble" in job.workload.schedules:
        filled = replace(rows, schedule=np.full(len(rows), ZERO_BUBBLE))
        least = np.minimum(least, bubble_s(stages, filled))
    spared = np.maximum(waits - least, 0.0)
    found: Floats = plain - spared * job.rates.engine * jitter_of(job, rows)
    return found


def _least_memory(job: TrainingJob, rows: TrainingLayouts, prices: RowPrices) -> Floats:
    """Weights, gradients and optimizer of the mean stage, workspace and context."""
    layers = prices.layer["resident"] @ layer_counts(job)
    ends = prices.first["resident"] + prices.last["resident"]
    found: Floats = (layers + ends) / rows.pp + prices.around
    return found
