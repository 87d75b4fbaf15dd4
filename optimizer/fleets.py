"""`optimize fleet`: several models on one cluster. read -> price -> choose -> plan -> verify."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from optimizer.cost.memory import sequence_cache_bytes
from optimizer.cost.rows import Rows, expand
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
from optimizer.spec.fleet import Demand, Fleet, Mode, Role
from optimizer.spec.workload import ServingWorkload
from optimizer.verify import Finding, verify_plan
from optimizer.verify.fleet import verify_fleet

ROLES: dict[Mode, tuple[Role, ...]] = {
    "aggregated": ("serving",),
    "disaggregated": ("prefill", "decode"),
}


class Part(NamedTuple):
    """One chosen use of a demand."""

    demand: Demand
    mode: Mode
    role: Role
    use: Use
    share_per_s: float


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
    plans = [_plan(cluster, part, names) for part, names in zip(parts, gpus, strict=True)]
    return _document(fleet, asks, choice, list(zip(parts, gpus, plans, strict=True)), notes)


def _beside(other: FleetChoice | None, best: FleetChoice) -> str:
    """Another choice's objective beside the best one's."""
    if other is None:
        return "the demands do not fit the cluster"
    values = [abs(choice.value) / choice.scale for choice in (other, best)]
    return f"{best.criterion} {values[0]:,.6g} against {values[1]:,.6g}"


def offers_for(fleet: Fleet, demand: Demand, role: Role) -> tuple[Offer, ...]:
    """What one replica of the demand's model serves at most in each pool, by the room it takes.

    A prefill worker takes one prompt a rank at a time: what waits for it is not counted on.
    """
    workload = role_workload(fleet.cluster, demand, role)
    if workload is None:
        return ()
    spaces = []
    for pool in range(len(fleet.cluster.pools)):
        space = enumerate_layouts(fleet.cluster, pool, demand.model, workload)
        small = space.layouts.gpus_per_replica <= fleet.max_replica_gpus
        spaces.append(Space(space.layouts.take(small), space.enumerated, space.removed))
    rows_of = one_at_a_time if role == "prefill" else expand
    found = price(fleet.cluster, demand.model, workload, spaces, rows_of=rows_of)
    return offers_of(found.candidates, workload.output_len)


def one_at_a_time(*asked: Any) -> Rows:
    """The rows of a space in which every rank holds one request."""
    rows = expand(*asked)
    return rows.take(rows.sequences == 1)


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
    """Seconds to move one request's cache, whole, over one GPU's share of the slowest link: an
    upper bound, since ranks send their parts at once and layer by layer."""
    links = [pool.inter_node for pool in cluster.pools]
    if cluster.inter_pool is not None:
        links.append(cluster.inter_pool)
    one = np.ones(1)
    size = sum(
        float(
            sequence_cache_bytes(
                demand.model.layer_types[name], demand.model, demand.workload.input_len, one, one
            )[0]
        )
        for name in demand.model.layer_names
    )
    return max(link.latency_s + size / link.bandwidth_bytes_per_s for link in links)


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
    found = []
    for role in dict.fromkeys(role for mode in demand.modes for role in ROLES[mode]):
        rates = [
            offer.requests_per_s * (fleet.cluster.live_gpus(offer.pool) // offer.gpus)
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


def _plan(cluster: Cluster, part: Part, gpus: Iterable[str]) -> Plan:
    """The part as an ordinary plan on its own GPUs: every other one counts as dead there."""
    alone = cluster_of_gpus(cluster, part.use.offer.pool, set(gpus))
    layout = part.use.offer.layout.model_copy(update={"replicas": part.use.replicas})
    load: dict[str, Any] = {"request_rate": part.share_per_s}
    if part.role == "prefill":
        load = {"concurrency": layout.dp * layout.replicas}
    workload = role_workload(cluster, part.demand, part.role)
    assert workload is not None
    workload = workload.model_copy(update=load)
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
