"""What a file serves: a plan as it stands, or each demand of a fleet as one plan of its parts."""

from __future__ import annotations

from pathlib import Path

from optimizer.errors import PlanError
from optimizer.plan import Deployment, Plan, Prediction
from optimizer.plan.files import load_json, plan_of
from optimizer.plan.fleet import FleetPart, FleetPlan, fleet_of
from optimizer.spec.workload import ServingWorkload


def read_served(path: Path) -> dict[str, Plan]:
    """The plans to simulate, by demand; a plan that is no fleet stands under its own name."""
    document = load_json(path)
    if not isinstance(document, dict) or "parts" not in document:
        plan = plan_of(document, str(path))
        return {plan.name: plan}
    fleet = fleet_of(document, str(path))
    return {served.demand: demand_plan(fleet, served.demand) for served in fleet.served}


def demand_plan(fleet: FleetPlan, demand: str) -> Plan:
    """All parts of one demand as the deployments of one plan, under the rate that it is served."""
    parts = [part for part in fleet.parts if part.demand == demand]
    if not parts:
        raise PlanError(f"fleet {fleet.name}: {demand} is not served at all")
    last = fleet.plans[parts[-1].plan]  # decodes, or serves: its answers have their full length
    assert isinstance(last.workload, ServingWorkload)
    rate = next(served.served_per_s for served in fleet.served if served.demand == demand)
    changed: dict[str, object] = {"request_rate": rate, "concurrency": None}
    if parts[-1].role == "decode":
        changed["prefix_len"] = 0
    predictions = dict(last.predictions)
    serving = [fleet.plans[part.plan].predictions for part in parts if part.role == "serving"]
    for name in ("tokens_per_s", "requests_per_s") if len(serving) > 1 else ():
        predictions[name] = _summed([each[name] for each in serving])
    if parts[0].role == "prefill":
        first = fleet.plans[parts[0].plan].predictions["ttft_s"]
        predictions = {"ttft_s": first, "tpot_s": predictions["tpot_s"]}
    return last.model_copy(
        update={
            "name": " + ".join(part.name for part in parts),
            "cluster": fleet.cluster,
            "workload": last.workload.model_copy(update=changed),
            "deployments": tuple(_deployment(fleet, part) for part in parts),
            "predictions": predictions,
            "hash": fleet.hash,
        }
    )


def _summed(predictions: list[Prediction]) -> Prediction:
    """The rate of several parts together."""
    ends = {
        end: sum(getattr(each, end) for each in predictions) for end in ("value", "low", "high")
    }
    return predictions[0].model_copy(update=ends)


def _deployment(fleet: FleetPlan, part: FleetPart) -> Deployment:
    """A part's deployment in its role, with the tables of what it does there; its GPUs by the names
    that the fleet's cluster gives them."""
    deployment, known = fleet.plans[part.plan].deployment, set(part.gpus)
    names = tuple(
        tuple(gpu if gpu in known else f"{part.pool}/{gpu}" for gpu in gpus)
        for gpus in deployment.placement.rank_gpu
    )
    placement = deployment.placement.model_copy(update={"rank_gpu": names})
    phases = {
        name: table for name, table in deployment.phases.items() if part.role in ("serving", name)
    }
    return deployment.model_copy(
        update={"role": part.role, "phases": phases, "placement": placement}
    )
