"""A plan under a load: its deployments as replicas, simulated, with all that happened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from optimizer.errors import PlanError, Problem, SpecError
from optimizer.plan import Deployment, Plan
from optimizer.simulate.collectives import BETWEEN_SHARE, Links, tier_of
from optimizer.simulate.faults import Death, Slow, places
from optimizer.simulate.serving.arrivals import Load
from optimizer.simulate.serving.policy import settings
from optimizer.simulate.serving.replica import Replica, cache_tokens, planned_tokens, replica_of
from optimizer.simulate.serving.simulation import Entry, Record, simulate
from optimizer.simulate.serving.steps import StepTimes, step_times
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

SERVING_ROLES = ("forward", "serving", "prefill", "decode")


class Conditions(NamedTuple):
    """What a simulation adds to its plan: faults, and the hottest expert rank over the mean."""

    slow: tuple[Slow, ...] = ()
    deaths: tuple[Death, ...] = ()
    skew: float | None = None  # None: as the plan was priced


@dataclass(frozen=True)
class Outcome:
    """What happened, and how many equal replicas each simulated one stands for."""

    plan: Plan
    load: Load
    conditions: Conditions
    record: Record
    replicas: int
    fold: int
    num_blocks: tuple[int, ...]  # of a rank of each replica
    block_tokens: int
    notes: tuple[str, ...]

    @property
    def as_planned(self) -> bool:
        """The load is the plan's own and nothing is wrong, so that predictions should hold."""
        return self.load.planned and self.conditions == NOTHING_WRONG


NOTHING_WRONG = Conditions()


