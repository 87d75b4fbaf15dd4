"""The choices beside the degrees, as columns: sequences, prefill chunk, micro-batches, replicas."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints, Layouts
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

MAX_SEQUENCES = 1024  # of one attention rank in flight: the engines' usual --max-num-seqs ceiling
CHUNKS = (2048, 4096, 8192, 16384)  # prefill tokens of one attention rank and step


@dataclass(frozen=True)
class Rows:
    """n candidates: a row of `layouts` each, and what was chosen beside its degrees.

    sequences: of the fullest attention rank; chunk: prefill tokens a step (serving) ; replicas run
    from replicas_min to replicas_max.
    """

    layout: Ints
    sequences: Ints
    chunk: Ints
    micro_batches: Ints
    replicas_min: Ints
    replicas_max: Ints

    def __len__(self) -> int:
        return len(self.layout)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
        return Rows(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def sequence_grid(most: int) -> Ints:
    """1 ... 16, then eight steps an octave, and `most` itself."""
    grid = set(range(1, min(most, 16) + 1)) | {most}
    step = 2
    while 8 * step < most:
        grid |= set(range(8 * step, min(16 * step, most) + 1, step))
        step *= 2
    return np.array(sorted(grid), dtype=np.int64)


def share_grid(total: int, most: int = 96) -> Ints:
    """The values of ceil(total / n) over all n, thinned to about `most` by equal ratios."""
    parts = np.arange(1, int(total**0.5) + 2)
    values = np.unique(np.r_[parts[parts <= total], -(-total // parts), total])
    if len(values) > most:
        wanted = np.geomspace(1, total, most)
        values = np.unique(values[np.searchsorted(values, wanted).clip(max=len(values) - 1)])
    return values.astype(np.int64)


def expand(
    layouts: Layouts,
    workload: ForwardWorkload | ServingWorkload,
    num_gpus: int,
    replicas: int | None = None,
) -> Rows:
    """Every candidate of the space: layouts x sequences x chunk x micro-batches x replicas.

    With `replicas` given that number is judged, whether or not there are GPUs for it.
    """
    total = workload.batch if isinstance(workload, ForwardWorkload) else workload.concurrency
    grid = sequence_grid(MAX_SEQUENCES) if total is None else share_grid(total)
    layout = np.repeat(np.arange(len(layouts)), len(grid))
    sequences = np.tile(grid, len(layouts))
    room = num_gpus // layouts.gpus_per_replica[layout]
    if replicas is not None:
        room = np.full_like(layout, replicas)
    replicas_min = np.ones_like(layout) if replicas is None else room
    replicas_max = room
    if total is not None:
        dp = layouts.dp[layout]
        if replicas is None:
            replicas_min = -(-total // (sequences * dp))
        sequences = -(-total // (replicas_min * dp))
        keep = replicas_min <= room
        key = np.stack([layout[keep], replicas_min[keep], sequences[keep]])
        layout, replicas_min, sequences = np.unique(key, axis=1)
        replicas_max = replicas_min
    rows = Rows(
        layout,
        sequences,
        np.zeros_like(layout),
        np.ones_like(layout),
        replicas_min,
        replicas_max,
    )
    rows = _micro_batched(rows, layouts)
    return _chunked(rows, workload)


def _micro_batched(rows: Rows, layouts: Layouts) -> Rows:
    """1, pp, 2 pp and 4 pp micro-batches, and one a sequence, where there are stages to fill."""
    pp = layouts.pp[rows.layout]
    parts = [rows]
    for times in (1, 2, 4):
        count = times * pp
        chosen = (pp > 1) & (count <= rows.sequences)
        parts.append(_with(rows.take(chosen), micro_batches=count[chosen]))
    single = (pp > 1) & (rows.sequences > 1) & (rows.sequences % pp > 0) & (rows.sequences < 4 * pp)
    parts.append(_with(rows.take(single), micro_batches=rows.sequences[single]))
    return _joined(parts)


def _chunked(rows: Rows, workload: ForwardWorkload | ServingWorkload) -> Rows:
    if isinstance(workload, ForwardWorkload):
        return rows
    fresh = workload.input_len - workload.prefix_len
    useful = [chunk for chunk in CHUNKS if chunk < fresh]
    useful += [next((chunk for chunk in CHUNKS if chunk >= fresh), CHUNKS[-1])]
    parts = []
    for chunk in sorted(set(useful)):
        parts.append(_with(rows, chunk=np.full_like(rows.layout, chunk)))
    return _joined(parts)


def _with(rows: Rows, **changed: Ints) -> Rows:
    kept = {column.name: getattr(rows, column.name) for column in fields(rows)}
    return Rows(**{**kept, **changed})


def _joined(parts: list[Rows]) -> Rows:
    return Rows(
        **{
            column.name: np.concatenate([getattr(part, column.name) for part in parts])
            for column in fields(Rows)
        }
    )
