"""Expert loads as the cost model takes them: the hottest rank over the mean, for every EP."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from optimizer.layout import Layouts
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.place import place_experts
from optimizer.search.experts.placement import ExpertPlacement
from optimizer.spec.model import ModelSpec, MoeFfn
from optimizer.spec.workload import Workload

Row = tuple[float, ...]


def imbalances(
    model: ModelSpec, workload: Workload, spaces: Iterable[Layouts]
) -> tuple[tuple[int, float], ...]:
    """(EP, hottest rank's load over the mean) for every degree of the spaces, each with its experts
    placed as well as found; () where no loads are stated."""
    if loads_of(model, workload) is None:
        return ()
    degrees = sorted({int(ep) for layouts in spaces for ep in np.unique(layouts.ep)} - {1})
    found = []
    for ep in degrees:
        placement = placed_experts(model, workload, ep)
        if placement is not None:
            found.append((ep, float(placement.imbalance.mean())))
    return tuple(found)


def placed_experts(model: ModelSpec, workload: Workload, ep: int) -> ExpertPlacement | None:
    """The experts of every MoE layer on the slots of `ep` ranks; None where no loads are stated or
    the slots do not divide."""
    loads = loads_of(model, workload)
    if loads is None or ep == 1:
        return None
    slots = len(loads[0]) + workload.redundant_experts
    return None if slots % ep else _placed(loads, ep, slots)


@lru_cache(maxsize=64)
def _placed(loads: tuple[Row, ...], ep: int, slots: int) -> ExpertPlacement:
    rows: Floats = np.array(loads)
    return place_experts(rows, ep, slots)


def loads_of(model: ModelSpec, workload: Workload) -> tuple[Row, ...] | None:
    """The stated loads of each MoE layer; of a skew those of Zipf's law, one row for all layers:
    the i-th expert is picked in proportion to i^-skew, by no more tokens than there are."""
    if workload.expert_loads is not None:
        return workload.expert_loads
    if workload.expert_skew is None or model.moe is None:
        return None
    return _zipf(model.moe, workload.expert_skew)


@lru_cache(maxsize=8)
def _zipf(moe: MoeFfn, skew: float) -> tuple[Row, ...]:
    picked = np.arange(1, moe.num_experts + 1, dtype=np.float64) ** -skew
    share = np.minimum(picked / picked.sum(), 1.0 / moe.num_experts_per_token)
    return (tuple(share.tolist()),)
