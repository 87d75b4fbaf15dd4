"""What a role does as a workload of its own, and what a replica in that role could serve."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from optimizer.cost.calibration import Calibration
from optimizer.cost.candidates import Candidates
from optimizer.cost.memory import sequence_cache_bytes
from optimizer.cost.parts import price_parts
from optimizer.cost.rows import Rows, expand
from optimizer.layout import ParallelLayout, Space, enumerate_layouts
from optimizer.pipeline import jobs_for
from optimizer.search.fleet import Offer, best_rows, offers_of
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Demand, Fleet, Mode, Role
from optimizer.spec.workload import ServingWorkload

ROLES: dict[Mode, tuple[Role, ...]] = {
    "aggregated": ("serving",),
    "disaggregated": ("prefill", "decode"),
}

MAX_PROMPTS = 8  # that run or wait on one rank of a prefill worker


def offers_for(
    fleet: Fleet,
    demand: Demand,
    role: Role,
    layers: int = 1,
    calibration: Calibration | None = None,
    always: Collection[tuple[int, ParallelLayout]] = (),
) -> tuple[Offer, ...]:
    """What one replica of the demand's model serves at most in each pool, by the room it takes;
    `always` with layouts in a pool that others beat.

    The prompts on a rank of a prefill worker are computed one after the other, and each is said to
    wait for all of them: up to MAX_PROMPTS queue where the limit on the time to first token lets
    them. Short prompts are not computed together, which would read weights less often.
    """
    workload = role_workload(fleet.cluster, demand, role)
    if workload is None:
        return ()
    spaces = []
    for pool in range(len(fleet.cluster.pools)):
        space = enumerate_layouts(fleet.cluster, pool, demand.model, workload)
        small = space.layouts.gpus_per_replica <= fleet.max_replica_gpus
        spaces.append(Space(space.layouts.take(small), space.enumerated, space.removed))
    rows_of = short_queues if role == "prefill" else expand
    apart = fleet.cluster.leaves_apart  # room is shared out without regard to leaves
    model = demand.model
    jobs = jobs_for(apart, model, workload, spaces, calibration=calibration)
    parts = price_parts(jobs, spaces, rows_of=rows_of)
    best = Candidates.concatenate([part.take(best_rows(part)) for part in parts])
    return offers_of(best, layers, always)


def short_queues(*asked: Any) -> Rows:
    """The rows of a space that hold few prompts a rank, and one where ranks are pipelines: whether
    prompts overlap there is up to the engine's scheduler."""
    rows = expand(*asked)
    most = np.where(asked[0].pp[rows.layout] == 1, MAX_PROMPTS, 1)
    return rows.take(rows.sequences <= most)


def role_workload(cluster: Cluster, demand: Demand, role: Role) -> ServingWorkload | None:
    """What a role does as a workload of its own, its load left open; None where moving the cache
    takes all of the time to first token.

    Prefill ends with the first token; its TTFT leaves time to move the cache. Decode finds all but
    the last input token in the cache.
    """
    asked = demand.workload.model_copy(update={"request_rate": None})
    if role == "prefill":
        limit = asked.ttft
        if limit is not None:
            left = limit.value_s - transfer_s(cluster, demand)
            if left <= 0:
                return None
            limit = limit.model_copy(update={"value_s": left})
        return asked.model_copy(update={"output_len": 1, "ttft": limit, "tpot": None})
    if role == "decode":
        return asked.model_copy(update={"prefix_len": asked.input_len - 1, "ttft": None})
    return asked


def transfer_s(cluster: Cluster, demand: Demand) -> float:
    """Seconds to move one request's cache, whole, over one GPU's share of the slowest link (of the
    spine, where leaf switches are named): an upper bound, since ranks send their parts at once and
    layer by layer."""
    links = [(pool.inter_node.latency_s, pool.spine_bytes_per_s) for pool in cluster.pools]
    if (between := cluster.inter_pool) is not None:
        links.append((between.latency_s, between.bandwidth_bytes_per_s))
    one = np.ones(1)
    size = sum(
        float(
            sequence_cache_bytes(
                demand.model.layer_types[name], demand.model, demand.workload.input_len, one, one
            )[0]
        )
        for name in demand.model.layer_names
    )
    return max(latency_s + size / bytes_per_s for latency_s, bytes_per_s in links)
