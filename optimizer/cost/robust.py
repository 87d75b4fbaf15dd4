"""Limits at the pessimistic end: tightened by each prediction's interval and by stated skews."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.job import Job
from optimizer.cost.ordering import price_best_order
from optimizer.cost.rows import Rows
from optimizer.layout import Layouts
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

STATED = 0.9  # the one-sided confidence of the high end of an 80 % interval
UNCERTAIN = ("memory", "ttft", "tpot", "latency")


def interval_factors(job: Job, confidence: float) -> dict[str, float]:
    """High end over value of each uncertain limit at a one-sided confidence, under a normal law in
    log space whose 80 % interval the calibration states."""
    normal = NormalDist()
    turns = max(0.0, normal.inv_cdf(confidence) / normal.inv_cdf(STATED))
    return {
        name: float(np.exp(getattr(job.calibration.interval, name) * turns)) for name in UNCERTAIN
    }


def stressed(workload: ForwardWorkload | ServingWorkload) -> ForwardWorkload | ServingWorkload:
    """The workload under its stated skews: more imbalance of experts, longer contexts."""
    skews = workload.robust
    if skews is None:
        return workload
    changes: dict[str, object] = {
        "expert_imbalance": (workload.expert_imbalance or 1.0) * skews.expert_imbalance
    }
    if isinstance(workload, ForwardWorkload):
        changes["seq_len"] = int(np.ceil(workload.seq_len * skews.context))
    else:
        changes["input_len"] = int(np.ceil(workload.input_len * skews.context))
        changes["output_len"] = int(np.ceil(workload.output_len * skews.context))
    return workload.model_copy(update=changes)


def tightened(
    job: Job, rows: Rows, layouts: Layouts, nominal: Candidates, confidence: float
) -> Candidates:
    """The nominal candidates with limits that their nominal needs may fill and still keep at the
    pessimistic end: limit x nominal / stressed need / interval factor."""
    factors = interval_factors(job, confidence)
    needs = nominal.needs
    if job.workload.robust is not None:
        needs = price_best_order(job._replace(workload=stressed(job.workload)), rows, layouts).needs
    limits = {}
    for name, limit in nominal.limits.items():
        if name in factors:
            stress = needs[name] / np.maximum(nominal.needs[name], 1e-300)
            limits[name] = limit / np.maximum(1.0, stress) / factors[name]
        else:
            limits[name] = limit
    return replace(nominal, limits=limits)
