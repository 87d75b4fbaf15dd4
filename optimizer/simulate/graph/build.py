"""A plan's forward steps as an execution graph: every operator of every stage and micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from optimizer.errors import PlanError, Problem, SpecError
from optimizer.plan import Deployment, Plan
from optimizer.simulate.graph.graph import (
    RECEIVE,
    Flags,
    Floats,
    Graph,
    Ids,
    Operation,
    Rank,
    joined,
)
from optimizer.simulate.graph.operations import operation_pools, operations_of, received
from optimizer.simulate.graph.stages import StageGraph, stage_graph, teams_of
from optimizer.simulate.table import POOL_SEND
from optimizer.spec.workload import ServingWorkload

STAGE_SEND = "stage_send"
TOKEN_BYTES = 4.0  # a token's id on its way back to the first stage


class Wanted(NamedTuple):
    """What of a plan becomes a graph. phases: () is all that it has. all_ranks: else one rank of
    each stage stands for its equals, in all replicas. turns: decode steps one after the other."""

    phases: tuple[str, ...] = ()
    all_ranks: bool = False
    micro_batches: int | None = None
    turns: int = 1
    replicas: tuple[int, ...] | None = None  # with all_ranks: these alone


WHOLE = Wanted()


def plan_graph(plan: Plan, wanted: Wanted = WHOLE) -> Graph:
    """The graph of a plan: each phase of each deployment apart, over the same ranks."""
    phases = tuple(dict.fromkeys(name for each in plan.deployments for name in each.phases))
    if unknown := [name for name in wanted.phases if name not in phases]:
        known = ", ".join(phases) or "none: it trains"
        raise SpecError(
            Problem(f"the plan has no phase {unknown[0]!r}; its phases are {known}", key="--phase")
        )
    if not phases:
        raise PlanError("the plan has no operator table to draw; training plans have none")
    ranks, firsts = ranks_of(plan, wanted)
    teams: list[tuple[int, ...]] = []
    parts = []
    for number, deployment in enumerate(plan.deployments):
        first_team = len(teams)
        within = teams_of(deployment, wanted.all_ranks)
        for place in range(len(_replicas(deployment, wanted))):
            for stage in range(deployment.layout.pp):
                start = firsts[number] + (place * deployment.layout.pp + stage) * within.width
                teams += [tuple(start + each for each in team) for team in within.all]
        for phase in deployment.phases:
            if not wanted.phases or phase in wanted.phases:
                parts.append((deployment, phase, first_team))
    graphs = [
        _phase_graph(plan, deployment, phase, first_team, wanted)
        for deployment, phase, first_team in parts
    ]
    return joined([replace(graph, ranks=ranks, teams=tuple(teams)) for graph in graphs])


def ranks_of(plan: Plan, wanted: Wanted) -> tuple[tuple[Rank, ...], list[int]]:
    """All workers, and the first of each deployment."""
    ranks: list[Rank] = []
    firsts = []
    for number, deployment in enumerate(plan.deployments):
        firsts.append(len(ranks))
        layout, placement = deployment.layout, deployment.placement
        _check_placement(deployment)
        for replica in _replicas(deployment, wanted):
            for part in placement.ranks:
                if not wanted.all_ranks and part.rank % layout.width:
                    continue
                gpu = placement.rank_gpu[replica][part.rank]
                fold = 1 if wanted.all_ranks else layout.width * layout.replicas
                experts = part.experts if wanted.all_ranks else _all_experts(plan, deployment)
                ranks.append(Rank(gpu, number, replica, part.rank, part.stage, fold, experts))
    return tuple(ranks), firsts


def _check_placement(deployment: Deployment) -> None:
    layout, placement = deployment.layout, deployment.placement
    where = f"placement of {deployment.name}"
    if len(placement.stage_layers) != layout.pp:
        raise PlanError(f"{where}: {len(placement.stage_layers)} stages for pp {layout.pp}")
    if len(placement.ranks) != layout.gpus_per_replica:
        raise PlanError(
            f"{where}: {len(placement.ranks)} ranks, the layout has {layout.gpus_per_replica}"
        )
    for number, part in enumerate(placement.ranks):
        if (part.rank, part.stage) != (number, number // layout.width):
            raise PlanError(f"{where}: rank {part.rank} of stage {part.stage} is out of its place")
    if len(placement.rank_gpu) != layout.replicas or any(
        len(gpus) != layout.gpus_per_replica for gpus in placement.rank_gpu
    ):
        raise PlanError(f"{where}: not every rank of every replica has its GPU")


def _all_experts(plan: Plan, deployment: Deployment) -> str:
    moe = plan.model.moe
    return f"0-{moe.num_experts - 1}" if moe is not None else ""


def _replicas(deployment: Deployment, wanted: Wanted) -> tuple[int, ...]:
    """Folded, the first replica stands for all."""
    if not wanted.all_ranks:
        return (0,)
    every = range(deployment.layout.replicas)
    asked = wanted.replicas
    return tuple(each for each in every if asked is None or each in asked)


def micro_batches_of(plan: Plan, deployment: Deployment, phase: str) -> int:
    """Micro-batches of one step; the prefill chunks of one prompt follow each other like them."""
    workload = plan.workload
    if phase == "prefill" and isinstance(workload, ServingWorkload):
        fresh = workload.input_len - workload.prefix_len
        return -(-fresh // max(1, deployment.batch.prefill_chunk))
    return deployment.batch.micro_batches


def _phase_graph(
    plan: Plan, deployment: Deployment, phase: str, first_team: int, wanted: Wanted
) -> Graph:
    """Blocks of nodes, one a (turn, micro-batch, replica, stage), in an order in which every edge
    leads forward: acyclic by construction."""
    operations = operations_of(plan.cluster, plan.model, deployment, phase)
    teams = teams_of(deployment, wanted.all_ranks)
    names = plan.model.layer_names
    cuts = deployment.placement.stage_layers
    if [*range(len(names))] != [layer for start, end in cuts for layer in range(start, end)]:
        raise PlanError(f"placement of {deployment.name}: its stages do not hold each layer once")
    homes, pools = operation_pools(deployment, phase), deployment.stage_pools
    sends = [POOL_SEND if one != other else STAGE_SEND for one, other in pairwise(pools)]
    stages = [
        stage_graph(
            operations,
            teams,
            [index for index, home in enumerate(homes) if home in (pools[number], None)],
            [(layer, names[layer]) for layer in range(start, end)],
            received(sends[number - 1]) if number else None,
            sends[number] if number < len(sends) else None,
        )
        for number, (start, end) in enumerate(cuts)
    ]
    asked = wanted.micro_batches
    micro_batches = micro_batches_of(plan, deployment, phase) if asked is None else asked
    turns = wanted.turns if phase == "decode" else 1
    messages = [each.tensor_bytes for each in operations if each.kind == RECEIVE]
    blocks = _Blocks(stages, first_team, len(teams.all), max(messages, default=0.0))
    for turn in range(turns):
        for micro_batch in range(micro_batches):
            for replica in range(len(_replicas(deployment, wanted))):
                for stage in range(len(stages)):
                    blocks.add(turn, micro_batch, replica, stage)
    return blocks.graph(operations)


class _Blocks:
    """Copies of stage graphs laid one after the other, and the edges between them."""

    def __init__(
        self, stages: Sequence[StageGraph], first_team: int, num_teams: int, message_bytes: float
    ) -> None:
        self.stages, self.message_bytes = stages, message_bytes
        self.first_team, self.num_teams = first_team, num_teams
        self.count = 0
        self.nodes: list[tuple[Ids, ...]] = []
        self.edges: list[tuple[Ids, Ids, Floats, Flags]] = []
        self.starts: dict[tuple[int, int, int, int], int] = {}
        self.latest: dict[tuple[int, int], int] = {}

    def add(self, turn: int, micro_batch: int, replica: int, stage: int) -> None:
        """A stage's block: after what the stage ran before, and after the stage before it."""
        graph, start = self.stages[stage], self.count
        size, last = len(graph.operation), len(self.stages) - 1
        team = graph.team + self.first_team + (replica * len(self.stages) + stage) * self.num_teams
        filled = [np.full(size, value, dtype=np.int32) for value in (stage, micro_batch, turn)]
        self.nodes.append((graph.operation, team.astype(np.int32), graph.layer, *filled))
        self.edges.append(
            (graph.source + start, graph.target + start, graph.tensor_bytes, graph.data)
        )
        if stage:
            sender = self.starts[turn, micro_batch, replica, stage - 1]
            sends = self.stages[stage - 1].sends + sender
            self._join(sends, graph.receives + start, self.message_bytes, True)
        if (replica, stage) in self.latest:
            earlier = self.latest[replica, stage]
            self._join(graph.last + earlier, graph.first + start, 0.0, False)
        if turn and not stage:
            end = self.starts[turn - 1, micro_batch, replica, last]
            self._join(self.stages[last].last + end, graph.first + start, TOKEN_BYTES, True)
        self.starts[turn, micro_batch, replica, stage] = start
        self.latest[replica, stage] = start
        self.count += size

    def _join(self, source: Ids, target: Ids, moved_bytes: float, data: bool) -> None:
        pairs = np.unique(np.stack([source, target]), axis=1).astype(np.int32)
        size = pairs.shape[1]
        self.edges.append((pairs[0], pairs[1], np.full(size, moved_bytes), np.full(size, data)))

    def graph(self, operations: tuple[Operation, ...]) -> Graph:
        """All blocks and what joins them; ranks and teams are the plan's and come later."""
        operation, team, layer, stage, micro_batch, turn = (
            np.concatenate(column) for column in zip(*self.nodes, strict=True)
        )
        source, target, moved, data = (
            np.concatenate(column) for column in zip(*self.edges, strict=True)
        )
        return Graph(
            operations=operations,
            ranks=(),
            teams=(),
            operation=operation,
            team=team,
            layer=layer,
            stage=stage,
            micro_batch=micro_batch,
            turn=turn,
            source=source,
            target=target,
            tensor_bytes=moved,
            data=data,
        )
