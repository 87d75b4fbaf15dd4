"""The parts of a fleet: each use of a demand with its share, a plan on its own GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Calibration
from optimizer.cost.serving import peak
from optimizer.fleets.roles import role_workload
from optimizer.pipeline import optimize
from optimizer.plan import Plan
from optimizer.search.fleet import FleetChoice, Use, served_by
from optimizer.spec.cluster import Cluster, Pool
from optimizer.spec.fleet import Demand, Fleet, Mode, Role


class Part(NamedTuple):
    """One chosen use of a demand."""

    demand: Demand
    mode: Mode
    role: Role
    use: Use
    share_per_s: float


def parts_of(fleet: Fleet, choice: FleetChoice) -> list[Part]:
    """The chosen uses, each with its share of the demand: in proportion to what it could serve."""
    found = []
    for demand, answer in zip(fleet.demands, choice.chosen, strict=True):
        if answer is None:
            continue
        mode, roles = answer
        rate = min(demand.wanted_per_s, *(served_by(vector) for vector in roles.values()))
        for role, vector in roles.items():
            for use in vector:
                share = rate * use.requests_per_s / served_by(vector)
                found.append(Part(demand, mode, role, use, share))
    return found


def plan_of(
    cluster: Cluster, part: Part, gpus: Iterable[str], calibration: Calibration | None = None
) -> Plan:
    """The part as an ordinary plan on its own GPUs: every other one counts as dead there. Prefill
    queues no more prompts than its share needs."""
    alone = cluster_of_gpus(cluster, part.use.offer.pool, set(gpus))
    layout = part.use.offer.layout.model_copy(update={"replicas": part.use.replicas})
    workload = role_workload(cluster, part.demand, part.role)
    assert workload is not None

    def under(**load: float) -> Plan:
        given = workload.model_copy(update=load)
        name = f"canonical:{layout.name}"
        model = part.demand.model
        return optimize(alone, model, given, top=1, strategy=name, calibration=calibration).best

    if part.role != "prefill":
        return under(request_rate=part.share_per_s)
    ranks, most = layout.dp * layout.replicas, round(part.use.offer.slots) * layout.replicas
    for slots in range(ranks, most, ranks):
        plan = under(concurrency=slots)
        in_flight = part.share_per_s * plan.predictions["request_s"].value
        if float(peak(np.array(in_flight))) <= slots:
            return plan
    return under(concurrency=most)


def cluster_of_gpus(cluster: Cluster, pool: int, gpus: set[str]) -> Cluster:
    """One pool of the cluster with all but these GPUs dead; whole nodes by their own name."""
    own = cluster.pools[pool]
    prefix = f"{own.name}/" if len(cluster.pools) > 1 else ""
    dead: list[str] = []
    for node, names in enumerate(own.gpu_names):
        gone = [name for name in names if prefix + name not in gpus]
        dead += [f"node{node}"] if len(gone) == len(names) else gone
    # Built anew: a pool caches what follows from its figures.
    figures = {name: getattr(own, name) for name in Pool.model_fields}
    return Cluster(name=cluster.name, pools=(Pool(**{**figures, "dead": tuple(dead)}),))
