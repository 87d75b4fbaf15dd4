"""A fleet's choice as a document, verified, and as a table for a reader."""

from __future__ import annotations

import json
from collections.abc import Sequence

from optimizer.fleets.parts import Part
from optimizer.fleets.roles import transfer_s
from optimizer.plan import Plan
from optimizer.plan.fleet import FleetPart, FleetPlan, FleetProof, Served, sealed_fleet
from optimizer.report.table import aligned
from optimizer.search.fleet import CRITERIA, Ask, FleetChoice, Objective
from optimizer.spec.fleet import Fleet
from optimizer.units import figure
from optimizer.verify import Finding
from optimizer.verify.fleet import verify_document, verify_fleet_moves

Placed = tuple[Part, tuple[str, ...], Plan]  # a part, its GPUs, what runs on them


def document_of(
    fleet: Fleet,
    asks: Sequence[Ask],
    choice: FleetChoice,
    parts: Sequence[Placed],
    notes: Sequence[str],
) -> FleetPlan:
    used = {gpu for _, gpus, _ in parts for gpu in gpus}
    prices = {pool.name: pool.gpu.price_per_hour for pool in fleet.cluster.pools}
    pools = [fleet.cluster.pools[part.use.offer.pool].name for part, _, _ in parts]
    costs = [prices[pool] for pool in pools]
    price = None
    if all(cost is not None for cost in costs):
        price = sum(
            (cost or 0.0) * len(gpus) for cost, (_, gpus, _) in zip(costs, parts, strict=True)
        )
    served = []
    for demand in fleet.demands:
        rates = {
            role: sum(
                part.share_per_s
                for part, _, _ in parts
                if part.demand is demand and part.role == role
            )
            for role in ("serving", "prefill", "decode")
        }
        rate = max(rates["serving"], min(rates["prefill"], rates["decode"]))
        apart = any(rates[role] for role in ("prefill", "decode"))
        served.append(
            Served(
                demand=demand.name,
                wanted_per_s=demand.wanted_per_s,
                served_per_s=rate,
                transfer_s=transfer_s(fleet.cluster, demand) if apart else None,
            )
        )
    found = FleetPlan(
        name=fleet.name,
        objective=fleet.objective,
        cluster=fleet.cluster,
        served=tuple(served),
        parts=tuple(
            FleetPart.model_validate(
                {
                    "demand": part.demand.name,
                    "mode": part.mode,
                    "role": part.role,
                    "pool": pool,
                    "name": plan.name,
                    "replicas": part.use.replicas,
                    "gpus": gpus,
                    "capacity_per_s": part.use.requests_per_s,
                    "share_per_s": part.share_per_s,
                    "plan": index,
                }
            )
            for index, ((part, gpus, plan), pool) in enumerate(zip(parts, pools, strict=True))
        ),
        idle_gpus=tuple(
            gpu for domain in fleet.cluster.domains for gpu in domain.gpus if gpu not in used
        ),
        gpus=len(used),
        price_per_hour=price,
        proof=proof_of(choice, asks, fleet.objective),
        notes=tuple(notes),
        plans=tuple(plan for _, _, plan in parts),
    )
    return sealed_fleet(found)


def proof_of(choice: FleetChoice, asks: Sequence[Ask], objective: Objective) -> FleetProof:
    """The solver's answer over all usage vectors."""
    return FleetProof(
        solver="OR-Tools CP-SAT",
        status=choice.status,
        objective=choice.criterion,
        value=choice.value,
        bound=choice.bound,
        gap=abs(choice.bound - choice.value) / max(1, abs(choice.value)),
        scale=choice.scale,
        vectors=sum(
            len(own) for ask in asks for roles in ask.modes.values() for own in roles.values()
        ),
        combinations=choice.combinations,
        tie_break=CRITERIA[objective][1:],
    )


def verify(document: FleetPlan | Plan) -> list[Finding]:
    """The second opinion: a plan alone; a fleet as a partition, and every part's own plan."""
    return verify_document(document.model_dump(mode="json", by_alias=True))


def verify_moves(fleet: FleetPlan, current: FleetPlan, moves: str) -> list[Finding]:
    """The second opinion on moves.json, from both fleets' documents."""
    there, here = (each.model_dump(mode="json", by_alias=True) for each in (fleet, current))
    return verify_fleet_moves(there, here, json.loads(moves))


def summary(fleet: FleetPlan) -> str:
    """The fleet for a reader: a line a part, then the totals and the proof."""
    rows = [["demand", "role", "pool", "plan", "GPUs", "requests/s", "could serve"]]
    rows += [
        [
            part.demand,
            part.role,
            part.pool,
            part.name,
            str(len(part.gpus)),
            f"{part.share_per_s:.3g}",
            f"{part.capacity_per_s:.3g}",
        ]
        for part in fleet.parts
    ]
    proof = fleet.proof
    cost = "" if fleet.price_per_hour is None else f", {fleet.price_per_hour:,.2f} an hour"
    lines = aligned(rows)
    for each in fleet.served:
        if each.served_per_s < each.wanted_per_s * (1 - 1e-9):
            lines.append(
                f"{each.demand}: {each.served_per_s:.3g} of {each.wanted_per_s:.3g} requests/s"
            )
    lines += [
        "",
        f"{fleet.gpus} GPUs of {fleet.gpus + len(fleet.idle_gpus)}{cost}",
        f"{_standing(proof)}: {proof.objective} {figure(abs(proof.value) / proof.scale)}, bound "
        f"{figure(abs(proof.bound) / proof.scale)}, gap {proof.gap:.2%}; {proof.vectors:,} usage "
        f"vectors, {_many(proof.combinations)} combinations",
        *fleet.notes,
    ]
    return "\n".join(lines)


def _standing(proof: FleetProof) -> str:
    """How the fleet stands to the best: proven, as near as was allowed, or when time ran out."""
    if proof.within is not None and 0 < proof.gap <= proof.within:
        return f"NEAR WHAT RUNS (within {proof.within:.1%} of the best)"
    return proof.status


def _many(count: float) -> str:
    """A count whole, or its power of ten where nobody reads it whole."""
    return f"{count:,.0f}" if count < 1e6 else f"{count:.0e}"
