"""Layers on two pools: every number of them in the first is tried on every candidate.

Of candidates of one layout and load, which take the same GPUs, the quickest that keeps every limit
is at least as good as the others in all that is compared: it alone is handed on, the others count
as dominated.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.cost.factoring import representatives
from optimizer.cost.rows import Rows
from optimizer.cost.spanning import Spanning, Tables, priced_at, tables_of
from optimizer.layout import Ints, Split
from optimizer.operators import Floats
from optimizer.spec.workload import ForwardWorkload

BLOCK = 1 << 17  # candidates x numbers of layers that are priced at once


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
    fits = tables.over.min(axis=0)[tables.point] + tables.working <= 0
    feasible = np.flatnonzero(fits)
    row, layers = _quickest(job, rows, split, tables, feasible)
    hopeless = _nearest(rows, tables, fits)
    least = tables.over.argmin(axis=0)[tables.point[hopeless]]
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
    for at in range(0, len(row), BLOCK):
        block = row[at : at + BLOCK], layers[at : at + BLOCK]
        tried.append(_tried(job, rows, split, tables, *block))
    return _winners(load, _Tried(*map(np.concatenate, zip(*tried, strict=True))))


def _likely(tables: Tables, feasible: Ints) -> Ints:
    """Layers in the first pool where the slowest stage is quickest, or where most memory is left if
    those do not fit."""
    step, own = list(tables.phases.values())[-1]
    point = tables.point[feasible]
    layers = step.slowest_stage_s.argmin(axis=0)[own[feasible]]
    late = tables.over[layers, point] + tables.working[feasible] > 0
    found: Ints = np.where(late, tables.over.argmin(axis=0)[point], layers)
    return found


def _promising(
    job: Spanning, rows: Rows, tables: Tables, tried: _Tried, quickest_s: Floats
) -> tuple[Ints, Ints]:
    """(rows, layers) of all others that fit and that are not surely slower than `quickest_s`."""
    bound = _bound(job, rows, tables)
    some = np.flatnonzero(bound(tried.row, lambda table: table.min(axis=0)) < quickest_s)
    row, known, quickest_s = tried.row[some], tried.layers[some], quickest_s[some]
    point, room = tables.point[row], -tables.working[row]
    found = [(row[:0], row[:0])]
    for layers in range(1, job.model.num_layers):
        able = np.flatnonzero((tables.over[layers][point] <= room) & (known != layers))
        least_s = bound(row[able], operator.itemgetter(layers))
        able = able[least_s < quickest_s[able]]
        found.append((row[able], np.full(len(able), layers)))
    rows_of, layers_of = zip(*found, strict=True)
    return np.concatenate(rows_of), np.concatenate(layers_of)


def _winners(load: Ints, tried: _Tried) -> tuple[Ints, Ints]:
    """(rows, layers) of the quickest of each load that keeps every limit, else of each row."""
    own = load[tried.row]
    kept = np.zeros(len(load), dtype=bool)
    kept[own[tried.keeps]] = True
    alone = np.where(kept[own], 0, tried.row + 1)
    order = np.lexsort((tried.layers, tried.row, tried.latency_s, ~tried.keeps, alone, own))
    first = (np.diff(own[order], prepend=-1) != 0) | (np.diff(alone[order], prepend=-1) != 0)
    winners = order[first]
    winners = winners[np.argsort(tried.row[winners], kind="stable")]
    return tried.row[winners], tried.layers[winners]


def _bound(
    job: Spanning, rows: Rows, tables: Tables
) -> Callable[[Ints, Callable[[Floats], Floats]], Floats]:
    """What no candidate is quicker than: the steps that each request waits for, of which `pick`
    takes those of some number of layers in the first pool."""
    workload, (prefill, prompts) = job.workload, tables.phases["prefill"]
    if isinstance(workload, ForwardWorkload):

        def latency(row: Ints, pick: Callable[[Floats], Floats]) -> Floats:
            total, slowest = (pick(table)[prompts[row]] for table in prefill)
            found: Floats = total + (rows.micro_batches[row] - 1) * slowest
            return found

        return latency
    (decode, batches), drawn = tables.phases["decode"], tables.correction
    tokens = workload.output_len - 1

    def request(row: Ints, pick: Callable[[Floats], Floats]) -> Floats:
        total, slowest = (pick(table)[batches[row]] for table in decode)
        around = np.maximum(total, rows.micro_batches[row] * slowest)
        first = pick(prefill.total_s)[prompts[row]]
        found: Floats = drawn.tpot[row] * tokens * around + drawn.ttft[row] * first
        return found

    return request


def _tried(
    job: Spanning, rows: Rows, split: Split, tables: Tables, row: Ints, layers: Ints
) -> _Tried:
    found = priced_at(job, rows, split, tables, row, layers)
    return _Tried(row, layers, found.latency_s, found.broken() == 0)


def _nearest(rows: Rows, tables: Tables, fits: NDArray[np.bool_]) -> Ints:
    """Of each layout that never fits, the row that lacks least memory."""
    ever = np.zeros(rows.layout.max(initial=0) + 1, dtype=bool)
    ever[rows.layout[fits]] = True
    lacking = np.flatnonzero(~ever[rows.layout])
    over = tables.over.min(axis=0)[tables.point[lacking]] + tables.working[lacking]
    order = np.lexsort((over, rows.layout[lacking]))
    first = np.diff(rows.layout[lacking][order], prepend=-1) != 0
    found: Ints = lacking[order[first]]
    return found
