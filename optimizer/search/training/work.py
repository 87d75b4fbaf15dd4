"""The small tables of a training plan: seconds of layers and chunks, sends, and what runs once a
step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from optimizer.cost.training.layouts import TrainingLayouts
from optimizer.cost.training.links import group_size, ring_s, send_s
from optimizer.cost.training.pieces import Piece
from optimizer.plan import ChunkWork, LayerWork, StepCollective
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.stages import Staged

EMBEDDING, HEAD, MTP = "embedding", "head", "mtp"
Kind = Literal["reduce_scatter", "all_gather", "all_reduce"]
Axis = Literal["dp", "edp"]


def layer_works(job: TrainingJob, cut: Staged) -> tuple[LayerWork, ...]:
    """One layer of each type and mode that the plan uses, and the ends."""
    pieces, held = cut.pieces.priced.pieces, cut.pieces.priced.memory_pieces
    used = cut.counts.sum(axis=0)
    found = []
    for kind, name in enumerate(job.model.layer_types):
        for mode, label in enumerate(cut.mode_names):
            if used[kind, mode]:
                kept = float(held.layers[kind].kept[mode] * np.max(job.rates.kept))
                found.append(_work(name, label, pieces.layers[kind], mode, kept))
    found.append(_work(EMBEDDING, "none", pieces.embedding, 0, 0.0))
    if job.step.mtp_layers:
        mode = cut.mode_names.index(cut.mtp_mode)
        copied = held.layers[held.last].kept[mode] * np.max(job.rates.kept)
        kept = float(copied * job.step.mtp_layers)
        found.append(_work(MTP, cut.mtp_mode, pieces.mtp, mode, kept))
    found.append(_work(HEAD, "none", pieces.head, 0, 0.0))
    return tuple(found)


def _work(part: str, label: str, piece: Piece, mode: int, kept_bytes: float) -> LayerWork:
    return LayerWork(
        part=part,
        recompute=label,
        forward_s=float(piece.forward_s[mode]),
        backward_s=float(piece.backward_s[mode]),
        weight_gradient_s=float(piece.weight_gradient_s[mode]),
        seconds={name: float(column[mode]) for name, column in piece.parts.items()},
        kept_bytes=kept_bytes,
        dense_parameters=float(piece.dense_parameters[mode]),
        expert_parameters=float(piece.expert_parameters[mode]),
    )


def chunk_works(job: TrainingJob, cut: Staged) -> tuple[ChunkWork, ...]:
    """Seconds of every chunk: its layers, and the ends that lie in it."""
    known = {(work.part, work.recompute): work for work in layer_works(job, cut)}
    last = len(cut.chunk_layers) - 1
    placed = [(0, known[EMBEDDING, "none"]), (last, known[HEAD, "none"])]
    if job.step.mtp_layers:
        placed.append((last, known[MTP, cut.mtp_mode]))
    parts = zip(job.model.layer_names, cut.layer_modes, strict=True)
    placed += [(cut.block_chunk[1 + layer], known[part]) for layer, part in enumerate(parts)]
    found = []
    for chunk in range(last + 1):
        own = [work for place, work in placed if place == chunk]
        blocks = [block for block, place in enumerate(cut.block_chunk) if place == chunk]
        found.append(
            ChunkWork(
                chunk=chunk,
                stage=chunk % len(cut.counts),
                blocks=(blocks[0], blocks[-1] + 1),
                forward_s=sum(work.forward_s for work in own),
                backward_s=sum(work.backward_s for work in own),
                weight_gradient_s=sum(work.weight_gradient_s for work in own),
            )
        )
    return tuple(found)


def send_of(job: TrainingJob, rows: TrainingLayouts, cut: Staged) -> tuple[float, float]:
    """(bytes that a rank hands to the next stage for one micro-batch, seconds of one send)."""
    if int(rows.pp[0]) == 1:
        return 0.0, 0.0
    size = cut.pieces.priced.pieces.lowered.stage_bytes[:1]
    return float(size[0]), float(send_s(rows, job.rates, size)[0])


def collectives_of(
    job: TrainingJob, rows: TrainingLayouts, cut: Staged
) -> tuple[StepCollective, ...]:
    """Gradients out and parameters in, over the fullest stage's parameters on a rank."""
    counts = cut.counts.astype(np.float64)
    pieces = cut.pieces.priced.pieces
    found = []
    parameters: dict[Axis, float] = {
        "dp": float(_fullest(pieces.layers, counts, "dense_parameters")),
        "edp": float(_fullest(pieces.layers, counts, "expert_parameters")),
    }
    for axis, many in parameters.items():
        size = int(group_size(rows, axis)[0])
        if size == 1 or not many:
            continue
        kinds: tuple[tuple[str, Kind, float], ...] = (
            ("gradients", "reduce_scatter", 4.0),
            ("parameters", "all_gather", 2.0),
        )
        for name, kind, width in kinds:
            payload = width * many
            seconds = float(ring_s(rows, job.rates, axis, np.array([payload]))[0])
            found.append(
                StepCollective(
                    name=name,
                    kind=kind,
                    axis=axis,
                    group_size=size,
                    payload_bytes=payload,
                    seconds=seconds,
                )
            )
    return tuple(found)


def _fullest(layers: tuple[Piece, ...], counts: np.ndarray, name: str) -> float:
    columns = np.stack([getattr(layer, name)[: counts.shape[2]] for layer in layers])
    return float(np.einsum("stm,tm->s", counts, columns).max())
