"""A training plan's step as a graph: passes of chunks under its schedule, then what runs once.

One worker stands for every rank of a stage. Seconds of passes are the plan's; messages between
stages are derived from their bytes and the links that the placement spans. What shows of the data
parallel exchange beside the last backward passes is taken from the plan, as one number.
"""

from __future__ import annotations

from collections import Counter

from optimizer.errors import PlanError
from optimizer.plan import Deployment, Plan
from optimizer.plan.training import Training
from optimizer.simulate.collectives import Links, collective_seconds
from optimizer.simulate.graph.graph import Graph, Rank, topological_order
from optimizer.simulate.graph.training import ChunkTimes, Pipeline, training_graph

ONCE = ("dp", "optimizer", "other")  # parts of a step that run once, after all passes


def training_of(deployment: Deployment) -> Training:
    """What the plan says of its steps; PlanError where it does not train."""
    if deployment.training is None:
        raise PlanError("the plan has no operator table and does not train; plan again")
    return deployment.training


def step_graph(plan: Plan, number: int) -> Graph:
    """The checked graph of one step of a deployment."""
    deployment = plan.deployments[number]
    training, width = training_of(deployment), deployment.layout.width
    gpus = deployment.placement.rank_gpu[0]
    ranks = [
        Rank(gpus[stage * width], number, 0, stage * width, stage, width * len_replicas(plan), "")
        for stage in range(deployment.layout.pp)
    ]
    graph = training_graph(pipeline_of(plan, number), ranks)
    check_passes(graph, training)
    return graph


def len_replicas(plan: Plan) -> int:
    """Copies of the pipeline."""
    return sum(len(deployment.placement.rank_gpu) for deployment in plan.deployments)


def pipeline_of(plan: Plan, number: int) -> Pipeline:
    """The plan's pipeline as the graph takes it."""
    deployment = plan.deployments[number]
    training, layout = training_of(deployment), deployment.layout
    inside = 2 if _one_domain(plan, deployment) else 1
    pool = next(pool for pool in plan.cluster.pools if pool.name == deployment.pool)
    send_s = 0.0
    if layout.pp > 1:
        links = Links.of(pool)
        send_s = collective_seconds("send_recv", training.send_bytes, 2, inside, links)
    kept = kept_bytes(plan, training)
    chunks = tuple(
        ChunkTimes(each.forward_s, each.backward_s, each.weight_gradient_s, kept[each.chunk])
        for each in training.chunks
    )
    after = tuple(
        (name, "memory", training.step_seconds[name], 0.0)
        for name in ONCE
        if training.step_seconds.get(name)
    )
    return Pipeline(
        training.schedule,
        layout.pp,
        training.micro_batches,
        chunks,
        send_s,
        training.send_bytes,
        inside,
        training.send_bytes / (layout.tp if training.sequence_parallel else 1),
        after,
    )


def kept_bytes(plan: Plan, training: Training) -> list[float]:
    """Activations that each chunk keeps of one micro-batch until its backward pass."""
    held = {(work.part, work.recompute): work.kept_bytes for work in training.layers}
    found = [0.0] * len(training.chunks)
    for layer, name in enumerate(plan.model.layer_names):
        chunk = training.block_chunk[layer + 1]  # block 0 is the embedding
        found[chunk] += held.get((name, training.recompute[layer]), 0.0)
    return found


def check_passes(graph: Graph, training: Training) -> None:
    """The graph has no cycle, and every micro-batch goes once forward and once back through every
    chunk."""
    topological_order(graph)
    names = [operation.name for operation in graph.operations]
    seen = Counter(names[operation] for operation in graph.operation.tolist())
    due = len(training.chunks) * training.micro_batches
    for name in ("forward", "backward"):
        if seen[name] != due:
            raise PlanError(f"{seen[name]:,} {name} passes instead of {due:,}: the plan is broken")


def _one_domain(plan: Plan, deployment: Deployment) -> bool:
    """Whether all stages of a pipeline reach each other over the fast links."""
    domain = {gpu: each.name for each in plan.cluster.domains for gpu in each.gpus}
    return all(
        len({domain[gpu] for gpu in replica}) == 1 for replica in deployment.placement.rank_gpu
    )
