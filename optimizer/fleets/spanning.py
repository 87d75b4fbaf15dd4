"""The answer of one layout whose replicas span two pools, beside those that lie in one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from optimizer.cost.calibration import Calibration
from optimizer.cost.parts import price_parts
from optimizer.cost.rows import Rows, expand
from optimizer.errors import InfeasibleError
from optimizer.fleets.ranking import answer_of, capacity_per_s
from optimizer.layout import Space, SpanningSpace
from optimizer.pipeline import NO_LAYOUTS, enumerate_spaces, jobs_for, optimize
from optimizer.plan import Answer, Plan
from optimizer.search.choosing import choose
from optimizer.search.fleet import FleetChoice
from optimizer.search.objectives import Objective
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ServingWorkload

LEAST_STAGES = 3  # of a replica, that are searched in any case
MOST_LAYOUTS = 250  # beyond which deeper pipelines are left out


def spanning_answer(
    cluster: Cluster,
    model: ModelSpec,
    workload: ServingWorkload,
    beside: FleetChoice,
    calibration: Calibration | None,
) -> Answer | None:
    """The plan on the fewest GPUs at the rate that is asked for, or the one with the most tokens/s
    at the rate that it sustains; None where no replica that spans pools keeps the limits. Its value
    stands on the grid of `beside`."""
    spaces = shallow(enumerate_spaces(cluster, model, workload))
    goal: Objective = "throughput" if workload.request_rate is None else "gpus"
    jobs = jobs_for(cluster, model, workload, spaces, None, calibration)
    parts = price_parts(jobs, spaces, rows_of=coarse)
    try:
        name = choose(cluster, parts, goal, 1).ranked[0].layout.name
    except InfeasibleError:
        return None

    def plan_at(load: ServingWorkload) -> Plan:
        named = f"canonical:{name}"
        return optimize(
            cluster, model, load, objective=goal, top=1, strategy=named, calibration=calibration
        ).best

    if workload.request_rate is not None:
        plan = plan_at(workload)
        return answer_of(plan, "aggregated", plan.deployment.gpus)
    rate = capacity_per_s(plan_at(workload))
    plan = plan_at(workload.model_copy(update={"request_rate": rate}))
    return answer_of(plan, "aggregated", -int(rate * beside.scale))


def coarse(*asked: Any) -> Rows:
    """A part of the rows of a space, enough to tell layouts apart: a micro-batch a stage, every
    second number of sequences."""
    rows = expand(*asked)
    _, place = np.unique(rows.sequences, return_inverse=True)
    return rows.take((rows.micro_batches == asked[0].pp[rows.layout]) & (place % 2 == 0))


def shallow(spaces: list[Space]) -> list[Space]:
    """Of spaces those that span pools, and of these the pipelines of fewest stages; the others
    empty."""
    spanning = [space for space in spaces if isinstance(space, SpanningSpace)]
    depths = np.sort(np.concatenate([[0], *(space.layouts.pp for space in spanning)]))
    deepest = max(LEAST_STAGES, int(depths[min(MOST_LAYOUTS, len(depths) - 1)]))
    found: list[Space] = []
    for space in spaces:
        if not isinstance(space, SpanningSpace):
            found.append(replace(space, layouts=NO_LAYOUTS))
            continue
        split = space.split.take(np.flatnonzero(space.layouts.pp <= deepest))
        found.append(replace(space, layouts=split.layouts, split=split))
    return found
