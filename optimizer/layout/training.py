"""Every training layout that the model divides into and the cluster has GPUs for, as columns.

A stage's width = tp x cp x dp = etp x ep x edp: Megatron folds the expert grid over the dense one,
so dp lies inside the stage and a plan is one replica. Any integer is a candidate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.layout.degrees import Ints, Layouts
from optimizer.layout.enumeration import Space, admitted, laid, most_heads
from optimizer.layout.rules import cp_rules, dp_rules, ep_rules, etp_rules, tp_rules
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.workload import TrainingWorkload

TOO_MANY = "no more GPUs than there are"
UNFOLDED = "the expert grid divides the width"


def enumerate_training_layouts(
    cluster: Cluster, pool: int, model: ModelSpec, workload: TrainingWorkload
) -> Space:
    """All layouts in one pool; what each rule removed is counted in combinations of degrees."""
    model = model.with_precision(Precision())  # it trains in 16 bits, whatever it is served in
    sizes, num_gpus = tuple(cluster.live_sizes[pool]), cluster.live_gpus(pool)
    removed: dict[str, int] = {}
    tps = admitted(min(num_gpus, most_heads(model)), tp_rules(model), removed, "tp")
    most = min(num_gpus, workload.max_context_parallel)
    cps = admitted(most, cp_rules(workload), removed, "cp")
    dps = admitted(min(num_gpus, workload.global_batch), dp_rules(workload), removed, "dp")
    eps = etps = [1]
    if (experts := model.moe) is not None:
        most = min(num_gpus, experts.num_experts)
        eps = admitted(most, ep_rules(model, "any"), removed, "ep")
        etps = admitted(min(num_gpus, experts.intermediate_size), etp_rules(model), removed, "etp")
    dense = _grid(tps, cps, dps)
    routed = _grid(etps, eps, [1])
    stages = min(model.num_layers, num_gpus)
    fits = np.flatnonzero(dense.prod(axis=0) <= num_gpus)
    _count(removed, TOO_MANY, (dense.shape[1] - len(fits)) * routed.shape[1])
    dense = dense[:, fits]
    folds = dense.prod(axis=0)[:, None] % routed.prod(axis=0)[None, :] == 0
    _count(removed, UNFOLDED, int((~folds).sum()))
    at, of = np.nonzero(folds)
    (tp, cp, dp), (etp, ep, _) = dense[:, at], routed[:, of]
    one = np.ones_like(tp)
    grid = laid(Layouts(pp=one, tp=tp, cp=cp, dp=dp, ep=ep, etp=etp, span=one, leaf=0 * one), sizes)
    pp = np.arange(1, stages + 1, dtype=np.int64)
    most_stages = np.minimum(num_gpus // grid.width, stages)
    rows = np.repeat(np.arange(len(grid)), most_stages)
    first = np.repeat(np.cumsum(most_stages) - most_stages, most_stages)
    layouts = replace(grid.take(rows), pp=pp[np.arange(len(rows)) - first])
    return Space(layouts, folds.size, removed)


def _grid(*axes: list[int]) -> Ints:
    """Every combination [axes, n]."""
    columns = np.meshgrid(*(np.array(axis, dtype=np.int64) for axis in axes), indexing="ij")
    return np.stack([column.ravel() for column in columns])


def _count(removed: dict[str, int], rule: str, many: int) -> None:
    if many:
        removed[rule] = removed.get(rule, 0) + many
