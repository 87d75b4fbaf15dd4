"""From candidates to ranked choices, with the account of every candidate on the way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.errors import InfeasibleError
from optimizer.layout import Ints, ParallelLayout
from optimizer.search.degrees import Choice, DegreesModel, at_ends
from optimizer.search.dominance import layout_keys, sure_room, undominated
from optimizer.search.objectives import LATENCY_SCALE, OBJECTIVES, Criterion, Objective, criteria
from optimizer.search.wording import amount
from optimizer.spec.cluster import Cluster


class Account(NamedTuple):
    """What became of the candidates: candidates = infeasible + dominated + given."""

    candidates: int
    broken: dict[str, int]
    broken_together: dict[str, int]
    infeasible: int
    dominated: int
    given: int


class Ranked(NamedTuple):
    """One choice beside the single candidate (columns of length 1) that it stands for."""

    choice: Choice
    candidate: Candidates
    layout: ParallelLayout
    criterion: Criterion  # the deciding one


class Chosen(NamedTuple):
    """The ranked choices and the account of all candidates."""

    ranked: tuple[Ranked, ...]
    account: Account
    objective: Objective
    tie_break: tuple[str, ...]


def choose(cluster: Cluster, candidates: Candidates, objective: Objective, top: int) -> Chosen:
    """The best `top` layouts; raises InfeasibleError where no candidate keeps every limit."""
    mask = candidates.broken()
    broken = {name: int(((mask >> bit) & 1).sum()) for bit, name in enumerate(candidates.limits)}
    feasible = candidates.take(np.flatnonzero(mask == 0))
    deciding = criteria(feasible, objective, cluster.num_live_gpus)
    by_name = {criterion.name: criterion for criterion in criteria(feasible, "throughput", 1)}
    rates = -by_name["tokens/s"].per_replica
    latencies = np.rint(feasible.latency_s * LATENCY_SCALE).astype(np.int64)
    order = by_name["canonical order"].constant
    kept = undominated(feasible, sure_room(cluster, feasible), rates, latencies, order, top)
    ends, origin, without_room = at_ends(cluster, feasible.take(kept))
    infeasible = int((mask != 0).sum()) + without_room
    together = _together(mask, list(candidates.limits))
    if without_room:
        broken["room on the nodes"] = together["room on the nodes"] = without_room
    account = Account(
        len(candidates),
        broken,
        together,
        infeasible,
        len(feasible) - len(kept),
        len(kept) - without_room,
    )
    if not len(ends):
        raise InfeasibleError("no plan keeps every limit", nearest(candidates))
    own = [criterion.take(kept).take(origin) for criterion in deciding]
    ranked = tuple(
        Ranked(
            choice,
            ends.take(np.array([choice.row])),
            ends.layout(choice.row, int(ends.replicas_min[choice.row])),
            own[0],
        )
        for choice in DegreesModel(cluster, ends).rank(own, layout_keys(ends), top)
    )
    return Chosen(ranked, account, objective, OBJECTIVES[objective][1:])


def _together(mask: Ints, names: list[str]) -> dict[str, int]:
    """Candidates by the exact set of limits that they break: "memory + ttft"."""
    sets, counts = np.unique(mask[mask != 0], return_counts=True)
    return {
        " + ".join(name for bit, name in enumerate(names) if (int(broken) >> bit) & 1): int(count)
        for broken, count in zip(sets, counts, strict=True)
    }


def nearest(candidates: Candidates) -> list[str]:
    """The broken limits of the candidate that overshoots least, each with its two numbers."""
    if not len(candidates):
        return ["no layout divides the model on these GPUs"]
    row = nearest_row(candidates)
    name = candidates.layout(row, int(candidates.replicas_min[row])).name
    return [f"nearest candidate: {name}", *broken_limits(candidates, row)]


def nearest_row(candidates: Candidates) -> int:
    """The row that breaks fewest limits; of those, the one that overshoots least."""
    worst = np.zeros(len(candidates))
    count = np.zeros(len(candidates))
    for name, needs in candidates.needs.items():
        over = needs / candidates.limits[name]
        worst = np.maximum(worst, over)
        count += over > 1
    return int(np.lexsort((worst, count))[0])


def broken_limits(candidates: Candidates, row: int) -> list[str]:
    """Each limit that a candidate breaks: what it needs and what there is."""
    return [
        f"{name}: {amount(name, float(needs[row]))} needed, "
        f"{amount(name, float(candidates.limits[name][row]))} there"
        for name, needs in candidates.needs.items()
        if needs[row] > candidates.limits[name][row]
    ]
