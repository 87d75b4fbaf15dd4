"""One step of a plan, operator by operator: its graph run on its ranks, healthy or with faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.errors import Problem, SpecError
from optimizer.plan import Deployment, Plan
from optimizer.simulate.engine import Run, run_graph
from optimizer.simulate.faults import places
from optimizer.simulate.graph.build import Wanted, micro_batches_of, plan_graph
from optimizer.simulate.graph.check import check_graph
from optimizer.simulate.graph.graph import Floats, Graph
from optimizer.simulate.graph.operations import operations_of
from optimizer.simulate.measuring import Memory, RankTimes, rank_times, replayed_memory
from optimizer.simulate.serving.serve import NOTHING_WRONG, Conditions
from optimizer.simulate.table import COLLECTIVES, phase_table
from optimizer.simulate.training_step import step_graph, training_of

TURNS = 3  # decode steps in a row: the last one is the steady state


@dataclass(frozen=True)
class StepRun:
    """A phase of a deployment: what ran, what each rank did, and what the plan's own table says of
    the same step. step_s is the time from one step to the next in the steady state."""

    deployment: Deployment
    phase: str
    micro_batches: int
    run: Run
    ranks: RankTimes
    memory: Memory
    step_s: float
    planned_s: float
    static_bytes: float
    notes: tuple[str, ...]


def refuse_load(options: Mapping[str, Any]) -> None:
    """A single step has no arrivals, and a training plan is run a step at a time."""
    for name in ("arrivals", "rate", "requests"):
        if options.get(name) is not None:
            raise SpecError(
                Problem("belongs to a load; a single step has none: leave it out", key=f"--{name}")
            )


def steps(plan: Plan, faults: Conditions = NOTHING_WRONG) -> tuple[StepRun, ...]:
    """Every phase of every deployment; of one that trains its step."""
    found = []
    for number, deployment in enumerate(plan.deployments):
        if not deployment.phases:
            found.append(_training_step(plan, number, deployment, faults))
        found += [_step(plan, number, deployment, phase, faults) for phase in deployment.phases]
    return tuple(found)


def _training_step(plan: Plan, number: int, deployment: Deployment, faults: Conditions) -> StepRun:
    """A stage is as slow as its slowest GPU, and stops where one dies."""
    if faults.skew is not None:
        raise SpecError(Problem("is of serving; a training plan states its own", key="--skew"))
    graph = step_graph(plan, number)
    where = places(plan)
    hit = [gpu for gpu, *_ in (*faults.slow, *faults.deaths)]
    speeds: dict[int, float] = {}
    for slow in faults.slow:
        if slow.gpu in where:
            stage = where[slow.gpu].stage
            speeds[stage] = min(slow.speed, speeds.get(stage, slow.speed))
    deaths = {where[death.gpu].stage: death.at_s for death in faults.deaths if death.gpu in where}
    run = run_graph(graph, _slowed(graph, graph.column("seconds"), speeds), deaths)
    return StepRun(
        deployment,
        "training",
        training_of(deployment).micro_batches,
        run,
        rank_times(run),
        replayed_memory(run),
        run.seconds,
        plan.predictions["step_s"].value,
        static_bytes(deployment),
        (
            "messages between stages are held from the moment they are sent",
            *(f"{gpu} is idle in this plan" for gpu in hit if gpu not in where),
        ),
    )


def _step(
    plan: Plan, number: int, deployment: Deployment, phase: str, faults: Conditions
) -> StepRun:
    where = places(plan)
    hit = [gpu for gpu, *_ in (*faults.slow, *faults.deaths)]
    notes = [f"{gpu} is idle in this plan" for gpu in hit if gpu not in where]
    replicas = {where[gpu].replica for gpu in hit if gpu in where and where[gpu][0] == number}
    skewed = faults.skew is not None and deployment.layout.ep > 1
    turns = TURNS if phase == "decode" else 1
    wanted = Wanted(
        (phase,),
        all_ranks=bool(replicas) or skewed,
        turns=turns,
        replicas=tuple(sorted(replicas)) or (0,),
    )
    graph = plan_graph(_alone(plan, number), wanted)
    check_graph(graph, _alone(plan, number))
    seconds = graph.column("seconds")
    if skewed and faults.skew is not None:
        seconds = _skewed(plan, deployment, phase, graph, faults.skew)
    ranks = {rank.gpu: place for place, rank in enumerate(graph.ranks)}
    seconds = _slowed(
        graph, seconds, {ranks[s.gpu]: s.speed for s in faults.slow if s.gpu in ranks}
    )
    deaths = {ranks[death.gpu]: death.at_s for death in faults.deaths if death.gpu in ranks}
    run = run_graph(graph, seconds, deaths)
    micro_batches = micro_batches_of(plan, deployment, phase)
    return StepRun(
        deployment,
        phase,
        micro_batches,
        run,
        rank_times(run),
        replayed_memory(run),
        _steady(run, turns),
        planned_seconds(deployment, phase, micro_batches),
        static_bytes(deployment),
        tuple(notes),
    )


def _alone(plan: Plan, number: int) -> Plan:
    return plan.model_copy(update={"deployments": (plan.deployments[number],)})


def _steady(run: Run, turns: int) -> float:
    ends = [float(run.end_s[run.graph.turn == turn].max()) for turn in range(turns)]
    return ends[-1] - ends[-2] if turns > 1 else ends[-1]


def planned_seconds(deployment: Deployment, phase: str, micro_batches: int) -> float:
    """The same step by the plan's table alone: decode goes round, or waits for the slowest stage;
    prefill's chunks follow each other."""
    table = phase_table(deployment, phase)
    around, slowest = table.total_seconds[0], table.slowest_stage_s
    if phase == "decode":
        return max(around, micro_batches * slowest)
    return around + (micro_batches - 1) * slowest


