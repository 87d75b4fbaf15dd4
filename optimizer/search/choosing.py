"""From candidates to ranked choices, with the account of every candidate on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.errors import InfeasibleError
from optimizer.layout import ParallelLayout
from optimizer.search.degrees import Choice, DegreesModel, at_ends
from optimizer.search.dominance import layout_keys, undominated
from optimizer.search.objectives import OBJECTIVES, Criterion, Objective, all_criteria
from optimizer.search.sifting import nearest_rows, sift
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
    joint: dict[str, int]


class Ranked(NamedTuple):
    """One choice beside the single candidate (columns of length 1) that it stands for."""

    choice: Choice
    candidate: Candidates
    layout: ParallelLayout
    criterion: Criterion  # the deciding one


class Chosen(NamedTuple):
    """The ranked choices, the account of all candidates, and the rows worth a second look."""

    ranked: tuple[Ranked, ...]
    account: Account
    objective: Objective
    tie_break: tuple[str, ...]
    left: Candidates  # the best rows of every layout that works


def choose(
    cluster: Cluster,
    candidates: Candidates | Iterable[Candidates],
    objective: Objective,
    top: int,
) -> Chosen:
    """The best `top` layouts of all candidates, which may come in parts; raises InfeasibleError
    where none keeps every limit."""
    sifted = sift(cluster, [candidates] if isinstance(candidates, Candidates) else candidates)
    left = sifted.left
    if not len(left):
        raise InfeasibleError("no plan keeps every limit", nearest(sifted.nearest))
    by_name = all_criteria(left, cluster.num_live_gpus)
    kept = undominated(
        left,
        -by_name["tokens/s"].values(np.ones_like(left.replicas_min)),
        by_name["latency"].constant,
        by_name["canonical order"].constant,
        top,
    )
    account = Account(
        sifted.candidates,
        sifted.broken,
        sifted.broken_together,
        sifted.infeasible,
        sifted.candidates - sifted.infeasible - len(kept),
        len(kept),
        sifted.joint,
    )
    ends, origin = at_ends(left.take(kept))
    own = [by_name[name].take(kept).take(origin) for name in OBJECTIVES[objective]]
    ranked = tuple(
        Ranked(
            choice,
            ends.take(np.array([choice.row])),
            ends.layout(choice.row, int(ends.replicas_min[choice.row])),
            own[0],
        )
        for choice in DegreesModel(cluster, ends).rank(own, layout_keys(ends), top)
    )
    return Chosen(ranked, account, objective, OBJECTIVES[objective][1:], left)


def nearest(candidates: Candidates) -> list[str]:
    """The broken limits of the candidate that overshoots least, each with its two numbers."""
    if not len(candidates):
        return ["no layout divides the model on these GPUs"]
    row = nearest_row(candidates)
    name = candidates.layout(row, int(candidates.replicas_min[row])).name
    return [f"nearest candidate: {name}", *broken_limits(candidates, row)]


def nearest_row(candidates: Candidates) -> int:
    """The row that breaks fewest limits; of those, the one that overshoots least."""
    return int(nearest_rows(candidates)[0])


def broken_limits(candidates: Candidates, row: int) -> list[str]:
    """Each limit that a candidate breaks: what it needs and what there is."""
    return [
        f"{name}: {amount(name, float(needs[row]))} needed, "
        f"{amount(name, float(candidates.limits[name][row]))} there"
        for name, needs in candidates.needs.items()
        if needs[row] > candidates.limits[name][row]
    ]
