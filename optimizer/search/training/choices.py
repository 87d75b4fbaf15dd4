"""What a layout leaves open: micro-batch, schedule, sharding, sequence parallelism, recompute.

Two choices are settled before anything is priced, because the other side is no worse in every
quantity: sequence parallelism (less to keep, less to move, the same collectives) over none, and the
distributed optimizer (less state, less to update, the same traffic) over whole copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.training.layouts import (
    ONE_F_ONE_B,
    OPTIMIZER,
    PARAMETERS,
    REPLICATED,
    ZERO_BUBBLE,
    TrainingLayouts,
)
from optimizer.layout import Ints, Layouts
from optimizer.search.training.job import TrainingJob

BLOCK = 8_192  # rows that are cut at once
MOST_MICRO_BATCH = 16  # sequences, unless the workload states one
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Layouts x micro-batch sizes that divide a rank's share: `owner` is the layout [n]."""

    owner: Ints
    micro_batch: Ints
    micro_batches: Ints

    def take(self, rows: Ints | Flags) -> Pairs:
        return Pairs(self.owner[rows], self.micro_batch[rows], self.micro_batches[rows])


def micro_batches_of(job: TrainingJob) -> Ints:
    """Sizes of a micro-batch that divide the global batch."""
    workload = job.workload
    if workload.micro_batch is not None:
        return np.array([workload.micro_batch])
    sizes = range(1, min(MOST_MICRO_BATCH, workload.global_batch) + 1)
    return np.array([size for size in sizes if workload.global_batch % size == 0])


