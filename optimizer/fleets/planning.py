"""The line of a fleet: price -> choose -> place -> plan each part."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.errors import InfeasibleError
from optimizer.fleets.answer import document_of
from optimizer.fleets.parts import parts_of, plan_of
from optimizer.fleets.roles import ROLES, offers_for
from optimizer.plan.fleet import FleetPlan
from optimizer.search.fleet import (
    Ask,
    FleetChoice,
    choose_fleet,
    name_gpus,
    packable,
    rooms_of,
    vectors_of,
)
from optimizer.spec.fleet import Demand, Fleet


def plan_fleet(fleet: Fleet) -> FleetPlan:
    """The best way to serve all demands at once, proven over its stated space.

    Raises InfeasibleError with what each demand would need where they do not fit together.
    """
    cluster = fleet.cluster
    offers = [
        {role: offers_for(fleet, demand, role) for mode in demand.modes for role in ROLES[mode]}
        for demand in fleet.demands
    ]
    kept, notes = packable(
        cluster, [offer for own in offers for every in own.values() for offer in every]
    )
    usable = set(kept)
    rooms = rooms_of(cluster, kept)
    asks = []
    for demand, own in zip(fleet.demands, offers, strict=True):
        vectors = {
            role: vectors_of(
                [offer for offer in every if offer in usable],
                rooms,
                demand.wanted_per_s,
                fleet.max_pools,
                partial=fleet.objective == "served",
            )
            for role, every in own.items()
        }
        modes = {mode: {role: vectors[role] for role in ROLES[mode]} for mode in demand.modes}
        asks.append(Ask(demand.name, demand.wanted_per_s, demand.weight, modes))
    _all_can_be_served(fleet, asks)
    prices = [pool.gpu.price_per_hour or 0.0 for pool in cluster.pools]
    choice = choose_fleet(asks, rooms, prices, fleet.objective)
    if choice is None:
        raise InfeasibleError("the demands do not fit the cluster together", _alone(asks))
    for mode in dict.fromkeys(mode for ask in asks for mode in ask.modes):
        alone = [ask._replace(modes={mode: ask.modes.get(mode, {})}) for ask in asks]
        if len(asks) == 1 and len(asks[0].modes) > 1:
            other = choose_fleet(alone, rooms, prices, fleet.objective)
            notes.append(f"{mode} alone: " + _beside(other, choice))
    parts = parts_of(fleet, choice)
    gpus = name_gpus(cluster, rooms, [part.use for part in parts])
    plans = [plan_of(cluster, part, names) for part, names in zip(parts, gpus, strict=True)]
    return document_of(fleet, asks, choice, list(zip(parts, gpus, plans, strict=True)), notes)


def _beside(other: FleetChoice | None, best: FleetChoice) -> str:
    """Another choice's objective beside the best one's."""
    if other is None:
        return "the demands do not fit the cluster"
    values = [abs(choice.value) / choice.scale for choice in (other, best)]
    return f"{best.criterion} {values[0]:,.6g} against {values[1]:,.6g}"


def _all_can_be_served(fleet: Fleet, asks: Sequence[Ask]) -> None:
    """Every demand could be served were it alone; a fleet that serves what it can needs less."""
    hopeless = [
        ask.name for ask in asks if not any(all(roles.values()) for roles in ask.modes.values())
    ]
    if hopeless and fleet.objective != "served":
        raise InfeasibleError(
            f"{', '.join(hopeless)} cannot be served on this cluster even alone",
            [
                f"{demand.name}: {demand.wanted_per_s:g} requests/s asked for; "
                + _most(fleet, demand)
                for demand in fleet.demands
                if demand.name in hopeless
            ],
        )


def _most(fleet: Fleet, demand: Demand) -> str:
    found = []
    for role in dict.fromkeys(role for mode in demand.modes for role in ROLES[mode]):
        rates = [
            offer.requests_per_s(fleet.cluster.live_gpus(offer.pool) // offer.gpus)
            for offer in offers_for(fleet, demand, role)
        ]
        most = f"{max(rates):.3g} at most from one layout in one pool" if rates else ""
        found.append(f"{role} {most or 'finds no replica that keeps its limits'}")
    return ", ".join(found)


def _alone(asks: Sequence[Ask]) -> list[str]:
    """The fewest GPUs that each demand needs for itself."""
    found = []
    for ask in asks:
        least = min(
            sum(min(sum(use.gpus for use in vector) for vector in own) for own in roles.values())
            for roles in ask.modes.values()
            if all(roles.values())
        )
        found.append(f"{ask.name}: {least} GPUs at least")
    return found
