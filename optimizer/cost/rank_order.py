"""Rank order: which ranks share a domain where tensor and context groups do not fit together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optimizer.cost.calibration import Constants
from optimizer.cost.demand import Device
from optimizer.cost.price import part_seconds
from optimizer.layout import Layouts
from optimizer.operators import Floats, lower
from optimizer.spec.model import ModelSpec

Inside = dict[str, Floats]  # tp_inside, cp_inside: ranks of a group in one domain [layouts]


def usual_order(layouts: Layouts) -> Inside:
    """Tensor ranks innermost, then as many context ranks as they leave room for."""
    tp = np.minimum(layouts.tp, layouts.span)
    cp = np.clip(layouts.span // layouts.tp, 1, layouts.cp)
    return {"tp_inside": tp.astype(np.float64), "cp_inside": cp.astype(np.float64)}


def best_order(
    model: ModelSpec,
    seq_len: int,
    device: Device,
    constants: Constants,
    layouts: Layouts,
    columns: Mapping[str, Floats],
) -> Inside:
    """The order in which one sequence is fastest: every even split of a domain's GPUs into tensor
    times context ranks is priced beside the usual one, which stays unless another is faster.

    Left out: with more sequences a step the balance shifts from latency to bytes.
    """
    found = usual_order(layouts)
    apart = (layouts.cp > 1) & (layouts.tp * layouts.cp > layouts.span)
    rows = np.flatnonzero(apart & (layouts.width % layouts.span == 0))
    if not len(rows):
        return found
    few, ones = layouts.take(rows), np.ones(len(rows))
    step = {name: column[rows] for name, column in columns.items()} | {
        "tokens": np.ceil(seq_len / few.cp),
        "sequences": ones,
        "context": ones * (seq_len + 1) / 2.0,
        "logits": ones,
    }
    families, names = lower(model), model.layer_names
    counts = {name: names.count(name) for name in model.layer_types}

    def seconds(order: Inside) -> Floats:
        parts = part_seconds(families, {**step, **order}, device, constants)
        total: Floats = np.sum([many * parts[name] for name, many in counts.items()], axis=0)
        return total

    best = {name: column[rows] for name, column in found.items()}
    least = seconds(best)
    for cp in range(2, int(few.span.max()) + 1):
        tp = np.maximum(few.span // cp, 1)
        even = (tp * cp == few.span) & (few.tp % tp == 0) & (few.cp % cp == 0)
        if even.any():
            order = {"tp_inside": tp.astype(np.float64), "cp_inside": ones * cp}
            other = seconds(order)
            better = even & (other < least * (1 - 1e-9))
            best = {name: np.where(better, order[name], best[name]) for name in best}
            least = np.where(better, other, least)
    for name, column in best.items():
        found[name][rows] = column
    return found
