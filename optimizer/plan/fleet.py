"""A fleet's answer: which GPUs serve which demand, and an ordinary plan for each part.

A fleet is a partition of the cluster: every part is a plan of its own on the GPUs that it names,
so that all that reads, checks or replays plans works on the parts as they stand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from optimizer.errors import PlanError
from optimizer.plan.document import Plan
from optimizer.plan.files import content_hash, load_json, unsealed
from optimizer.plan.numbers import Number
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Mode, Role
from optimizer.spec.frozen import Frozen

FLEET_VERSION = "1.0"


def _is_none(value: object) -> bool:
    """Whether a key that few fleets have is left out of the others' bytes."""
    return value is None


class FleetPart(Frozen):
    """One role of a demand in one pool: so many replicas that could serve capacity_per_s requests a
    second within the limits, of which share_per_s are asked; `plan` is its index in plans."""

    demand: str
    mode: Mode
    role: Role
    pool: str
    name: str
    replicas: int
    gpus: tuple[str, ...]
    capacity_per_s: Number
    share_per_s: Number
    plan: int


class Served(Frozen):
    """What a demand asks for and what it gets, in requests a second; transfer_s is what moving one
    request's cache from prefill to decode takes, where they lie apart."""

    demand: str
    wanted_per_s: Number
    served_per_s: Number
    transfer_s: Number | None


class FleetProof(Frozen):
    """Why no better fleet exists in the stated space; value and bound are on the integer grid.

    combinations: ways to pick one usage vector for every role, before room is asked about; within:
    the share of the objective that staying near what runs was allowed to cost.
    """

    solver: str
    status: Literal["OPTIMAL", "FEASIBLE"]
    objective: str
    value: int
    bound: int
    gap: Number
    scale: Number
    vectors: int
    combinations: Number
    tie_break: tuple[str, ...]
    within: Number | None = Field(default=None, exclude_if=_is_none)


class FleetPlan(Frozen):
    """One answer for a whole fleet."""

    schema_version: str = FLEET_VERSION
    name: str
    objective: Literal["gpus", "money", "served"]
    cluster: Cluster
    served: tuple[Served, ...]
    parts: tuple[FleetPart, ...]
    idle_gpus: tuple[str, ...]
    gpus: int
    price_per_hour: Number | None = Field(default=None)
    proof: FleetProof
    notes: tuple[str, ...]
    plans: tuple[Plan, ...]
    hash: str = ""


def sealed_fleet(fleet: FleetPlan) -> FleetPlan:
    """The same fleet with its hash."""
    document = fleet.model_dump(mode="json", by_alias=True)
    return fleet.model_copy(update={"hash": content_hash(document)})


def write_fleet(fleet: FleetPlan) -> str:
    """The fleet as JSON text."""
    document = fleet.model_dump(mode="json", by_alias=True)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def load_fleet(path: str | Path) -> FleetPlan:
    """The fleet in a file that write_fleet wrote; raises PlanError for anything else."""
    return fleet_of(load_json(path), str(path))


def fleet_of(document: object, source: str) -> FleetPlan:
    """A fleet's JSON, checked."""
    if isinstance(document, dict) and "deployments" in document:
        raise PlanError(
            f"{source}: a plan of one model; give the fleet.json that `optimize fleet` wrote"
        )
    if not isinstance(document, dict) or "parts" not in document:
        raise PlanError(f"{source}: no fleet: give the fleet.json that `optimize fleet` wrote")
    return unsealed(document, source, FleetPlan, FLEET_VERSION)