def static_bytes(deployment: Deployment) -> float:
    """What the fullest stage holds all the time: weights, cache, buffers, the runtime's own."""
    stage = deployment.memory.stages[deployment.memory.fullest_stage]
    return stage.total_bytes - stage.components.get("activations", 0.0)


def _slowed(graph: Graph, seconds: Floats, speeds: Mapping[int, float]) -> Floats:
    """Compute and memory operators of slow ranks take longer; all others wait where they meet."""
    if not speeds:
        return seconds
    factor = np.ones(len(graph.teams))
    for team, members in enumerate(graph.teams):
        if len(members) == 1:
            factor[team] = 1.0 / speeds.get(members[0], 1.0)
    talks = graph.of_kind(*COLLECTIVES)
    found: Floats = seconds * np.where(talks, 1.0, factor[graph.team])
    return found


def _skewed(plan: Plan, deployment: Deployment, phase: str, graph: Graph, skew: float) -> Floats:
    """The first expert rank has `skew` times the mean load, the others share the rest evenly."""
    ep = deployment.layout.ep
    if skew > ep:
        raise SpecError(
            Problem(f"{skew:g} times the mean is more than all of {ep} expert ranks", key="--skew")
        )
    planned = plan.workload.expert_imbalance or 1.0
    hot, cold = skew / planned, (ep - skew) / (ep - 1) / planned
    of_load = [
        np.array(
            [
                each.seconds
                for each in operations_of(plan.cluster, plan.model, deployment, phase, load)
            ]
        )
        for load in (hot, cold)
    ]
    experts = (
        graph.of_kind("grouped_gemm")
        | np.array([each.name == "expert_rows" for each in graph.operations])[graph.operation]
    )
    parts = deployment.placement.ranks
    is_hot = np.array([parts[rank.rank].ep == 0 for rank in graph.ranks])
    first = np.array([team[0] for team in graph.teams])[graph.team]
    loaded = np.where(is_hot[first], of_load[0][graph.operation], of_load[1][graph.operation])
    exchanges = graph.of_kind("all_to_all")
    seconds = np.where(experts, loaded, graph.column("seconds"))
    return np.where(exchanges, of_load[0][graph.operation], seconds)
