"""Where memory binds: the rows that layers chosen one by one may still make the best.

A row whose bound is above the best step so far cannot beat it. The bound with fractions of layers
prunes first; CP-SAT solves what is left, the best bound first, until the next bound is above the
best step, which each answer may lower.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from optimizer.cost.training.layouts import NOTHING, Floats, TrainingLayouts
from optimizer.layout import Ints
from optimizer.search.sifting import JOINT
from optimizer.search.training.bounds import least_step
from optimizer.search.training.candidates import TrainingCandidates, candidates_of
from optimizer.search.training.choices import blocks_of
from optimizer.search.training.fractions import fraction_bound_s
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.joint import solve_row
from optimizer.search.training.prices import PriceTable
from optimizer.search.training.skyline import Skyline

MOST_SOLVED = 16  # rows; where more are left, their bound is what the proof says
SAME = 1e-9


class Binding(NamedTuple):
    """Rows whose memory forbids to recompute nothing, and their layouts."""

    rows: TrainingLayouts
    origin: Ints


def refined(
    job: TrainingJob,
    index: int,
    binding: list[Binding],
    skyline: Skyline,
    keys: Ints,
    gpus: Ints,
) -> TrainingCandidates:
    """The rows that the joint model makes better than what is reached; `keys` and `gpus` are of the
    layouts. Counts of its work are in `settled`."""
    rows, origin = _within_reach(job, binding, skyline)
    bound = np.zeros(len(rows))
    for start, end in blocks_of(rows.pp):
        some = rows.take(slice(start, end))
        bound[start:end] = fraction_bound_s(job, some, PriceTable(job, some), np.arange(len(some)))
    told = {"within reach": len(rows), "bounded": 0, "solved": 0, "better": 0, "unproven": 0}
    found, steps, memory, counts = [], [], [], []
    order = np.argsort(bound, kind="stable")
    for place, at in enumerate(order.tolist()):
        reach = skyline.best()
        if bound[at] > reach or not np.isfinite(bound[at]):
            told["bounded"] += len(order) - place
            break
        if told["solved"] == MOST_SOLVED:
            told["unproven"] += len(order) - place
            break
        solved = solve_row(job, rows.take(np.array([at])), reach)
        told["solved"] += 1
        told["unproven"] += not solved.proven
        if solved.chosen is None or solved.step_s > reach * (1 - SAME):
            continue
        told["better"] += 1
        found.append(at)
        steps.append(solved.step_s)
        memory.append(solved.memory_bytes)
        counts.append(solved.chosen)
        own = np.array([origin[at]])
        skyline.add(keys[own], gpus[own], np.array([solved.step_s]))
    chosen = np.array(found, dtype=np.int64)
    objects = np.empty(len(found), dtype=object)
    objects[:] = counts
    zero = np.zeros(len(found), dtype=np.int64)
    part = candidates_of(
        job, index, rows.take(chosen), zero, np.array(steps), np.array(memory), objects
    )
    marked = {f"{JOINT}{name}": many for name, many in told.items()}
    return replace(part, origin=origin[chosen], settled=marked)


def _within_reach(
    job: TrainingJob, binding: list[Binding], skyline: Skyline
) -> tuple[TrainingLayouts, Ints]:
    """The rows whose even bound is no more than the best step."""
    empty = TrainingLayouts.of(1, 0), np.zeros(0, dtype=np.int64)
    parts = [each for each in binding if len(each.rows)]
    if not parts:
        return empty
    rows = TrainingLayouts.concatenate([each.rows for each in parts])
    origin = np.concatenate([each.origin for each in parts])
    prices = PriceTable(job, rows).prices(rows, np.arange(len(rows)), NOTHING)
    bound: Floats = least_step(job, rows, prices)
    near = np.flatnonzero(bound <= skyline.best())
    near = near[np.argsort(rows.pp[near], kind="stable")]
    return rows.take(near), origin[near]
