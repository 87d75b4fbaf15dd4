"""One candidate's stages spelled out: layers, types and recomputation of every chunk, priced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.cost.training.cuts import CutPieces, PricedCut, cut_pieces, price_cut
from optimizer.cost.training.layouts import TrainingLayouts
from optimizer.layout import Ints
from optimizer.search.training.cutting import chunk_sizes, cut_rows
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import row_prices


@dataclass(frozen=True)
class Chosen:
    """A cut with recomputation chosen layer by layer: layers of each chunk, and of each chunk and
    type how many recompute by which of `modes` (recompute bits) [chunks, types, modes]."""

    modes: tuple[int, ...]
    by_chunk: Ints
    mtp_mode: int  # place in modes


@dataclass(frozen=True)
class Staged:
    """A cut with its prices: counts [stages, types, modes]."""

    pieces: CutPieces
    priced: PricedCut
    chunk_layers: tuple[int, ...]
    counts: Ints
    mode_names: tuple[str, ...]
    layer_modes: tuple[str, ...]
    mtp_mode: str
    block_chunk: tuple[int, ...]
    stage_bytes: tuple[dict[str, float], ...]
    in_flight: tuple[float, ...]


def staged(job: TrainingJob, row: TrainingLayouts, mode: int, chosen: Chosen | None) -> Staged:
    """The stages of a single row: as chosen layer by layer, else one mode for all."""
    if chosen is None:
        chosen = uniform(job, row, int(mode))
    pp, kinds = int(row.pp[0]), list(job.model.layer_types)
    names = {bits: name for name, bits in job.modes.items()}
    mode_names = tuple(names[bits] for bits in chosen.modes)
    sizes = tuple(int(many) for many in chosen.by_chunk.sum(axis=(1, 2)))
    counts = np.stack([chosen.by_chunk[stage::pp].sum(axis=0) for stage in range(pp)])
    pieces = cut_pieces(job.model, row, job.rates, job.step, chosen.modes)
    priced = price_cut(pieces, counts, job.rates, chosen.mtp_mode)
    modes: list[str] = []
    for chunk, size in enumerate(sizes):
        left = chosen.by_chunk[chunk].copy()
        for layer in range(len(modes), len(modes) + size):
            kind = kinds.index(job.model.layer_names[layer])
            one = int(np.flatnonzero(left[kind])[0])
            left[kind, one] -= 1
            modes.append(mode_names[one])
    last = len(sizes) - 1
    blocks = [0, *(chunk for chunk, size in enumerate(sizes) for _ in range(size))]
    blocks += [last] * (job.step.mtp_layers + 1)
    return Staged(
        pieces,
        priced,
        sizes,
        counts,
        mode_names,
        tuple(modes),
        mode_names[chosen.mtp_mode] if job.step.mtp_layers else "none",
        tuple(blocks),
        tuple(
            {name: float(column[0]) for name, column in stage.parts.items()}
            for stage in priced.memory.stages.values()
        ),
        tuple(pieces.flight(stage) for stage in range(pp)),
    )


def uniform(job: TrainingJob, row: TrainingLayouts, mode: int) -> Chosen:
    """The row's own cut, every layer under one mode."""
    cuts = cut_rows(job, row, row_prices(job, row, mode))
    sizes = chunk_sizes(cuts.layers, row.pp, row.vp)[0]
    kinds = list(job.model.layer_types)
    by_chunk = np.zeros((len(sizes), len(kinds), 1), dtype=np.int64)
    for layer, chunk in enumerate(np.repeat(np.arange(len(sizes)), sizes)):
        by_chunk[chunk, kinds.index(job.model.layer_names[layer]), 0] += 1
    return Chosen((mode,), by_chunk, 0)
