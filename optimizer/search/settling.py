"""A chosen candidate in full: its cut, its memory and operators, where its stages lie and what that
is worth; in one pool, or over two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.cost.accounting import phase_tables, stage_memory
from optimizer.cost.candidates import Candidates
from optimizer.cost.cuts import settled
from optimizer.cost.job import Job
from optimizer.cost.ordering import ordered
from optimizer.cost.rank_order import usual_order
from optimizer.cost.rows import Rows
from optimizer.cost.shares import cut_of
from optimizer.cost.spanning import Spanning
from optimizer.cost.spanning_accounts import (
    even_split_loss,
    spanning_memory,
    spanning_phases,
    split_of,
    stages_in,
)
from optimizer.cost.stages import even_stages
from optimizer.layout import Layouts, ParallelLayout
from optimizer.plan import Inside, Memory, PhaseTable, PoolShare
from optimizer.search.choosing import Chosen, Ranked
from optimizer.search.objectives import criteria
from optimizer.search.placing import Share


class Settled(NamedTuple):
    """All of a candidate that its placement and its plan are made from; `pool_shares` is None where
    it lies in one pool."""

    shares: tuple[Share, ...]
    pool_shares: tuple[PoolShare, ...] | None
    cut: tuple[int, ...]
    inside: Inside | None
    memory: Memory
    phases: dict[str, PhaseTable]
    notes: tuple[str, ...]


def settle(job: Job | Spanning, ranked: Ranked, chosen: Chosen) -> Settled:
    """The candidate of one choice."""
    return _spanning(job, ranked, chosen) if isinstance(job, Spanning) else _whole(job, ranked)


def _whole(job: Job, ranked: Ranked) -> Settled:
    candidate, layout = ranked.candidate, ranked.layout
    rows, layouts = _rows_of(candidate), candidate.layouts
    job, order_gain = ordered(job, rows, layouts)
    job, gain = settled(job, rows, layouts)
    inside = inside_of(job, layouts)
    return Settled(
        (Share(job.pool, layout.pp, int(layouts.span[0]), int(layouts.leaf[0])),),
        None,
        job.cut(job.model, layout.pp),
        inside,
        stage_memory(job, rows, layouts),
        phase_tables(job, rows, layouts),
        (*_cut_note(job, layout, gain), *_order_note(inside, order_gain)),
    )


def inside_of(job: Job, layouts: Layouts) -> Inside | None:
    """How the GPUs of a domain are shared out in one layout, where that is not as usual."""
    own, usual = (order_of(layouts) for order_of in (job.order, usual_order))
    if own == usual:
        return None
    tp, cp, pp = (int(column[0]) for column in own)
    return {"tp": tp, "cp": cp, "dp": int(layouts.span[0]) // (tp * cp * pp), "pp": pp}


def _order_note(inside: Inside | None, gain: float | None) -> tuple[str, ...]:
    """What another order of ranks than the usual is worth, where the plan has one."""
    if inside is None:
        return ()
    worth = "which would not fit" if gain is None else f"{gain:.1%} less tokens/s"
    each = " x ".join(f"{many} of {axis}" for axis, many in inside.items() if many > 1)
    return (f"GPUs of a domain are {each}; in the usual order of ranks: {worth}",)


def _cut_note(job: Job, layout: ParallelLayout, gain: float | None) -> tuple[str, ...]:
    """What stages of different size are worth, where the plan has them."""
    even, cut = even_stages(job.model, layout.pp), job.cut(job.model, layout.pp)
    if cut == even:
        return ()
    worth = "which would not fit" if gain is None else f"{gain:.1%} less tokens/s"
    stages = [", ".join(map(str, sizes)) for sizes in (cut, even)]
    return (f"stages of {stages[0]} layers, balanced by bytes; even ones ({stages[1]}): {worth}",)


def _spanning(job: Spanning, ranked: Ranked, chosen: Chosen) -> Settled:
    candidate = ranked.candidate
    rows, (split, layers) = _rows_of(candidate), split_of(job, candidate)
    own, counts = stages_in(job, split), (layers, job.model.num_layers - layers)
    spans = tuple(int(candidate.spans[pool][0]) for pool in job.pools)
    pools = tuple(job.cluster.pools[pool].name for pool in job.pools)
    columns = {"pool": pools, "stages": own, "layers": counts, "span": spans}
    each = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return Settled(
        tuple(map(Share, job.pools, own, spans)),
        tuple(PoolShare(**one) for one in each),
        cut_of(job.model, own, layers),
        None,
        spanning_memory(job, rows, split, layers),
        spanning_phases(job, rows, split, layers),
        (_split_note(job, ranked), _pool_note(job, ranked, chosen)),
    )


def _split_note(job: Spanning, ranked: Ranked) -> str:
    """Which stages and layers lie in which pool, and what as many layers a stage would lose."""
    candidate = ranked.candidate
    split, layers = split_of(job, candidate)
    counts = (layers, job.model.num_layers - layers)
    said = " and ".join(
        f"{own} stage{'s' * (own > 1)} of {job.cluster.pools[pool].name} ({count} layers)"
        for pool, own, count in zip(job.pools, stages_in(job, split), counts, strict=True)
    )
    told = f"each replica spans pools: {said}"
    lost = even_split_loss(job, _rows_of(candidate), split, candidate)
    if lost == 0.0:
        return told
    worth = "would not fit" if lost is None else f"{lost:.1%} less tokens/s"
    return f"{told}; as many layers on every stage: {worth}"


def _pool_note(job: Spanning, ranked: Ranked, chosen: Chosen) -> str:
    """The best plan that lies in one pool, beside this one."""
    left = chosen.left
    own = left.take(left.layouts.pp == np.max(list(left.stages.values()), axis=0))
    if not len(own):
        return "none of the layouts searched keeps every limit in one pool"
    criterion = criteria(own, chosen.objective, job.cluster.num_live_gpus)[0]
    ends = np.stack([own.replicas_min, own.replicas_max])
    values = criterion.values(ends)
    end, row = np.unravel_index(values.argmin(), values.shape)
    theirs = float(values[end, row]) * ranked.criterion.scale / criterion.scale
    ours = float(ranked.choice.value)
    name = own.layout(int(row), int(ends[end, row])).name
    pool = job.cluster.pools[int(own.pool[row])].name
    change = abs(theirs - ours) / max(1.0, abs(ours))
    side = "worse" if theirs > ours else "better"
    return f"the best plan in one pool, {name} on {pool}: {change:.1%} {side} in {criterion.name}"


def _rows_of(candidate: Candidates) -> Rows:
    return Rows(
        np.zeros(1, dtype=np.int64),
        candidate.sequences,
        candidate.chunk,
        candidate.micro_batches,
        candidate.replicas_min,
        candidate.replicas_max,
    )
