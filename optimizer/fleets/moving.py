"""`optimize fleet --current FLEET.json`: a fleet near the best that moves little from what runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import floor
from typing import Any, Literal

from optimizer.fleets.planning import asked_of, best_of, offers_by_role
from optimizer.fleets.running import Runs, runs_in, same_model
from optimizer.fleets.settling import SOURCES, Settled, settled
from optimizer.plan.fleet import FleetPlan, sealed_fleet
from optimizer.search.fleet import (
    FleetChoice,
    Keeper,
    Moving,
    choose_near,
    nearby,
    value_of,
)
from optimizer.search.moving import block_bytes
from optimizer.spec.fleet import Demand, Fleet
from optimizer.spec.precisions import precision_choices
from optimizer.units import GIB


def plan_fleet_near(
    fleet: Fleet, current: FleetPlan, within: float = 0.02
) -> tuple[FleetPlan, str]:
    """(of the fleets whose objective lies within a share of the best one's that which moves least
    from what runs, moves.json).

    CP-SAT chooses by what replicas would keep, exact for layouts that run; its choice and the best
    fleet are then placed around what stays, and the one that really loads less is taken. Raises
    PlanError where nothing of what runs can stay, and what plan_fleet raises.
    """
    runs = runs_in(fleet, current)
    keepers = [_keeper(fleet, demand, runs) for demand in fleet.demands]
    always = {(each.replica.pool, each.replica.layout) for each in runs}
    offers = [offers_by_role(fleet, demand, always=always) for demand in fleet.demands]
    asked = asked_of(fleet, offers)
    best, notes = best_of(fleet, asked)
    most = best.value + floor(within * max(1, abs(best.value)))
    near = nearby(asked.asks, asked.prices, fleet.objective, most, keepers)
    close = asked_of(fleet, offers, near=near).asks
    pools = range(len(fleet.cluster.pools))
    held = {(each.number, pool): each.held_bytes(pool) for each in keepers for pool in pools}
    chosen = choose_near(
        close, asked.rooms, asked.prices, fleet.objective, most, Moving(keepers, held)
    )
    choices = [best]
    if chosen is not None and chosen != best.chosen:
        value = value_of(asked.asks, chosen, asked.prices, fleet.objective)
        choices.append(best._replace(chosen=chosen, value=value))
    choices = [each._replace(status=_status(each)) for each in choices]
    found = [settled(fleet, asked, choice, notes, runs, keepers) for choice in choices]
    taken = min(found, key=lambda each: each.moved_bytes)
    proof = taken.fleet.proof.model_copy(update={"within": within})
    lines = (*taken.fleet.notes, *_notes(taken, found[0], current, within))
    answer = sealed_fleet(taken.fleet.model_copy(update={"notes": lines, "proof": proof}))
    return answer, moves_json(taken._replace(fleet=answer), found[0], current, within)


def _status(choice: FleetChoice) -> Literal["OPTIMAL", "FEASIBLE"]:
    return "OPTIMAL" if choice.value == choice.bound else "FEASIBLE"


def _keeper(fleet: Fleet, demand: Demand, runs: Sequence[Runs]) -> Keeper:
    alike = (same_model(other.model, demand.model) for other in fleet.demands)
    formats = precision_choices(demand.model, demand.workload)
    own = [
        each.replica
        for each in runs
        if same_model(each.model, demand.model) and each.precision in formats
    ]
    model = demand.model.with_precision(formats[0])
    return Keeper([*alike].index(True), model, block_bytes(model), own)


def _notes(taken: Settled, best: Settled, current: FleetPlan, within: float) -> list[str]:
    """The move in a line, and in another what the best fleet would have cost."""
    sums = [sum(float(part.found_bytes[:, at].sum()) for part in taken.parts) for at in range(5)]
    kept, near, far, pools, storage = (size / GIB for size in sums)
    many = sum(int((part.found_bytes[:, 1:].sum(axis=1) > 0).sum()) for part in taken.parts)
    found = [
        f"from {current.name} ({current.hash[:12]}): {kept:,.1f} GiB of weights stay where they "
        f"are; {many} GPUs load {near:,.1f} GiB inside their domain, {far:,.1f} GiB from other "
        f"domains, {pools:,.1f} GiB from other pools, {storage:,.1f} GiB from storage: "
        f"{taken.seconds:.3g} s over the links" + (", storage not counted" if storage else "")
    ]
    if best is not taken:
        proofs = [each.fleet.proof for each in (taken, best)]
        values = [abs(proof.value) / proof.scale for proof in proofs]
        found.append(
            f"the best fleet would load {best.moved_bytes / GIB:,.1f} GiB instead of "
            f"{taken.moved_bytes / GIB:,.1f} GiB: {proofs[0].objective} {values[1]:,.6g} against "
            f"{values[0]:,.6g}, within {within:.1%}"
        )
    return found


def moves_json(taken: Settled, best: Settled, current: FleetPlan, within: float) -> str:
    """moves.json: what every part and every GPU loads from where, beside what the best fleet
    would."""
    document: dict[str, Any] = {
        "from": {"name": current.name, "hash": current.hash},
        "to": {"name": taken.fleet.name, "hash": taken.fleet.hash},
        "within": within,
        "chosen": _sum(taken),
        "best": _sum(best),
        "parts": [
            {
                "demand": part.demand,
                "role": part.role,
                "pool": part.pool,
                "name": part.name,
                "kept_bytes": move.kept_bytes,
                "moved_bytes": move.moved_bytes,
                "seconds": move.seconds,
            }
            for part, move in zip(taken.fleet.parts, taken.parts, strict=True)
        ],
        "gpus": {
            gpu: dict(zip(SOURCES, map(float, row), strict=True))
            for move in taken.parts
            for gpu, row in zip(move.gpus, move.found_bytes, strict=True)
        },
    }
    return json.dumps(document, indent=1) + "\n"


def _sum(found: Settled) -> dict[str, float]:
    proof = found.fleet.proof
    return {
        proof.objective: abs(proof.value) / proof.scale,
        "moved_bytes": found.moved_bytes,
        "seconds": found.seconds,
    }