def pairs_of(job: TrainingJob, layouts: Layouts) -> Pairs:
    """Every micro-batch size of every layout."""
    sizes = micro_batches_of(job)
    share = job.workload.global_batch // layouts.dp
    owner, which = np.nonzero(share[:, None] % sizes[None, :] == 0)
    return Pairs(owner, sizes[which], share[owner] // sizes[which])


def most_chunks(job: TrainingJob, pp: Ints) -> Ints:
    """The largest vp: every chunk holds a layer, the first may hold the embedding alone and the
    last the head alone."""
    return np.maximum(1, (job.model.num_layers + 2) // pp)


def interleavings(job: TrainingJob, pp: Ints) -> Flags:
    """Whether a stage may have 2, 3, ... chunks [n, most - 1]: all of equal layers, but that the
    ends have one less for the embedding, the head and each predicting layer (Megatron-LM's rule
    without a layout by hand). Replayed, uneven chunks wait for each other at every turn."""
    turns = np.arange(2, int(most_chunks(job, pp).max(initial=1)) + 1)
    missing = -job.model.num_layers % (pp[:, None] * turns)
    fits = turns <= most_chunks(job, pp)[:, None]
    found: Flags = fits & (missing <= 2 + job.step.mtp_layers)
    return found


def interleaves(job: TrainingJob, pp: Ints, micro_batches: Ints) -> Flags:
    """Whether micro-batches come in whole rounds over the stages (Megatron-LM's rule)."""
    allowed = "interleaved" in job.workload.schedules
    found: Flags = (pp > 1) & (micro_batches % pp == 0) & allowed
    return found


def schedule_counts(job: TrainingJob, layouts: Layouts, pairs: Pairs) -> tuple[Flags, Flags, Ints]:
    """For each pair: whether 1F1B, whether zero bubble, and how many values of vp above 1."""
    schedules = job.workload.schedules
    pp = layouts.pp[pairs.owner]
    if job.vp is not None and job.vp > 1:
        able = interleaves(job, pp, pairs.micro_batches) & (job.vp <= most_chunks(job, pp))
        return np.zeros(len(pp), dtype=bool), np.zeros(len(pp), dtype=bool), able.astype(np.int64)
    plain = np.full(len(pp), "1f1b" in schedules) | ((pp == 1) & ("zero_bubble" in schedules))
    filled = (pp > 1) & ("zero_bubble" in schedules) & (job.workload.engine != "megatron")
    depths, depth = np.unique(pp, return_inverse=True)
    ways = interleavings(job, depths).sum(axis=1)[depth]
    rounds = np.where(interleaves(job, pp, pairs.micro_batches), ways, 0)
    if job.vp == 1:
        rounds = np.zeros_like(rounds)
    return plain, filled, rounds


def sequence_parallel(job: TrainingJob, layouts: Layouts) -> tuple[Ints, Ints]:
    """(the value that is priced, -1 where there is none; how many values are allowed) [layouts].

    Megatron-LM trains experts under tensor parallelism with sequence parallelism only.
    """
    wanted = job.workload.sequence_parallel
    split = layouts.tp > 1
    length = job.workload.sequence_length // layouts.cp
    on = split & (length % layouts.tp == 0) & (wanted is not False)
    off = np.where(split, (wanted is not True) & (job.model.moe is None), True)
    return np.where(on, 1, np.where(off, 0, -1)), on.astype(np.int64) + off


def shardings(job: TrainingJob, layouts: Layouts) -> tuple[list[tuple[Ints, Ints, Flags]], Ints]:
    """(what is priced, as (sharding, ranks that share, whether) columns; how many are allowed).

    Parameters are sharded where there is one stage: with several, each would gather its layers
    again for every micro-batch.
    """
    allowed = job.workload.sharding
    ranks = layouts.dp * layouts.cp
    edp = layouts.width // (layouts.ep * layouts.etp) if job.model.moe is not None else ranks
    copies = (ranks > 1) | (edp > 1)
    whole = np.full(len(layouts), "none" in allowed)
    split = copies & ("optimizer" in allowed) | (~copies & ~whole & ("optimizer" in allowed))
    plain = (
        np.where(split, OPTIMIZER, REPLICATED),
        np.where(split, ranks, 1),
        whole | split,
    )
    inside = np.maximum(1, np.minimum(layouts.span // layouts.tp, ranks))
    one_stage = (layouts.pp == 1) & (ranks > 1)
    sharded = one_stage & ("parameters" in allowed)
    hybrid = one_stage & ("hybrid" in allowed) & (inside > 1) & (inside < ranks)
    hybrid &= ranks % inside == 0
    full = np.full(len(layouts), PARAMETERS)
    found = [plain, (full, ranks, sharded), (full, inside, hybrid)]
    return found, whole.astype(np.int64) + split + sharded + hybrid


def count_choices(job: TrainingJob, layouts: Layouts, pairs: Pairs) -> Ints:
    """Choices of each pair, settled ones and recomputation included."""
    plain, filled, rounds = schedule_counts(job, layouts, pairs)
    _, sps = sequence_parallel(job, layouts)
    _, several = shardings(job, layouts)
    ways = plain.astype(np.int64) + filled + rounds
    found: Ints = ways * len(job.modes) * (sps * several)[pairs.owner]
    return found


def expand_plain(job: TrainingJob, layouts: Layouts, pairs: Pairs) -> tuple[TrainingLayouts, Ints]:
    """(every pair under each sharding, 1F1B, nothing recomputed; the pair of each row)."""
    everything = np.arange(len(pairs.owner))
    one = np.ones_like(everything)
    return _rows(job, layouts, pairs, everything, ONE_F_ONE_B * one, one)


def expand(job: TrainingJob, layouts: Layouts, pairs: Pairs) -> tuple[TrainingLayouts, Ints]:
    """(every choice of these pairs but recompute, as columns; the pair of each)."""
    plain, filled, rounds = schedule_counts(job, layouts, pairs)
    count = plain.astype(np.int64) + filled + rounds
    pair = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(pair)) - (np.cumsum(count) - count)[pair]
    first = plain.astype(np.int64)[pair]
    second = first + filled[pair]
    schedule = np.where((place >= first) & (place < second), ZERO_BUBBLE, ONE_F_ONE_B)
    turns = np.full_like(place, job.vp or 1)
    if job.vp is None:
        depths, depth = np.unique(layouts.pp[pairs.owner[pair]], return_inverse=True)
        ordered = np.argsort(~interleavings(job, depths), axis=1, kind="stable") + 2
        if ordered.size:
            turns = ordered[depth, np.clip(place - second, 0, ordered.shape[1] - 1)]
    return _rows(job, layouts, pairs, pair, schedule, np.where(place >= second, turns, 1))


def _rows(
    job: TrainingJob, layouts: Layouts, pairs: Pairs, pair: Ints, schedule: Ints, vp: Ints
) -> tuple[TrainingLayouts, Ints]:
    """Rows of pairs and schedules under each sharding, with their layout's degrees."""
    value, _ = sequence_parallel(job, layouts)
    columns, _ = shardings(job, layouts)
    owner = pairs.owner[pair]
    chosen, sharding, shard = [], [], []
    for kind, ranks, valid in columns:
        held = np.flatnonzero(valid[owner] & (value[owner] >= 0))
        chosen.append(held)
        sharding.append(kind[owner[held]])
        shard.append(ranks[owner[held]])
    which = np.concatenate(chosen)
    pair, owner, n = pair[which], owner[which], len(which)
    own = layouts.take(owner)
    rows = TrainingLayouts(
        tp=own.tp,
        cp=own.cp,
        pp=own.pp,
        vp=vp[which],
        dp=own.dp,
        ep=own.ep,
        etp=own.etp,
        micro_batch=pairs.micro_batch[pair],
        micro_batches=pairs.micro_batches[pair],
        sequence_parallel=value[owner],
        recompute=np.zeros(n, dtype=np.int64),
        recompute_share=np.ones(n),
        sharding=np.concatenate(sharding),
        shard=np.concatenate(shard),
        schedule=schedule[which],
        bits=np.full(n, job.bits),
        span=own.span,
        stages_inside=neighbours_inside(job, own).astype(np.int64),
    )
    return rows, pair


def neighbours_inside(job: TrainingJob, layouts: Layouts) -> Flags:
    """Whether two stages share a domain, so that the send between them stays inside."""
    smallest = min(job.cluster.live_sizes[job.pool])
    found: Flags = 2 * layouts.width <= smallest
    return found


def blocks_of(pp: Ints) -> Iterator[tuple[int, int]]:
    """Stretches of ascending numbers of stages, the last at most 1.5 times the first, for columns
    of stages are as wide as the most."""
    start = 0
    while start < len(pp):
        most = 1.5 * pp[start] if pp[start] > 0 else 0.0
        later = np.flatnonzero((pp[start:] > most) | ((pp[start:] < 0) != (pp[start] < 0)))
        end = start + (int(later[0]) if len(later) else len(pp) - start)
        end = min(end, start + BLOCK)
        yield start, end
        start = end
