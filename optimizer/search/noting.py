"""What a reader asks at once about the best plan: why GPUs stay idle, and how small a plan may
be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.layout import Space, SpanningSpace, left_out
from optimizer.search.choosing import Chosen
from optimizer.search.objectives import criteria
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import TrainingWorkload, Workload


def notes_on(cluster: Cluster, candidates: Candidates, chosen: Chosen) -> tuple[str, ...]:
    """Notes on the best plan, from the candidates that keep every limit."""
    feasible = candidates.take(np.flatnonzero(candidates.broken() == 0))
    return (*_smallest(feasible), *_idle(cluster, feasible, chosen))


def _smallest(feasible: Candidates) -> tuple[str, ...]:
    gpus = feasible.gpus_per_replica
    row = int(np.lexsort((feasible.memory_bytes, gpus))[0])
    name = feasible.layout(row, 1).name
    count = int(gpus[row])
    return (f"one replica of the model fits {count} GPU{'s' * (count > 1)} ({name})",)


def _idle(cluster: Cluster, feasible: Candidates, chosen: Chosen) -> tuple[str, ...]:
    """The best candidate that uses every live GPU, beside a best plan that does not."""
    best, live = chosen.ranked[0], cluster.num_live_gpus
    idle = live - best.layout.gpus
    if idle == 0 or chosen.objective in ("gpus", "latency"):
        return ()
    replicas = live // feasible.gpus_per_replica
    rows = np.flatnonzero(
        (replicas * feasible.gpus_per_replica == live)
        & (replicas >= feasible.replicas_min)
        & (replicas <= feasible.replicas_max)
    )
    if not len(rows):
        return (f"{idle} of {live} GPUs idle: no layout that keeps every limit uses all of them",)
    criterion = criteria(feasible, chosen.objective, live)[0]
    values = criterion.values(replicas)[rows]
    row = int(rows[np.argmin(values)])
    scale = criterion.scale / best.criterion.scale
    theirs, ours = float(values.min()) / scale, float(best.choice.value)
    change = abs(theirs - ours) / max(1.0, abs(ours))
    name = feasible.layout(row, int(replicas[row])).name
    return (
        f"{idle} of {live} GPUs idle: the best layout that uses all of them, {name}, is "
        f"{change:.1%} worse in {criterion.name}",
    )


def unsearched(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    spaces: Sequence[Space],
    confidence: float | None,
) -> list[str]:
    """What of replicas that span pools was not searched."""
    own = [space.layouts for space in spaces if not isinstance(space, SpanningSpace)]
    if len(own) == 1 or isinstance(workload, TrainingWorkload):
        return []
    if confidence is not None:
        return ["with a confidence each replica lies in one pool: none that spans two is searched"]
    found = left_out(cluster, own, model.num_layers)
    return [] if found is None else [f"replicas that span two pools: {found}"]
