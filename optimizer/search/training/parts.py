"""All candidates of a training run, the promising layouts first; bounds settle the others.

Layouts come in the order of their bounds. A part holds the choices of some layouts that are still
in question, each at its fastest recomputation that fits; `settled` counts all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from optimizer.cost.factoring import representatives
from optimizer.cost.training.layouts import NOTHING, Floats, TrainingLayouts
from optimizer.errors import Problem, SpecError
from optimizer.layout import DEGREES, Ints, Layouts, Space
from optimizer.search.room import rooms
from optimizer.search.training.bounds import bounds_of, least_step
from optimizer.search.training.candidates import TrainingCandidates, candidates_of
from optimizer.search.training.choices import (
    Pairs,
    blocks_of,
    count_choices,
    expand,
    pairs_of,
    sequence_parallel,
)
from optimizer.search.training.cutting import cut_rows, roomy_rows
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.prices import PriceTable, row_prices
from optimizer.search.training.refining import Binding, refined
from optimizer.search.training.skyline import Skyline

BATCH = 4096  # layouts of a part
NEAREST = 16  # layouts that are priced where none fits


@dataclass(frozen=True)
class Bounded:
    """One job's layouts, their micro-batches and choices, and what these need at least."""

    layouts: Layouts
    pairs: Pairs
    choices: Ints  # [pairs]
    table: PriceTable
    entry: Ints  # [pairs] of the table
    pair_step_s: Floats  # [pairs] infinite where no memory holds it
    step_s: Floats  # [layouts] the least of its pairs
    memory_bytes: Floats  # [layouts] the least of all


def training_parts(
    jobs: Sequence[TrainingJob],
    spaces: Sequence[Space],
    top: int,
    confidence: float | None = None,
) -> Iterator[TrainingCandidates]:
    """Every candidate of every job; at least one part."""
    if confidence is not None:
        raise SpecError(
            Problem("is for serving and forward passes; leave it out", key="--confidence")
        )
    skylines: dict[int, Skyline] = {}
    for index, job in enumerate(jobs):
        skyline = skylines.setdefault(job.pool, Skyline(top))
        yield from _parts(job, index, bounded(job, spaces[job.pool].layouts), skyline, top)


def bounded(job: TrainingJob, layouts: Layouts) -> Bounded:
    """Bounds of all layouts of a job."""
    pairs = pairs_of(job, layouts)
    choices = count_choices(job, layouts, pairs)
    pairs, choices = pairs.take(choices > 0), choices[choices > 0]
    few, entry = entries_of(job, layouts, pairs)
    table = PriceTable(job, few)
    step, memory = bounds_of(job, layouts, pairs, table, entry)
    least, least_memory = np.full(len(layouts), np.inf), np.full(len(layouts), np.inf)
    np.minimum.at(least, pairs.owner, step)
    np.minimum.at(least_memory, pairs.owner, memory)
    return Bounded(layouts, pairs, choices, table, entry, step, least, least_memory)


def entries_of(job: TrainingJob, layouts: Layouts, pairs: Pairs) -> tuple[TrainingLayouts, Ints]:
    """(a row for each distinct layer that pairs run, the row of each pair)."""
    own = layouts.take(pairs.owner)
    value, _ = sequence_parallel(job, layouts)
    parallel = value[pairs.owner]
    # Of the span only as much matters as the groups of a layer reach.
    span = np.minimum(own.span, np.maximum(own.tp * own.cp, own.etp * own.ep))
    columns = {
        "tp": own.tp,
        "cp": own.cp,
        "ep": own.ep,
        "etp": own.etp,
        "micro_batch": pairs.micro_batch,
        "sequence_parallel": parallel,
        "span": span,
    }
    first, entry = representatives(*columns.values())
    few = {name: column[first] for name, column in columns.items()}
    bits = np.full(len(first), job.bits)
    return TrainingLayouts.of(1, len(first), **few, bits=bits), entry


def _parts(
    job: TrainingJob, index: int, known: Bounded, skyline: Skyline, top: int
) -> Iterator[TrainingCandidates]:
    gpus = known.layouts.gpus_per_replica
    keys = representatives(*(getattr(known.layouts, name) for name in DEGREES))[1]
    able = np.flatnonzero(np.isfinite(known.step_s))
    able = able[np.argsort(known.step_s[able], kind="stable")]
    settled = Counter({"memory": _choices(known, np.flatnonzero(~np.isfinite(known.step_s)))})
    batch = _first_of_each(able, gpus, top)
    found, binding = 0, list[Binding]()
    while len(batch):
        part = _part(job, index, known, batch, skyline.reach(gpus), skyline.best(), binding)
        yield part
        fits = np.flatnonzero((part.broken() == 0) & (rooms(job.cluster, part) > 0))
        skyline.add(keys[part.origin[fits]], gpus[part.origin[fits]], part.latency_s[fits])
        found += len(part)
        able = able[~np.isin(able, batch)]
        beaten = known.step_s[able] > skyline.reach(gpus)[able]
        settled["dominated"] += _choices(known, able[beaten])
        able = able[~beaten]
        batch = able[:BATCH]
    joint = refined(job, index, binding, skyline, keys, gpus)
    found += len(joint)
    yield joint
    rest = _nearest(job, index, known) if not found else _nothing(job, index)
    settled["memory"] -= len(rest)
    yield replace(rest, settled=dict(settled))


def _choices(known: Bounded, layouts: Ints) -> int:
    """All choices of these layouts."""
    chosen = np.zeros(len(known.layouts), dtype=bool)
    chosen[layouts] = True
    return int(known.choices[chosen[known.pairs.owner]].sum())


