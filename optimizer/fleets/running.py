"""What a fleet runs now, as replicas of the models and pools of the fleet to be planned."""

from __future__ import annotations

from typing import NamedTuple

from optimizer.errors import PlanError
from optimizer.plan.fleet import FleetPart, FleetPlan
from optimizer.search.fleet import Running
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Fleet
from optimizer.spec.model import ModelSpec, Precision


class Runs(NamedTuple):
    """One replica of a model that runs, in its number formats."""

    model: ModelSpec
    precision: Precision
    replica: Running


def runs_in(fleet: Fleet, current: FleetPlan) -> list[Runs]:
    """Every replica of the current fleet in a pool that is still there, by name and GPU.

    Raises PlanError where nothing of the current fleet can stay: no such pool, or no such model.
    """
    pools = {pool.name: index for index, pool in enumerate(fleet.cluster.pools)}
    was = {pool.name: pool.gpu.name for pool in current.cluster.pools}
    live = {gpu for domain in fleet.cluster.domains for gpu in domain.gpus}
    found = []
    for part in current.parts:
        pool = pools.get(part.pool)
        if pool is None or fleet.cluster.pools[pool].gpu.name != was[part.pool]:
            continue
        found += _replicas(fleet.cluster, current, part, pool, live)
    if not any(same_model(runs.model, demand.model) for runs in found for demand in fleet.demands):
        models = ", ".join(dict.fromkeys(plan.model.name for plan in current.plans)) or "nothing"
        where = ", ".join(dict.fromkeys(part.pool for part in current.parts)) or "no pool"
        raise PlanError(
            f"the current fleet runs {models} on {where}; this one serves "
            f"{', '.join(dict.fromkeys(demand.model.name for demand in fleet.demands))} on "
            f"{', '.join(pools)}: nothing of it can stay; leave --current out"
        )
    return found


def same_model(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether the weights of one serve as those of the other, number formats aside."""
    return one.name == other.name and one.layers == other.layers


def _replicas(
    cluster: Cluster, current: FleetPlan, part: FleetPart, pool: int, live: set[str]
) -> list[Runs]:
    plan = current.plans[part.plan]
    deployment = plan.deployment
    prefix = f"{cluster.pools[pool].name}/" if len(cluster.pools) > 1 else ""
    layout = deployment.layout.model_copy(update={"replicas": 1})
    found = []
    for replica in deployment.placement.rank_gpu:
        names = tuple(prefix + gpu for gpu in replica)
        gpus = tuple(name if name in live else "" for name in names)
        running = Running(pool, layout, deployment.placement.ranks, gpus)
        found.append(Runs(plan.model, deployment.precision, running))
    return found
