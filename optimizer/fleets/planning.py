"""The line of a fleet: price -> choose -> place -> plan each part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from optimizer.cost.calibration import Calibration
from optimizer.errors import InfeasibleError
from optimizer.fleets.alternatives import alternatives
from optimizer.fleets.answer import document_of
from optimizer.fleets.parts import parts_of, plan_of
from optimizer.fleets.roles import ROLES, offers_for, role_workload, transfer_s
from optimizer.layout import ParallelLayout
from optimizer.plan.fleet import FleetPlan
from optimizer.search.fleet import (
    Ask,
    FleetChoice,
    Near,
    Offer,
    PoolRoom,
    choose_fleet,
    name_gpus,
    packable,
    rooms_of,
    vectors_of,
)
from optimizer.spec.fleet import Demand, Fleet, Mode, Role


class Asked(NamedTuple):
    """What a fleet's demands may be served by, in which room and at which prices an hour."""

    asks: tuple[Ask, ...]
    rooms: tuple[PoolRoom, ...]
    prices: tuple[float, ...]
    notes: tuple[str, ...]


Offers = Mapping[Role, tuple[Offer, ...]]  # of one demand


def plan_fleet(fleet: Fleet) -> FleetPlan:
    """The best way to serve all demands at once, proven over its stated space.

    Raises InfeasibleError with what each demand would need where they do not fit together.
    """
    asked = asked_of(fleet, [offers_by_role(fleet, demand) for demand in fleet.demands])
    choice, notes = best_of(fleet, asked)
    return answer_with(fleet, asked, choice, notes)


def best_of(fleet: Fleet, asked: Asked) -> tuple[FleetChoice, list[str]]:
    """(the best choice, notes on it); raises InfeasibleError where there is none."""
    _all_can_be_served(fleet, asked.asks)
    choice = choose_fleet(asked.asks, asked.rooms, asked.prices, fleet.objective)
    if choice is None:
        raise InfeasibleError("the demands do not fit the cluster together", _alone(asked.asks))
    return choice, [*asked.notes, *alternatives(fleet, asked, choice)]


def offers_by_role(
    fleet: Fleet,
    demand: Demand,
    layers: int = 1,
    calibration: Calibration | None = None,
    always: Collection[tuple[int, ParallelLayout]] = (),
) -> Offers:
    """The offers of every role that some mode of the demand has."""
    roles = dict.fromkeys(role for mode in demand.modes for role in ROLES[mode])
    return {role: offers_for(fleet, demand, role, layers, calibration, always) for role in roles}


def asked_of(
    fleet: Fleet,
    offers: Sequence[Offers],
    layers: int = 1,
    chains: bool = False,
    near: Sequence[Near | None] | None = None,
) -> Asked:
    """Every way to serve each role of each demand that fits the pools' room alone; with `chains`
    by replicas in pieces whose sizes divide each other; with `near`, one for each demand, ways that
    keep what runs."""
    cluster = fleet.cluster
    every_offer = [offer for own in offers for every in own.values() for offer in every]
    kept, notes = packable(cluster, every_offer, chains)
    usable = set(kept)
    rooms = rooms_of(cluster, kept)
    asks = []
    stay = near or [None] * len(fleet.demands)
    for demand, own, close in zip(fleet.demands, offers, stay, strict=True):
        vectors = {
            role: vectors_of(
                [offer for offer in every if offer in usable],
                rooms,
                demand.wanted_per_s,
                fleet.max_pools,
                partial=fleet.objective == "served",
                layers=layers,
                near=close,
            )
            for role, every in own.items()
        }
        modes = {mode: {role: vectors[role] for role in ROLES[mode]} for mode in demand.modes}
        asks.append(Ask(demand.name, demand.wanted_per_s, demand.weight, modes))
    prices = tuple(pool.gpu.price_per_hour or 0.0 for pool in cluster.pools)
    return Asked(tuple(asks), rooms, prices, tuple(notes))


def answer_with(
    fleet: Fleet,
    asked: Asked,
    choice: FleetChoice,
    notes: Sequence[str],
    calibration: Calibration | None = None,
) -> FleetPlan:
    """A choice as a fleet's document: GPUs named, a plan of its own for every part."""
    parts = parts_of(fleet, choice)
    gpus = name_gpus(fleet.cluster, asked.rooms, [part.use for part in parts])
    plans = [
        plan_of(fleet.cluster, part, names, calibration)
        for part, names in zip(parts, gpus, strict=True)
    ]
    placed = list(zip(parts, gpus, plans, strict=True))
    return document_of(fleet, asked.asks, choice, placed, notes)


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
                + ", ".join(
                    _most(fleet, demand, role, offers)
                    for role, offers in offers_by_role(fleet, demand).items()
                )
                for demand in fleet.demands
                if demand.name in hopeless
            ],
        )


def shortfall(fleet: Fleet, mode: Mode, offers: Offers) -> str:
    """Why a mode of the only demand has no answer: what its roles could serve at most, each alone
    on the cluster."""
    (demand,) = fleet.demands
    most = [_most(fleet, demand, role, offers[role]) for role in ROLES[mode]]
    if fleet.objective == "served":
        least = [min((offer.gpus for offer in offers[role]), default=0) for role in ROLES[mode]]
        alone = f"; {sum(least)} GPUs at least for both" if len(least) > 1 and all(least) else ""
        return ", ".join(most) + alone
    return f"{demand.wanted_per_s:g} requests/s asked for; " + ", ".join(most)


def _most(fleet: Fleet, demand: Demand, role: Role, offers: Sequence[Offer]) -> str:
    if offers:
        rates = _most_by_pool(fleet, offers)
        text = f"{role} {max(rates):.3g} at most from one layout in one pool"
        return text if sum(rates) == max(rates) else f"{text}, {sum(rates):.3g} in all"
    if role_workload(fleet.cluster, demand, role) is None:
        moving = f"{transfer_s(fleet.cluster, demand):.3g} s"
        return f"{role} has no time left: moving the cache takes {moving} of the TTFT limit"
    return f"{role} finds no replica that keeps its limits"


def _most_by_pool(fleet: Fleet, offers: Sequence[Offer]) -> list[float]:
    """Requests a second of the best offer in each pool with the whole pool to itself."""
    rates = [0.0] * len(fleet.cluster.pools)
    for offer in offers:
        most = offer.requests_per_s(fleet.cluster.live_gpus(offer.pool) // offer.gpus)
        rates[offer.pool] = max(rates[offer.pool], most)
    return rates


def most_per_s(fleet: Fleet, offers: Offers) -> float:
    """Requests a second that no way to serve the only demand exceeds: as if every role had all
    pools to itself."""
    (demand,) = fleet.demands
    rates = {role: sum(_most_by_pool(fleet, own)) for role, own in offers.items()}
    return max(min(rates[role] for role in ROLES[mode]) for mode in demand.modes)


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