def _first_of_each(able: Ints, gpus: Ints, many: int) -> Ints:
    """Of layouts in the order of their bounds, the first `many` of each number of GPUs."""
    order = np.argsort(gpus[able], kind="stable")
    grouped = gpus[able][order]
    first = np.searchsorted(grouped, grouped, side="left")
    return able[np.sort(order[np.arange(len(order)) - first < many])]


def _part(
    job: TrainingJob,
    index: int,
    known: Bounded,
    batch: Ints,
    reach: Floats,
    best_s: float,
    binding: list[Binding],
) -> TrainingCandidates:
    """The choices of some layouts whose bounds are within reach, where any mode of them fits."""
    chosen = np.zeros(len(known.layouts), dtype=bool)
    chosen[batch] = True
    here = chosen[known.pairs.owner]
    full = here & ~np.isfinite(known.pair_step_s)
    beaten = here & ~full & (known.pair_step_s > reach[known.pairs.owner])
    wanted = np.flatnonzero(here & ~full & ~beaten)
    rows, pair = expand(job, known.layouts, known.pairs.take(wanted))
    order = np.lexsort((rows.pp, rows.fully_sharded))
    rows, pair = rows.take(order), wanted[pair[order]]
    unfit, parts = int(known.choices[full].sum()), [_nothing(job, index)]
    for start, end in blocks_of(np.where(rows.fully_sharded, -1, rows.pp)):
        block, own = rows.take(slice(start, end)), pair[start:end]
        table, entry = known.table, known.entry[own]
        if block.fully_sharded[0]:  # every row has layers of its own: price those within reach
            near = least_step(job, block, row_prices(job, block, NOTHING))
            close = near <= reach[known.pairs.owner[own]]
            block, own = block.take(close), own[close]
            table, entry = PriceTable(job, block), np.arange(len(block))
        place = known.pairs.owner[own]
        found = _fastest(job, block, reach[place], best_s, table, entry)
        unfit += found.unfit
        binding.append(Binding(block.take(found.binding), place[found.binding]))
        few = candidates_of(
            job, index, block.take(found.rows), found.mode, found.step_s, found.bytes
        )
        parts.append(replace(few, origin=place[found.rows]))
    part = TrainingCandidates.concatenate(parts)
    rest = int(known.choices[here].sum()) - len(part) - unfit
    return replace(part, settled={"memory": unfit, "dominated": rest})


class _Fastest(NamedTuple):
    """Rows that fit, with the recompute bits, step and bytes of their fastest mode; and how many
    other choices of mode do not fit."""

    rows: Ints
    mode: Ints
    step_s: Floats
    bytes: Floats
    unfit: int
    binding: Ints  # rows that memory forbids to recompute nothing, and that may be the best


def _fastest(
    job: TrainingJob,
    rows: TrainingLayouts,
    reach: Floats,
    best_s: float,
    table: PriceTable,
    entry: Ints,
) -> _Fastest:
    """Every mode of the rows that may still be the fastest and within reach. Where a row fits that
    recomputes nothing, no other mode is: they only repeat work."""
    n, limit = len(rows), job.memory_limit_bytes
    mode = np.zeros(n, dtype=np.int64)
    step_s, memory = np.full(n, np.inf), np.full(n, np.inf)
    bound = least_step(job, rows, table.prices(rows, entry, NOTHING))
    open_rows = binding = np.flatnonzero(bound <= reach)
    unfit = 0
    for name, bits in job.modes.items():
        again = (table.work_s(bits) - table.work_s(NOTHING))[entry[open_rows]]
        least = bound[open_rows] + again * (rows.micro_batches / rows.pp)[open_rows]
        few = open_rows[(least <= reach[open_rows]) & (least < step_s[open_rows])]
        some = rows.take(few)
        prices = table.prices(some, entry[few], bits)
        roomy = roomy_rows(job, some, prices)
        unfit += len(few)
        few, some, prices = few[roomy], some.take(roomy), prices.take(roomy)
        if len(few):
            cuts = cut_rows(job, some, prices)
            fits = cuts.memory_bytes <= limit
            unfit -= int(fits.sum())
            better = fits & (cuts.step_s < step_s[few])
            chosen = few[better]
            mode[chosen], step_s[chosen] = bits, cuts.step_s[better]
            memory[chosen] = cuts.memory_bytes[better]
        if name == "none":
            open_rows = binding = open_rows[~np.isfinite(step_s[open_rows])]
        if not len(open_rows):
            break
    binding = binding[bound[binding] <= best_s]
    kept = np.flatnonzero(np.isfinite(step_s))
    return _Fastest(kept, mode[kept], step_s[kept], memory[kept], unfit, binding)


def _nearest(job: TrainingJob, index: int, known: Bounded) -> TrainingCandidates:
    """Where nothing fits: of the layouts that need least, the mode that needs least."""
    layouts = np.argsort(known.memory_bytes, kind="stable")[:NEAREST]
    chosen = np.isin(known.pairs.owner, layouts)
    rows, _ = expand(job, known.layouts, known.pairs.take(chosen))
    best = np.full(len(rows), np.inf)
    step_s, mode = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for bits in job.modes.values():
        cuts = cut_rows(job, rows, row_prices(job, rows, bits))
        less = cuts.memory_bytes < best
        mode = np.where(less, bits, mode)
        step_s = np.where(less, cuts.step_s, step_s)
        best = np.minimum(best, cuts.memory_bytes)
    return candidates_of(job, index, rows, mode, step_s, best)


def _nothing(job: TrainingJob, index: int) -> TrainingCandidates:
    rows = TrainingLayouts.of(1, 0)
    none = np.zeros(0)
    return candidates_of(job, index, rows, none.astype(np.int64), none, none)