def serve(plan: Plan, load: Load, conditions: Conditions = NOTHING_WRONG) -> Outcome:
    """Runs a load through a plan. Equal replicas of a closed loop are simulated once."""
    check_roles(plan)
    check_lengths(plan, load)
    fold = _fold(plan, load, conditions)
    if fold > 1:
        assert load.clients is not None
        share = -(-len(load.requests) // fold)
        load = load._replace(requests=load.requests[:share], clients=load.clients // fold)
    replicas, notes = _replicas(plan, conditions, fold)
    engine = settings().engine(plan.workload.engine)
    forward = isinstance(plan.workload, ForwardWorkload)
    entry = Entry(
        0.0 if forward else engine.base_s,
        plan.workload.prefix_len if isinstance(plan.workload, ServingWorkload) else 0,
        partial(transfer_seconds, plan),
        0.0 if forward else engine.token_s,
    )
    numbers = {place: number for number, place in enumerate(replicas)}
    where = places(plan)
    deaths = [
        (death.at_s, numbers[where[death.gpu][:2]])
        for death in conditions.deaths
        if death.gpu in where
    ]
    record = simulate(list(replicas.values()), load, entry, deaths)
    caches = [each.lanes[0].ranks[0].cache for each in replicas.values()]
    blocks, tokens = tuple(each.pool.num_blocks for each in caches), caches[0].block_tokens
    return Outcome(plan, load, conditions, record, len(replicas), fold, blocks, tokens, notes)


def check_roles(plan: Plan) -> None:
    roles = {deployment.role for deployment in plan.deployments}
    if unknown := roles - set(SERVING_ROLES):
        raise PlanError(f"a {unknown.pop()} plan serves no requests")
    if ("prefill" in roles) != ("decode" in roles):
        raise PlanError(
            "a plan that prefills apart needs a deployment that decodes, and vice versa"
        )


def check_lengths(plan: Plan, load: Load) -> None:
    """Every request fits the cache of one rank and the model's context."""
    longest = max(load.requests, key=lambda each: each.input_tokens + each.output_tokens)
    tokens = longest.input_tokens + longest.output_tokens
    for name, room in longest_requests(plan).items():
        if tokens > room:
            raise SpecError(
                Problem(
                    f"a request of {longest.input_tokens:,} + {longest.output_tokens:,} tokens is "
                    f"longer than {name}, {int(room):,} tokens"
                )
            )


def longest_requests(plan: Plan) -> dict[str, float]:
    """Tokens that one request may have, by what limits them."""
    rooms = {
        f"the cache of one rank of {each.name}": cache_tokens(each, plan.workload)
        for each in plan.deployments
        if each.role != "prefill"
    }
    if plan.model.max_context is not None:
        rooms["the model's context"] = plan.model.max_context
    return rooms


def _fold(plan: Plan, load: Load, conditions: Conditions) -> int:
    """Replicas that one may stand for: all of them where clients share out evenly."""
    replicas = plan.deployment.layout.replicas
    even = load.clients is not None and load.clients % replicas == 0
    alike = len(plan.deployments) == 1 and not conditions.slow and not conditions.deaths
    return replicas if even and alike else 1


def _replicas(
    plan: Plan, conditions: Conditions, fold: int
) -> tuple[dict[tuple[int, int], Replica], tuple[str, ...]]:
    """Replicas by (deployment, number); and what faults hit nothing."""
    where, notes = places(plan), []
    for what, faults in (("is slow", conditions.slow), ("dies", conditions.deaths)):
        for fault in faults:
            if fault.gpu not in where:
                notes.append(f"{fault.gpu} is idle in this plan: that it {what} changes nothing")
    speeds: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for gpu, speed in conditions.slow:
        if gpu in where:
            number, replica, stage = where[gpu]
            held = speeds[number, replica]
            held[stage] = min(speed, held.get(stage, 1.0))
    engine, host = settings().engine(plan.workload.engine), settings().host
    found: dict[tuple[int, int], Replica] = {}
    known: dict[tuple[int, tuple[tuple[int, float], ...]], StepTimes] = {}
    for number, deployment in enumerate(plan.deployments):
        for replica in range(deployment.layout.replicas // fold):
            slow = speeds.get((number, replica), {})
            key = (number, tuple(sorted(slow.items())))
            if key not in known:
                skew = conditions.skew
                known[key] = step_times(plan.cluster, plan.model, deployment, slow, skew)
            found[number, replica] = replica_of(
                len(found), plan.cluster, deployment, plan.workload, known[key], engine, host
            )
    return found, tuple(notes)


def transfer_seconds(plan: Plan, tokens: int) -> float:
    """Sends a prompt's cache from prefill to decode: every rank its own shard, over its own link
    between domains, or between pools; over its share of the spine where some of the workers lie
    under different leaf switches. Left out: overlap with the prefill itself, other transfers on the
    same link."""
    prefill = next(each for each in plan.deployments if each.role == "prefill")
    pool = next(each for each in plan.cluster.pools if each.name == prefill.pool)
    apart = any(each.pool != prefill.pool for each in plan.deployments)
    links = Links.of(pool)
    tier = links.between
    if not _one_leaf(plan):
        tier = tier._replace(bytes_per_s=tier.bytes_per_s / links.oversubscription)
    if apart and plan.cluster.inter_pool is not None:
        tier = tier_of(plan.cluster.inter_pool, BETWEEN_SHARE)
    planned = planned_tokens(prefill, plan.workload)
    held = max(stage.components.get("KV cache", 0.0) for stage in prefill.memory.stages)
    return tier.seconds(1, tokens * held / planned)


def _one_leaf(plan: Plan) -> bool:
    """Whether all workers lie under one leaf switch of one pool."""
    leaf = {gpu: (each.pool, each.leaf) for each in plan.cluster.domains for gpu in each.gpus}
    workers = [gpus for each in plan.deployments for gpus in each.placement.rank_gpu]
    return len({leaf[gpu] for gpus in workers for gpu in gpus}) == 1


def planned_clients(deployments: Sequence[Deployment]) -> int:
    """Requests in flight that a plan was made for."""
    return max(1, round(max(each.batch.concurrency for each in deployments)))
