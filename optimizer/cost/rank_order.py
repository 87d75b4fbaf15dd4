"""Rank order: how the GPUs of a domain are shared out to tensor, context and data-parallel ranks
and to the stages of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints, Layouts


class Order(NamedTuple):
    """Of each layout [n]: ranks of a tensor group and of a context group that share a domain, and
    stages that do. The rest of the domain are data-parallel ranks.

    Expert groups need no choice: a token goes to every part of each of its experts, so that an
    exchange joins the whole stage whatever the order of its expert ranks.
    """

    tp: Ints
    cp: Ints
    pp: Ints

    def take(self, rows: Ints | NDArray[np.bool_]) -> Order:
        return Order(*(column[rows] for column in self))


OrderOf = Callable[[Layouts], Order]
Flags = NDArray[np.bool_]


def usual_order(layouts: Layouts) -> Order:
    """Tensor ranks innermost, then as many context ranks as they leave room for; stages apart."""
    tp = np.minimum(layouts.tp, layouts.span)
    cp = np.clip(layouts.span // layouts.tp, 1, layouts.cp)
    return Order(tp, cp, np.ones_like(tp))


def other_orders(layouts: Layouts, may_share: Flags) -> tuple[Ints, Order]:
    """(row of `layouts`, order) of every other way to fill a domain evenly: its GPUs are a product
    of tensor, context and data-parallel ranks that divide their degrees, for one stage or, where
    stages may share domains, for all of them.

    Left out: stages that share domains in part, of which the slowest boundary is outside anyway;
    and layouts whose tensor and context groups lie in one domain, where no order has more of
    either together.
    """
    usual, even = usual_order(layouts), layouts.width % layouts.span == 0
    apart = even & (layouts.cp > 1) & (layouts.tp * layouts.cp > layouts.span)
    shared = even & may_share & (layouts.pp > 1) & (layouts.span % layouts.pp == 0)
    found: list[tuple[Ints, Order]] = []
    for able, stages in ((apart, np.ones_like(layouts.pp)), (shared, layouts.pp)):
        rows = np.flatnonzero(able)
        if not len(rows):
            continue
        few, first, own = layouts.take(rows), usual.take(rows), (layouts.span // stages)[rows]
        most = int(own.max())
        for tp in range(1, most + 1):
            for cp in range(1, most // tp + 1):
                fits = (own % (tp * cp) == 0) & (few.tp % tp == 0) & (few.cp % cp == 0)
                fits &= few.dp % np.maximum(1, own // (tp * cp)) == 0
                fits &= (first.tp != tp) | (first.cp != cp) | (first.pp != stages[rows])
                some = rows[fits]
                ones = np.ones_like(some)
                found.append((some, Order(tp * ones, cp * ones, stages[some])))
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return none, Order(none, none, none)
    rows = np.concatenate([row for row, _ in found])
    ordering = np.argsort(rows, kind="stable")
    columns = (np.concatenate(each) for each in zip(*(order for _, order in found), strict=True))
    return rows[ordering], Order(*(column[ordering] for column in columns))


def cut_evenly(leaf_gpus: NDArray[np.float64], layouts: Layouts, order: Order) -> Flags:
    """Whether leaf switches with so many GPUs of a stage cut its tensor and context groups evenly
    or not at all, where domains follow each other as ranks do: tensor first, then context [n]."""
    domains = leaf_gpus.astype(np.int64) // layouts.span
    of_tp, of_cp = layouts.tp // order.tp, layouts.cp // order.cp
    rows = np.maximum(1, domains // of_tp)  # whole rows of tensor groups under a leaf
    tensor = (domains % of_tp == 0) | (of_tp % domains == 0)
    found: Flags = tensor & ((rows % of_cp == 0) | (of_cp % rows == 0))
    return found
