"""Every layout that the model divides into and the cluster has GPUs for, as columns.

The expert grid bounds the space: a stage of a mixture-of-experts model is ep x etp GPUs wide, a
stage of a dense model tp x cp, so the number of layouts stops growing with the cluster. Any
integer is a candidate, not only powers of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Layouts
from optimizer.layout.rules import ENGINE_RULES, Rule, cp_rules, ep_rules, etp_rules, tp_rules
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import GroupedQueryAttention, LatentAttention, ModelSpec
from optimizer.spec.workload import ForwardWorkload, ServingWorkload


@dataclass(frozen=True)
class Space:
    """The layouts of one pool, and how many raw combinations each divisibility rule removed."""

    layouts: Layouts
    enumerated: int
    removed: dict[str, int]


def admitted(limit: int, rules: Iterable[Rule], removed: dict[str, int], axis: str) -> list[int]:
    admitted = []
    for degree in range(1, limit + 1):
        broken = [what for what, holds in rules if not holds(degree)]
        for what in broken:
            removed[f"{axis}: {what}"] = removed.get(f"{axis}: {what}", 0) + 1
        if not broken:
            admitted.append(degree)
    return admitted


def spans_of(width: int, tp: int, cp: int, sizes: tuple[int, ...]) -> list[int]:
    """How many GPUs of a stage may lie in one domain: the span signatures worth pricing.

    Groups of tp x cp ranks are kept whole where they fit a domain, else those of tp. On domains
    that the width fills without rest one signature dominates all others; elsewhere every even cut
    and every cut at a live size of a domain is offered.
    """
    if not sizes:
        return []
    largest = max(sizes)
    grain = next((group for group in (tp * cp, tp) if group <= largest), largest)
    filled = width % largest == 0 and largest % grain == 0
    if len(set(sizes)) == 1 and (largest % width == 0 or filled):
        return [min(width, largest)]
    offers = {size for size in sizes if size <= width}
    fewest = -(-width // largest)  # fewer pieces would not fit the largest domain
    offers |= {-(-width // count) for count in range(fewest, width + 1)}
    return sorted(
        offer
        for offer in offers
        if offer <= largest and offer % grain == 0 and (width % offer) % grain == 0
    )


def most_heads(model: ModelSpec) -> int:
    """Heads of the attention that has most: tensor parallelism goes no further."""
    return max(
        (
            layer.attention.num_heads
            if isinstance(layer.attention, GroupedQueryAttention | LatentAttention)
            else layer.attention.num_value_heads
        )
        for layer in model.layer_types.values()
    )


def enumerate_layouts(
    cluster: Cluster, pool: int, model: ModelSpec, workload: ForwardWorkload | ServingWorkload
) -> Space:
    """All layouts of one replica in one pool, divisible and no larger than the pool."""
    sizes, num_gpus = tuple(cluster.live_sizes[pool]), cluster.live_gpus(pool)
    removed: dict[str, int] = {}
    heads = most_heads(model)
    tps = admitted(min(num_gpus, heads), tp_rules(model), removed, "tp")
    cps = admitted(min(num_gpus, workload.max_context_parallel), cp_rules(workload), removed, "cp")
    eps = etps = [1]
    if (experts := model.moe) is not None:
        redundant = workload.redundant_experts
        most = min(num_gpus, experts.num_experts + redundant)
        eps = admitted(most, ep_rules(model, workload.engine, redundant), removed, "ep")
        most = min(num_gpus, experts.intermediate_size)
        etps = admitted(most, etp_rules(model), removed, "etp")
    grid = _grid(eps, etps, tps, cps, num_gpus, experts is not None)
    enumerated = len(grid)
    covers = (grid.dp > 0) & (grid.width <= num_gpus)
    _remove(removed, "both grids cover the same width", covers)
    grid = grid.take(covers)
    for rule in ENGINE_RULES:
        if workload.engine in rule.engines:
            able = ~rule.breaks(grid)
            _remove(removed, f"what {workload.engine} can express", able)
            grid = grid.take(able)
    grid = laid(grid, sizes)
    stages = np.arange(1, min(model.num_layers, num_gpus) + 1, dtype=np.int64)
    stage_index, row_index = np.nonzero(stages[:, None] * grid.width[None, :] <= num_gpus)
    layouts = replace(grid.take(row_index), pp=stages[stage_index])
    return Space(layouts, enumerated * len(stages), removed)


def _grid(
    eps: list[int], etps: list[int], tps: list[int], cps: list[int], num_gpus: int, experts: bool
) -> Layouts:
    """Every combination of degrees of one stage; dp is 0 where the two grids do not cover each
    other."""
    axes = (np.array(axis, dtype=np.int64) for axis in (eps, etps, tps, cps))
    ep, etp, tp, cp = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    ep, etp, tp, cp = (axis[ep * etp <= num_gpus] for axis in (ep, etp, tp, cp))
    width = ep * etp if experts else tp * cp
    dp = np.where(width % (tp * cp) == 0, width // (tp * cp), 0)
    one = np.ones_like(dp)
    return Layouts(pp=one, tp=tp, cp=cp, dp=dp, ep=ep, etp=etp, span=one, leaf=0 * one)


def _remove(removed: dict[str, int], rule: str, stays: NDArray[np.bool_]) -> None:
    if not stays.all():
        removed[rule] = removed.get(rule, 0) + int((~stays).sum())


def laid(grid: Layouts, sizes: tuple[int, ...]) -> Layouts:
    """Each stage in every way that it may lie in domains of these sizes."""
    known: dict[tuple[int, int, int], list[int]] = {}
    rows: list[int] = []
    spans: list[int] = []
    keys = zip(grid.width.tolist(), grid.tp.tolist(), grid.cp.tolist(), strict=True)
    for row, (width, tp, cp) in enumerate(keys):
        if (width, tp, cp) not in known:
            known[width, tp, cp] = spans_of(width, tp, cp, sizes)
        offers = known[width, tp, cp]
        rows += [row] * len(offers)
        spans += offers
    laid = grid.take(np.array(rows, dtype=np.int64))
    return replace(laid, span=np.array(spans, dtype=np.int64))
