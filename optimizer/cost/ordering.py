"""The rank order of every candidate: all are weighed, and what may be better is priced in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.cuts import balancing, beats, price_best_cut
from optimizer.cost.job import Job, degree_columns, whole_inside
from optimizer.cost.price import part_seconds
from optimizer.cost.rank_order import Order, OrderOf, cut_evenly, other_orders
from optimizer.cost.rows import Rows
from optimizer.cost.stages import even_stages, stage_sums
from optimizer.layout import Ints, Layouts, leaf_gpus
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, Floats, lower

ORDERED = {"tp_inside", "cp_inside", "span", "pp_inside"}  # the columns that an order changes
FEW, MANY = 2.0**-20, 2.0**30  # tokens of a step: all is latency, all is bandwidth
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
NOT_LESS_S = 1e-9  # of a stage and step, is not told apart


def price_best_order(job: Job, rows: Rows, layouts: Layouts) -> Candidates:
    """Every candidate priced in its best rank order: the usual one, unless another keeps a limit
    that it breaks or, both alike, gives more tokens/s. In serving that is least time of a request,
    its prefill and all its decode steps; in a forward pass, of the pass."""
    row, order = contenders(job, layouts)
    if not len(row):
        return price_best_cut(job, rows, layouts)
    # Contenders right behind their layouts, so that depths ascend as before.
    owner = np.concatenate([np.arange(len(layouts)), row])
    place = np.argsort(owner, kind="stable")
    behind = np.argsort(place, kind="stable")
    usual = job.order(layouts)
    orders = Order(*(np.concatenate(pair)[place] for pair in zip(usual, order, strict=True)))
    some, contender = _rows_of(rows, row)
    own = replace(rows, layout=behind[rows.layout])
    more = replace(rows.take(some), layout=behind[len(layouts) + contender])
    priced = price_best_cut(
        job._replace(order=_fixed(orders)),
        Rows.concatenate([own, more]),
        layouts.take(owner[place]),
    )
    found = priced.first(len(rows))
    turn = (np.arange(len(row)) - np.searchsorted(row, row))[contender]
    for number in range(int(turn.max(initial=-1)) + 1):
        now = np.flatnonzero(turn == number)
        other = priced.take(len(rows) + now)
        better = beats(other, found, some[now])
        found = found.overlaid(some[now][better], other, np.flatnonzero(better))
    return found


def _rows_of(rows: Rows, layouts: Ints) -> tuple[Ints, Ints]:
    """(the rows of one layout after the other, for each which of these layouts it is of)."""
    ascending = np.argsort(rows.layout, kind="stable")
    start, end = (np.searchsorted(rows.layout[ascending], layouts, side) for side in SIDES)
    counts = end - start
    which = np.repeat(np.arange(len(layouts)), counts)
    within = np.arange(len(which)) - (np.cumsum(counts) - counts)[which]
    return ascending[start[which] + within], which


def ordered(job: Job, rows: Rows, layouts: Layouts) -> tuple[Job, float | None]:
    """(the job with the order that price_best_order took of one row, the share of tokens/s that
    the usual one would lose; None where that breaks a limit)."""
    usual = best = price_best_cut(job, rows, layouts)
    chosen = job
    row, orders = contenders(job, layouts)
    for number in range(len(row)):
        other_job = job._replace(order=_fixed(orders.take(np.array([number]))))
        other = price_best_cut(other_job, rows, layouts)
        if beats(other, best, np.zeros(1, dtype=np.int64))[0]:
            chosen, best = other_job, other
    if usual.broken()[0] and not best.broken()[0]:
        return chosen, None
    return chosen, float(1 - usual.tokens_per_s[0] / best.tokens_per_s[0])


def _fixed(order: Order) -> OrderOf:
    """That order of the very layouts that it was made for."""
    return lambda layouts: order


def contenders(job: Job, layouts: Layouts) -> tuple[Ints, Order]:
    """(row of `layouts`, order) of all orders but those that no step makes faster than the usual.

    Seconds of a collective are a + b x tokens + c x tokens / (tokens + d) with a, b, d >= 0, so
    that an order is slower at any number of tokens where it is with next to none, with so many
    that bandwidth is all, and with the latter's slope alone. That has to hold for every stage,
    with the boundary behind it, in both cuts of the layers. Left out: tables of timed operators.
    """
    switched = job.cluster.pools[job.pool].leaf is not None
    row, order = other_orders(layouts, ~whole_inside(job, layouts) & (not switched))
    if switched:
        kept = cut_evenly(leaf_gpus(job.cluster, job.pool, layouts)[row], layouts.take(row), order)
        row, order = row[kept], order.take(kept)
    if not len(row):
        return row, order
    few = layouts.take(row)
    seconds = _seconds(job, few, [job.order(few), order])
    gain = {part: usual - other for part, (usual, other) in seconds.items()}
    layers = {name: gain[name] for name in job.model.layer_types}
    behind = np.where(few.pp > 1, gain[BOUNDARY], 0.0)
    slower = (gain[HEAD] <= NOT_LESS_S).all(axis=0)  # its tokens are others than the layers'
    for cut in (even_stages, balancing(job.model)):
        stages = stage_sums(job.model, few.pp, layers, gain[EMBEDDING], 0.0 * behind, cut)
        slower &= (stages.max(axis=0) + behind <= NOT_LESS_S).all(axis=0)
    return row[~slower], order.take(~slower)


def _seconds(job: Job, layouts: Layouts, orders: Sequence[Order]) -> dict[str, Floats]:
    """Seconds of the collectives of each part in several orders [orders, 3, layouts]: of next to no
    tokens, of very many without what grows with them, of that growth alone."""
    points = np.array([FEW, MANY, 2 * MANY])
    each = [degree_columns(job._replace(order=_fixed(order)), layouts) for order in orders]
    columns = {
        name: np.concatenate([np.tile(own[name], len(points)) for own in each]) for name in each[0]
    }
    ones = np.ones(len(orders) * len(points) * len(layouts))
    tokens = np.tile(np.repeat(points, len(layouts)), len(orders))
    columns |= {"sequences": ones, "context": ones, "tokens": tokens, "logits": tokens}
    families = [each for each in lower(job.model) if ORDERED & set(each.depends)]
    device = job.device._replace(timers={})
    found = part_seconds(families, columns, device, job.constants)
    shaped = {
        part: seconds.reshape(len(orders), len(points), len(layouts))
        for part, seconds in found.items()
    }
    return {
        part: np.stack([none, many - (twice - many), twice - many], axis=1)
        for part, seconds in shaped.items()
        for none, many, twice in [seconds.swapaxes(0, 1)]
    }
