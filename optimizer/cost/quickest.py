"""Layers on two pools: every number of them in the first is tried on every candidate.

Of candidates of one layout and load, which take the same GPUs, the quickest that keeps every limit
is at least as good as the others in all that is compared: it alone is handed on, the others count
as dominated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.cost.correcting import Factors
from optimizer.cost.factoring import representatives
from optimizer.cost.price import Step
from optimizer.cost.rows import Rows
from optimizer.cost.spanning import Spanning, Tables, priced_at, tables_of
from optimizer.layout import Ints, Split
from optimizer.operators import Floats
from optimizer.spec.workload import ForwardWorkload

BLOCK = 1 << 12  # candidates whose every number of layers is looked at at once
PRICED = 1 << 17  # candidates with a number of layers that are priced at once


class _Tried(NamedTuple):
    """Rows with so many layers in the first pool: latencies, and whether every limit is kept."""

    row: Ints
    layers: Ints
    latency_s: Floats
    keeps: NDArray[np.bool_]


def price_spanning(job: Spanning, rows: Rows, split: Split) -> Candidates:
    """The best number of layers in the first pool for every layout and load; `settled` counts the
    rows that are not here."""
    tables = tables_of(job, rows, split)
    over = tables.least_over[tables.point] + tables.working
    feasible = np.flatnonzero(over <= 0)
    row, layers = _quickest(job, rows, split, tables, feasible)
    hopeless = _nearest(rows, over)
    least = tables.roomiest[tables.point[hopeless]]
    found = priced_at(job, rows, split, tables, np.r_[row, hopeless], np.r_[layers, least])
    settled = {
        "dominated": len(feasible) - len(row),
        "memory": len(rows) - len(feasible) - len(hopeless),
    }
    return replace(found, settled={name: many for name, many in settled.items() if many})


def _quickest(
    job: Spanning, rows: Rows, split: Split, tables: Tables, feasible: Ints
) -> tuple[Ints, Ints]:
    """(rows, layers in the first pool) of the quickest candidate of each layout and load that keeps
    every limit; where none does, of every row at its quickest."""
    load = representatives(rows.layout, rows.sequences, rows.replicas_min)[1]
    tried = [_tried(job, rows, split, tables, feasible, _likely(tables, feasible))]
    row, layers, latency_s, keeps = tried[0]
    best = np.full(load.max(initial=0) + 1, np.inf)
    np.minimum.at(best, load[row[keeps]], latency_s[keeps])
    row, layers = _promising(job, rows, tables, tried[0], best[load[feasible]])
    for at in range(0, len(row), PRICED):
        block = row[at : at + PRICED], layers[at : at + PRICED]
        tried.append(_tried(job, rows, split, tables, *block))
    return _winners(load, _Tried(*map(np.concatenate, zip(*tried, strict=True))))


def _likely(tables: Tables, feasible: Ints) -> Ints:
    """Layers in the first pool where the slowest stage is quickest, or where most memory is left if
    those do not fit."""
    step, own = list(tables.phases.values())[-1]
    point = tables.point[feasible]
    layers = step.slowest_stage_s.argmin(axis=1)[own[feasible]]
    late = tables.over[point, layers] + tables.working[feasible] > 0
    found: Ints = np.where(late, tables.roomiest[point], layers)
    return found


def _promising(
    job: Spanning, rows: Rows, tables: Tables, tried: _Tried, quickest_s: Floats
) -> tuple[Ints, Ints]:
    """(rows, layers) of all others that fit and that are not surely slower than `quickest_s`."""
    least = {
        phase: (Step(*(table.min(axis=1, keepdims=True) for table in step)), point)
        for phase, (step, point) in tables.phases.items()
    }
    bound = _bound(job, rows, tables.correction, least, tried.row)[:, 0]
    some = np.flatnonzero(bound < quickest_s)
    found = [(some[:0], some[:0])]
    for at in range(0, len(some), BLOCK):
        few = some[at : at + BLOCK]
        row = tried.row[few]
        able = tables.over[tables.point[row]] <= -tables.working[row, None]
        bound = _bound(job, rows, tables.correction, tables.phases, row)
        able &= bound < quickest_s[few, None]
        able[np.arange(len(few)), tried.layers[few]] = False
        place, layers = np.nonzero(able)
        found.append((row[place], layers))
    rows_of, layers_of = zip(*found, strict=True)
    return np.concatenate(rows_of), np.concatenate(layers_of)


def _bound(
    job: Spanning,
    rows: Rows,
    drawn: Factors,
    phases: Mapping[str, tuple[Step, Ints]],
    row: Ints,
) -> Floats:
    """What no candidate is quicker than: the steps that each request waits for [rows, n]."""
    workload, micro = job.workload, rows.micro_batches[row, None]
    steps = {
        phase: Step(*(table[point[row]] for table in step))
        for phase, (step, point) in phases.items()
    }
    prefill = steps["prefill"]
    if isinstance(workload, ForwardWorkload):
        latency: Floats = prefill.total_s + (micro - 1) * prefill.slowest_stage_s
        return latency
    around = np.maximum(steps["decode"].total_s, micro * steps["decode"].slowest_stage_s)
    around *= (workload.output_len - 1) * drawn.tpot[row, None]
    around += drawn.ttft[row, None] * prefill.total_s
    return around


def _winners(load: Ints, tried: _Tried) -> tuple[Ints, Ints]:
    """(rows, layers) of the quickest of each load that keeps every limit, else of each row."""
    own = load[tried.row]
    kept = np.zeros(len(load), dtype=bool)
    kept[own[tried.keeps]] = True
    some = np.flatnonzero(tried.keeps | ~kept[own])
    key = np.where(tried.keeps, own, len(load) + tried.row)[some]
    order = np.argsort(tried.latency_s[some], kind="stable")
    order = order[np.argsort(key[order], kind="stable")]
    winners = some[order[np.diff(key[order], prepend=-1) != 0]]
    winners = winners[np.argsort(tried.row[winners], kind="stable")]
    return tried.row[winners], tried.layers[winners]


def _tried(
    job: Spanning, rows: Rows, split: Split, tables: Tables, row: Ints, layers: Ints
) -> _Tried:
    found = priced_at(job, rows, split, tables, row, layers)
    return _Tried(row, layers, found.latency_s, found.broken() == 0)


def _nearest(rows: Rows, over: Floats) -> Ints:
    """Of each layout that never fits, the row that lacks least memory."""
    order = np.lexsort((over, rows.layout))
    first = order[np.diff(rows.layout[order], prepend=-1) != 0]
    found: Ints = first[over[first] > 0]
    return found
