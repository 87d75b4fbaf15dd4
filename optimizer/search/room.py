"""Room on the nodes as a limit like any other: stages needed, and stages that the nodes hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.search.degrees import Shape, domain_types, most_stages, shapes_of
from optimizer.search.dominance import sure_room
from optimizer.spec.cluster import Cluster

ROOM = "room on the nodes"


def with_room(cluster: Cluster, candidates: Candidates) -> Candidates:
    """The candidates with room as their last limit; a row that lacks GPUs does not lack room too.

    Where the room is sure the limit is shown as what is needed: how much more there is costs a
    packing problem and decides nothing.
    """
    pp = candidates.layouts.pp
    need = candidates.replicas_min * pp
    there = np.maximum(need, sure_room(cluster, candidates) * pp)
    enough = candidates.needs["GPUs"] <= candidates.limits["GPUs"]
    unsure = np.flatnonzero(enough & (sure_room(cluster, candidates) < candidates.replicas_min))
    types = domain_types(cluster)
    known: dict[tuple[Shape, int], int] = {}
    shapes = shapes_of(candidates.take(unsure))
    full = candidates.layouts.width // candidates.layouts.span
    for row, shape in zip(unsure.tolist(), shapes, strict=True):
        key = (shape, int(full[row]))
        if key not in known:
            known[key] = most_stages(types, *key)
        there[row] = known[key] // pp[row] * pp[row]  # whole replicas only
    return replace(
        candidates,
        needs={**candidates.needs, ROOM: need.astype(np.float64)},
        limits={**candidates.limits, ROOM: there.astype(np.float64)},
    )
