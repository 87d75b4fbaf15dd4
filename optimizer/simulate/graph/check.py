"""What must hold of every execution graph: no cycle, and nothing of the plan left out."""

from __future__ import annotations

import numpy as np

from optimizer.errors import PlanError
from optimizer.plan import Deployment, Plan
from optimizer.simulate.graph.graph import Flags, Graph, topological_order


def check_graph(graph: Graph, plan: Plan) -> None:
    """PlanError where an edge leads nowhere or round in a circle, or where a layer, a micro-batch
    or an expert is missing."""
    size = len(graph)
    for name in ("source", "target"):
        ends = getattr(graph, name)
        if len(ends) and (ends.min() < 0 or ends.max() >= size):
            raise PlanError(f"the execution graph has an edge whose {name} is no node")
    topological_order(graph)
    deployment_of = np.array([rank.deployment for rank in graph.ranks])
    team_deployment = np.array([deployment_of[team[0]] for team in graph.teams])
    phases = np.array([operation.phase for operation in graph.operations])[graph.operation]
    for number, deployment in enumerate(plan.deployments):
        own = team_deployment[graph.team] == number
        for phase in deployment.phases:
            chosen = own & (phases == phase)
            if chosen.any():
                _check_phase(graph, plan, deployment, chosen, f"{deployment.name}, {phase}")


def _check_phase(
    graph: Graph, plan: Plan, deployment: Deployment, chosen: Flags, where: str
) -> None:
    num_layers = len(plan.model.layer_names)
    runs = np.unique(np.stack([graph.micro_batch[chosen], graph.turn[chosen]]), axis=1)
    layers = graph.layer[chosen]
    met = np.unique(
        np.stack([layers, graph.micro_batch[chosen], graph.turn[chosen]])[:, layers >= 0], axis=1
    )
    if met.shape[1] != num_layers * runs.shape[1]:
        raise PlanError(
            f"the execution graph of {where} runs {met.shape[1]} layers of micro-batches, the plan "
            f"has {num_layers * runs.shape[1]}"
        )
    if plan.model.moe is not None:
        _check_experts(graph, plan, chosen & graph.of_kind("grouped_gemm"), where)


def _check_experts(graph: Graph, plan: Plan, chosen: Flags, where: str) -> None:
    """In every layer with experts, the ranks that run them hold each expert."""
    assert plan.model.moe is not None
    every = set(range(plan.model.moe.num_experts))
    team_ranks = np.array([team[0] for team in graph.teams])
    pairs = np.unique(np.stack([graph.layer[chosen], team_ranks[graph.team[chosen]]]), axis=1)
    for layer in np.unique(pairs[0]).tolist():
        held: set[int] = set()
        for rank in pairs[1, pairs[0] == layer].tolist():
            held |= _numbers(graph.ranks[rank].experts)
        if missing := every - held:
            raise PlanError(
                f"the execution graph of {where} runs no rank that holds expert {min(missing)} of "
                f"layer {layer}"
            )


def _numbers(text: str) -> set[int]:
    """ "0-3" or "2,5-7" as numbers."""
    found: set[int] = set()
    for piece in filter(None, text.split(",")):
        first, _, last = piece.strip().partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
