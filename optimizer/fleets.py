"""`optimize fleet`: several models on one cluster. read -> price -> choose -> plan -> verify."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from optimizer.errors import InfeasibleError
from optimizer.layout import Space, enumerate_layouts
from optimizer.pipeline import optimize, price
from optimizer.plan import Plan
from optimizer.plan.fleet import FleetPart, FleetPlan, FleetProof, Served, sealed_fleet
from optimizer.report.table import aligned
from optimizer.search.fleet import (
    CRITERIA,
    Ask,
    FleetChoice,
    Offer,
    Use,
    choose_fleet,
    name_gpus,
    offers_of,
    packable,
    rooms_of,
    served_by,
    vectors_of,
)
from optimizer.spec.cluster import Cluster, Pool
from optimizer.spec.fleet import Demand, Fleet
from optimizer.verify import Finding, verify_plan
from optimizer.verify.fleet import verify_fleet


class Part(NamedTuple):
    """One chosen use of a demand."""

    demand: Demand
    mode: str
    role: str
    use: Use
    share_per_s: float


def plan_fleet(fleet: Fleet) -> FleetPlan:
    """The best way to serve all demands at once, proven over its stated space.

    Raises InfeasibleError with what each demand would need where they do not fit together.
    """
    cluster = fleet.cluster
    offers = [offers_for(fleet, demand) for demand in fleet.demands]
    kept, notes = packable(cluster, [offer for own in offers for offer in own])
    usable = set(kept)
    rooms = rooms_of(cluster, kept)
    asks = []
    for demand, own in zip(fleet.demands, offers, strict=True):
        vectors = vectors_of(
            [offer for offer in own if offer in usable],
            rooms,
            demand.wanted_per_s,
            fleet.max_pools,
            partial=fleet.objective == "served",
        )
        asks.append(
            Ask(
                demand.name,
                demand.wanted_per_s,
                demand.weight,
                {"aggregated": {"serving": vectors}},
            )
        )
    _all_can_be_served(fleet, asks)
    prices = [pool.gpu.price_per_hour or 0.0 for pool in cluster.pools]
    choice = choose_fleet(asks, rooms, prices, fleet.objective)
    if choice is None:
        raise InfeasibleError("the demands do not fit the cluster together", _alone(asks))
    parts = parts_of(fleet, choice)
    gpus = name_gpus(cluster, rooms, [part.use for part in parts])
    plans = [_plan(cluster, part, names) for part, names in zip(parts, gpus, strict=True)]
    return _document(fleet, asks, choice, list(zip(parts, gpus, plans, strict=True)), notes)


def offers_for(fleet: Fleet, demand: Demand) -> tuple[Offer, ...]:
    """What one replica of the demand's model serves at most in each pool, by the room it takes."""
    free = demand.workload.model_copy(update={"request_rate": None})
    spaces = []
    for pool in range(len(fleet.cluster.pools)):
        space = enumerate_layouts(fleet.cluster, pool, demand.model, free)
        small = space.layouts.gpus_per_replica <= fleet.max_replica_gpus
        spaces.append(Space(space.layouts.take(small), space.enumerated, space.removed))
    candidates = price(fleet.cluster, demand.model, free, spaces).candidates
    return offers_of(candidates, demand.workload.output_len)


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
    offers = offers_for(fleet, demand)
    if not offers:
        return "no replica keeps its limits"
    rates = [
        offer.requests_per_s * (fleet.cluster.live_gpus(offer.pool) // offer.gpus)
        for offer in offers
    ]
    return f"{max(rates):.3g} at most from one layout in one pool"


def _alone(asks: Sequence[Ask]) -> list[str]:
    """The fewest GPUs that each demand needs for itself."""
    return [
        f"{ask.name}: {min(sum(use.gpus for use in vector) for vector in vectors)} GPUs at least"
        for ask in asks
        for roles in ask.modes.values()
        for vectors in roles.values()
    ]


def _plan(cluster: Cluster, part: Part, gpus: Iterable[str]) -> Plan:
    """The part as an ordinary plan on its own GPUs: every other one counts as dead there."""
    alone = cluster_of_gpus(cluster, part.use.offer.pool, set(gpus))
    layout = part.use.offer.layout.model_copy(update={"replicas": part.use.replicas})
    workload = part.demand.workload.model_copy(update={"request_rate": part.share_per_s})
    strategy = f"canonical:{layout.name}"
    return optimize(alone, part.demand.model, workload, top=1, strategy=strategy).best


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


def _document(
    fleet: Fleet,
    asks: Sequence[Ask],
    choice: FleetChoice,
    parts: Sequence[tuple[Part, tuple[str, ...], Plan]],
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
        served.append(
            Served(demand=demand.name, wanted_per_s=demand.wanted_per_s, served_per_s=rate)
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
        proof=FleetProof(
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
            tie_break=CRITERIA[fleet.objective][1:],
        ),
        notes=tuple(notes),
        plans=tuple(plan for _, _, plan in parts),
    )
    return sealed_fleet(found)


def verify(fleet: FleetPlan) -> list[Finding]:
    """The second opinion: the fleet as a partition, and every part's own plan."""
    document = fleet.model_dump(mode="json", by_alias=True)
    return [
        *verify_fleet(document),
        *(finding for plan in document["plans"] for finding in verify_plan(plan)),
    ]


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
        f"{proof.status}: {proof.objective} {abs(proof.value) / proof.scale:,.6g}, bound "
        f"{abs(proof.bound) / proof.scale:,.6g}, gap {proof.gap:.2%}; {proof.vectors:,} usage "
        f"vectors, {proof.combinations:.1e} combinations",
        *fleet.notes,
    ]
    return "\n".join(lines)
