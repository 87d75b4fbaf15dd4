"""The choices beside the degrees, as columns: sequences, prefill chunk, micro-batches, replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

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

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        return cls(
            **{
                column.name: np.concatenate([getattr(part, column.name) for part in parts])
                for column in fields(cls)
            }
        )


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
    num_gpus: int | Ints,
    replicas: int | None = None,
) -> Rows:
    """Every candidate of the space: layouts x replicas x sequences x micro-batches x chunk, in this
    order; num_gpus: those there are, for all layouts or for each. With `replicas` given that number
    is judged, whether or not there are GPUs for it."""
    room = num_gpus // layouts.gpus_per_replica
    if replicas is not None:
        room = np.full(len(layouts), replicas)
    total = workload.batch if isinstance(workload, ForwardWorkload) else workload.concurrency
    rows = _free(room, replicas) if total is None else _shared(layouts.dp, total, room, replicas)
    return _chunked(_micro_batched(rows, layouts.pp), workload)


def _free(room: Ints, replicas: int | None) -> Rows:
    """Any number of sequences in any number of replicas that there is room for."""
    grid = sequence_grid(MAX_SEQUENCES)
    layout = np.repeat(np.arange(len(room)), len(grid))
    most, one = room[layout], np.ones_like(layout)
    sequences = np.tile(grid, len(room))
    return Rows(layout, sequences, one, one, one if replicas is None else most, most)


def _shared(dp: Ints, total: int, room: Ints, replicas: int | None) -> Rows:
    """A fixed load over replicas x dp ranks; the fullest rank's share decides."""
    grid = share_grid(total)[::-1]  # so that replicas ascend
    layout = np.repeat(np.arange(len(dp)), len(grid))
    ranks = dp[layout]
    count = -(-total // (np.tile(grid, len(dp)) * ranks))
    if replicas is not None:
        count = np.full_like(layout, replicas)
    keep = count <= room[layout]
    keep[1:] &= (count[1:] != count[:-1]) | (layout[1:] != layout[:-1])
    layout, count = layout[keep], count[keep]
    sequences = -(-total // (count * ranks[keep]))
    one = np.ones_like(layout)
    return Rows(layout, sequences, one, one, count, count)


def _micro_batched(rows: Rows, pp: Ints) -> Rows:
    """1, pp, 2 pp and 4 pp micro-batches, and one a sequence, where there are stages to fill."""
    stages, sequences = pp[rows.layout], rows.sequences
    staged = stages > 1
    doubled = np.zeros_like(sequences)
    for times in (1, 2, 4):
        doubled += staged & (times * stages <= sequences)
    single = staged & (sequences > 1) & (sequences % stages > 0) & (sequences < 4 * stages)
    counts = 1 + doubled + single
    origin = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(len(origin)) - (np.cumsum(counts) - counts)[origin]
    filled = stages[origin] << np.maximum(place - 1, 0)
    micro = np.where(place <= doubled[origin], filled, sequences[origin])
    return replace(rows.take(origin), micro_batches=np.where(place == 0, 1, micro))


def _chunked(rows: Rows, workload: ForwardWorkload | ServingWorkload) -> Rows:
    """Every prefill chunk below the tokens of a prompt, and the next one above."""
    if isinstance(workload, ForwardWorkload):
        return replace(rows, chunk=np.zeros_like(rows.layout))
    fresh = workload.input_len - workload.prefix_len
    useful = {chunk for chunk in CHUNKS if chunk < fresh}
    useful.add(next((chunk for chunk in CHUNKS if chunk >= fresh), CHUNKS[-1]))
    repeated = {
        column.name: np.repeat(getattr(rows, column.name), len(useful)) for column in fields(rows)
    }
    return Rows(**{**repeated, "chunk": np.tile(np.array(sorted(useful)), len(rows))})
