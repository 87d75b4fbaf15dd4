"""Pieces onto GPUs, largest first: each goes to the least loaded GPU that has a free slot."""

from __future__ import annotations

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats


def slots_of(counts: Ints) -> Ints:
    """Every expert as often as its count, in order: [rows, experts] -> [rows, slots]."""
    rows, experts = counts.shape
    return np.repeat(np.tile(np.arange(experts), rows), counts.ravel()).reshape(rows, -1)


def count(slot_expert: Ints, experts: int) -> Ints:
    """Copies of each expert: [rows, slots] -> [rows, experts]."""
    rows = len(slot_expert)
    flat = slot_expert + experts * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * experts).reshape(rows, experts)


def gpu_loads(loads: Floats, slot_expert: Ints, gpus: int) -> Floats:
    """Load of each GPU [rows, gpus]; the copies of an expert share its load evenly."""
    pieces = np.take_along_axis(loads / count(slot_expert, loads.shape[1]), slot_expert, axis=1)
    by_gpu: Floats = pieces.reshape(len(loads), gpus, -1).sum(axis=2)
    return by_gpu


def largest_first(loads: Floats, counts: Ints, gpus: int, distinct: bool) -> Ints:
    """Expert of each slot [rows, slots]; GPU g has slots g x S to (g + 1) x S.

    `distinct` forbids two copies of an expert on one GPU; where largest-first runs into a corner,
    that row is dealt out in turn instead, which always works (no count exceeds `gpus`).
    """
    rows = len(loads)
    slot_expert = slots_of(counts)
    pieces = np.take_along_axis(loads / counts, slot_expert, axis=1)
    order = np.argsort(-pieces, axis=1, kind="stable")
    slot_expert = np.take_along_axis(slot_expert, order, axis=1)
    pieces = np.take_along_axis(pieces, order, axis=1)
    per_gpu = slot_expert.shape[1] // gpus

    row = np.arange(rows)
    load = np.zeros((rows, gpus))  # infinite once full
    filled = np.zeros((rows, gpus), dtype=np.int64)
    placed = np.full((rows, per_gpu, gpus), -1)  # this way round `any` below runs along memory
    cornered = np.zeros(rows, dtype=bool)
    for piece, expert in zip(pieces.T, slot_expert.T, strict=True):
        open_load = load
        if distinct:
            open_load = np.where((placed == expert[:, None, None]).any(axis=1), np.inf, load)
        gpu = open_load.argmin(axis=1)
        if distinct:
            stuck = np.isinf(open_load[row, gpu])
            cornered |= stuck
            gpu = np.where(stuck, load.argmin(axis=1), gpu)
        placed[row, filled[row, gpu], gpu] = expert
        filled[row, gpu] += 1
        load[row, gpu] += piece
        load[row, gpu] += np.where(filled[row, gpu] == per_gpu, np.inf, 0.0)
    placed[cornered] = slot_expert[cornered].reshape(-1, per_gpu, gpus)
    return placed.swapaxes(1, 2).reshape(rows, -1)
