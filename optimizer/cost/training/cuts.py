"""One layout's stages cut by hand or by a solver: layers and recomputation chosen per stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.cost.training.layouts import Floats, TrainingLayouts
from optimizer.cost.training.memory import LayerBytes, in_flight
from optimizer.cost.training.pieces import PARTS, Piece
from optimizer.cost.training.price import Priced, price
from optimizer.cost.training.rates import Rates
from optimizer.cost.training.stage_memory import (
    Memory,
    StageBytes,
    peak_of,
    working_parts,
)
from optimizer.cost.training.step import Stages, Step, finished, one_table_less
from optimizer.cost.training.work import Job
from optimizer.layout import Ints
from optimizer.spec.model import ModelSpec


@dataclass(frozen=True)
class CutPieces:
    """One layout under each of `modes` (recompute bits): row i of every column is mode i.

    priced.pieces.layers[t] and priced.memory_pieces.layers[t] are one layer of type t (order of the
    model's layer_types): forward_s, backward_s, weight_gradient_s; resident and optimizer (no mode
    changes them), kept and working bytes. priced.pieces.head, .embedding and .mtp, and
    priced.memory_pieces.table_* and logits, are the ends'.
    """

    modes: tuple[int, ...]
    layouts: TrainingLayouts
    priced: Priced

    def flight(self, stage: int) -> float:
        """Micro-batches whose activations a stage keeps at once."""
        return float(in_flight(self.layouts, float(stage))[0])


@dataclass(frozen=True)
class PricedCut:
    """Step and memory of one cut [1]; memory.stages by stage number; stage_s: one micro-batch."""

    step: Step
    memory: Memory
    stage_s: Floats


def cut_pieces(
    model: ModelSpec, layout: TrainingLayouts, rates: Rates, job: Job, modes: tuple[int, ...]
) -> CutPieces:
    """The pieces of one layout (a single row) under each recompute mode."""
    rows = layout.take(np.zeros(len(modes), dtype=np.int64))
    columns = {**vars(rows), "recompute": np.array(modes), "recompute_share": np.ones(len(modes))}
    layouts = TrainingLayouts(**columns)
    return CutPieces(modes, layouts, price(model, layouts, rates, job))


def price_cut(pieces: CutPieces, counts: Ints, rates: Rates, mtp_mode: int = 0) -> PricedCut:
    """Step and memory with counts[stage, type, mode] layers; the embedding stands on stage 0, the
    head and MTP layers (recomputed as modes[mtp_mode]) on the last."""
    seconds, one = pieces.priced.pieces, np.array([mtp_mode])
    layout = pieces.layouts.take(one)

    def stages(name: str) -> Floats:
        layers = np.stack([getattr(layer, name) for layer in seconds.layers])
        found: Floats = np.einsum("stm,tm->s", counts.astype(np.float64), layers)
        found[0] += getattr(seconds.embedding, name)[mtp_mode]
        found[-1] += getattr(seconds.head, name)[mtp_mode] + getattr(seconds.mtp, name)[mtp_mode]
        return found

    both, weights = stages("forward_s") + stages("backward_s"), stages("weight_gradient_s")
    slowest = int(both.argmax())
    dense, experts = stages("dense_parameters"), stages("expert_parameters")
    tied = one_table_less(seconds, pieces.layouts)[one]
    ends = (seconds.head, seconds.embedding, seconds.mtp)
    mix = {part: np.array([_spent(seconds.layers, ends, counts, part, mtp_mode)]) for part in PARTS}
    step = finished(
        Stages(
            both[[slowest]],
            both.sum(keepdims=True),
            weights[[slowest]],
            weights.sum(keepdims=True),
            dense.max(keepdims=True) - tied,
            experts.max(keepdims=True),
            mix,
        ),
        seconds.lowered.take(one),
        layout,
        rates,
    )
    return PricedCut(step, _memory(pieces, counts, rates, layout, mtp_mode), both)


def _spent(
    layers: tuple[Piece, ...], ends: tuple[Piece, ...], counts: Ints, part: str, mode: int
) -> float:
    work = np.stack([layer.parts[part] for layer in layers])
    inner = float((counts.sum(axis=0) * work).sum())
    return inner + sum(float(end.parts[part][mode]) for end in ends)


def _memory(
    pieces: CutPieces, counts: Ints, rates: Rates, layout: TrainingLayouts, mtp_mode: int
) -> Memory:
    held, one = pieces.priced.memory_pieces, np.array([mtp_mode])
    row = held.take(one)
    found = {}
    for stage, chosen in enumerate(counts.astype(np.float64)):
        first, last = stage == 0, stage == len(counts) - 1
        tables = float(first + last) - (float(held.tied) if first and last else 0.0)
        mtp = float(held.mtp_layers) if last else 0.0

        def layers(name: str, chosen: Floats = chosen, mtp: float = mtp) -> Floats:
            columns = np.stack([getattr(layer, name) for layer in held.layers])
            extra = mtp * columns[held.last, mtp_mode]
            return np.array([(chosen * columns).sum() + extra])

        def largest(name: str, chosen: Floats = chosen) -> Floats:
            columns = np.stack([getattr(layer, name) for layer in held.layers])
            return np.array([np.where(chosen > 0, columns, 0.0).max(initial=0.0)])

        layer = LayerBytes(
            1.0, *(largest(x) for x in ("resident", "optimizer", "kept", "working", "gathered"))
        )
        parts = {
            "weights_and_gradients": layers("resident") + tables * row.table_resident,
            "optimizer": layers("optimizer") + tables * row.table_optimizer,
            "activations": rates.kept * layers("kept") * pieces.flight(stage),
            **working_parts(row, layer, layout, rates, float(last)),
        }
        found[str(stage)] = StageBytes(parts)
    return peak_of(found, rates)
