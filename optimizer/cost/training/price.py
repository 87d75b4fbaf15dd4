"""Model, GPUs and n layouts -> seconds and bytes: the front door for searches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.cost.training.layer_seconds import seconds_of
from optimizer.cost.training.layouts import Floats, TrainingLayouts
from optimizer.cost.training.lowering import Job, lower
from optimizer.cost.training.memory import MemoryPieces, activations_of, memory_pieces
from optimizer.cost.training.pieces import Pieces, assembled, layer_piece
from optimizer.cost.training.rates import Rates
from optimizer.cost.training.stage_memory import Memory, memory_of
from optimizer.cost.training.step import Cut, Step, step_of
from optimizer.layout import Ints
from optimizer.spec.model import ModelSpec

BLOCK = 32_768  # layouts priced at once: columns of 256 KB
# What the seconds of one layer's own work depend on; all else is composed row by row.
KEYS = (
    "tp",
    "cp",
    "ep",
    "etp",
    "micro_batch",
    "sequence_parallel",
    "bits",
    "recompute",
    "recompute_share",
    "span",
    "fully_sharded",
)


@dataclass(frozen=True)
class Priced:
    """Columns [n]: step and its parts, memory at the peak, and the pieces that both are made of."""

    step: Step
    memory: Memory
    pieces: Pieces
    memory_pieces: MemoryPieces


def price(
    model: ModelSpec, layouts: TrainingLayouts, rates: Rates, job: Job, cut: Cut = "usual"
) -> Priced:
    """Step seconds and memory of n layouts of one model on one kind of GPU; what one layer costs is
    priced once for each distinct combination of KEYS."""
    first, row_of = distinct(layouts)
    few = layouts.take(first)
    lowered = lower(model, few, job)
    layer_seconds = [seconds_of(layer.works, few, rates, lowered) for layer in lowered.layers]
    head = seconds_of(lowered.head, few, rates, lowered)
    embedding = seconds_of(lowered.embedding, few, rates, lowered)
    whole = lowered.take(row_of)
    layers = tuple(
        layer_piece(layer, seconds.take(row_of), layouts, rates)
        for layer, seconds in zip(whole.layers, layer_seconds, strict=True)
    )
    pieces = assembled(whole, layers, head.take(row_of), embedding.take(row_of))
    activations = activations_of(model, few, rates, job).take(row_of)
    held = memory_pieces(whole, activations, layouts, rates)
    step = step_of(pieces, layouts, rates, cut)
    return Priced(step, memory_of(held, layouts, rates), pieces, held)


def scan(
    model: ModelSpec, layouts: TrainingLayouts, rates: Rates, job: Job, cut: Cut = "usual"
) -> tuple[Floats, Floats]:
    """(step seconds, bytes that must fit a GPU) of any number of layouts, in pieces that stay in
    the caches: about a million layouts a second."""
    step_s, needed = np.empty(len(layouts)), np.empty(len(layouts))
    for start in range(0, len(layouts), BLOCK):
        rows = slice(start, start + BLOCK)
        priced = price(model, layouts.take(rows), rates, job, cut)
        step_s[rows], needed[rows] = priced.step.step_s, priced.memory.needed
    return step_s, needed


def distinct(layouts: TrainingLayouts, names: tuple[str, ...] = KEYS) -> tuple[Ints, Ints]:
    """(the first row of each distinct combination, the combination of each row)."""
    key = np.zeros(len(layouts), dtype=np.int64)
    room = 2**62
    for name in names:
        values, codes = np.unique(getattr(layouts, name), return_inverse=True)
        room //= max(len(values), 1)
        key = key * len(values) + codes
    if room < 1:
        raise OverflowError("too many combinations of degrees for one call; price fewer layouts")
    _, first, row_of = np.unique(key, return_index=True, return_inverse=True)
    return first, row_of
