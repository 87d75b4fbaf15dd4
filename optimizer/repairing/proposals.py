"""Sets of changes under which some candidate works, found by pricing few rows; none proven yet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optimizer.layout import DEGREES, ParallelLayout
from optimizer.pipeline import Priced
from optimizer.repairing.changes import (
    MOST_GPUS,
    Change,
    layout_cost,
    with_gpus,
    with_layout,
    with_limit,
    without_strategy,
)
from optimizer.repairing.job import Job
from optimizer.repairing.ladders import LADDERS
from optimizer.repairing.outlook import GROWTH, Outlook, outlook, price_few, works
from optimizer.search.relaxing import Relaxation, relaxations

Proposal = tuple[Change, ...]  # each change's job holds all changes up to it

ENOUGH = 3  # proposals of one change each that make pairs needless
SHOWN_LAYOUTS = 3  # other layouts that a judged strategy is offered
SAMPLES = 3  # steps of a ladder that are tried beside another change
MORE_NODES = 4  # nodes tried beyond the least number of GPUs, where pieces do not fit the nodes


def cost_of_all(proposal: Proposal) -> float:
    return sum(change.cost for change in proposal)


def proposals(job: Job, seen: Outlook | None, judged: ParallelLayout | None) -> list[Proposal]:
    """Changes that should work, cheapest first: one at a time, and pairs where those are too few.

    `seen` is the job's outlook (None: nothing divides), `judged` the layout of its strategy.
    """
    found: list[Proposal] = []
    untried: list[Change] = []  # what does not work alone
    if judged is not None:
        found += [(change,) for change in _nearest_layouts(job, judged)]
        if not found:
            untried.append(without_strategy(job, judged))
    if seen is not None:
        for ladders in LADDERS:
            for ladder in ladders(job):
                number = ladder.mildest(works)
                untried += ladder.samples(number, SAMPLES)
                if number is not None:
                    found.append((ladder.step(number),))
        moves = relaxations(seen.wide.candidates)
        found += [_moved(job, seen.wide, move) for move in moves if len(move.needs) == 1]
        if len(found) < ENOUGH:
            found += [_moved(job, seen.wide, move) for move in moves if len(move.needs) > 1]
    if len(_distinct(found)) < ENOUGH:
        for first in untried:
            found += _beside(first, GROWTH[:1] if seen is None else (seen.times,))
    return _distinct(found)


def _distinct(found: list[Proposal]) -> list[Proposal]:
    """By cost, without what asks for everything that another proposal asks for, and as much."""
    kept: list[dict[str, float]] = []
    distinct: list[Proposal] = []
    for proposal in sorted(filter(None, found), key=cost_of_all):
        asked = {change.what: change.cost for change in proposal}
        if not any(all(asked.get(what, -1) >= cost for what, cost in k.items()) for k in kept):
            kept.append(asked)
            distinct.append(proposal)
    return distinct


def _beside(first: Change, growth: tuple[int, ...]) -> Iterator[Proposal]:
    """The second changes that make a first one work: limits to move, or a rising ladder's step."""
    priced = outlook(first.job, growth).wide
    for move in relaxations(priced.candidates):
        second = _moved(first.job, priced, move)
        if second:
            yield (first, *second)
    ladders = [ladder for each in LADDERS for ladder in each(first.job) if ladder.rising]
    for ladder in ladders:
        number = ladder.mildest(works)
        if number is not None and ladder.step(number).what != first.what:
            yield (first, ladder.step(number))


def _moved(job: Job, priced: Priced, move: Relaxation) -> Proposal:
    """The changes that grant what a candidate needs; () where the nodes cannot be packed so."""
    changes: list[Change] = []
    candidates = priced.candidates
    for name in (name for name in move.needs if name != "GPUs"):
        factor = move.needs[name] / float(candidates.limits[name][move.row])
        changes.append(with_limit(job, name, factor))
        job = changes[-1].job
    if "GPUs" not in move.needs:
        return tuple(changes)
    pool = int(candidates.pool[move.row])
    lacking = int(move.needs["GPUs"] - candidates.limits["GPUs"][move.row])
    if job.cluster.num_gpus + lacking > MOST_GPUS:
        return ()
    for nodes in range(MORE_NODES):
        change = with_gpus(job, pool, lacking + nodes * max(job.cluster.pools[pool].sizes))
        if works(change.job):
            return (*changes, change)
    return ()


def _nearest_layouts(job: Job, judged: ParallelLayout) -> list[Change]:
    """The layouts that work and change fewest degrees of the judged one."""
    candidates = price_few(job._replace(strategy=None)).candidates
    candidates = candidates.take(np.flatnonzero(candidates.broken() == 0))
    replicas = np.clip(judged.replicas, candidates.replicas_min, candidates.replicas_max)
    columns = [getattr(candidates.layouts, name) for name in DEGREES]
    degrees = np.unique(np.stack([*columns, replicas], axis=1), axis=0).tolist()
    own = [*(getattr(judged, name) for name in DEGREES), judged.replicas]
    ranked = sorted(
        degrees,
        key=lambda row: layout_cost(
            new / old for new, old in zip(row, own, strict=True) if new != old
        ),
    )
    names = (*DEGREES, "replicas")
    nearest = [
        ParallelLayout(**dict(zip(names, row, strict=True))) for row in ranked[:SHOWN_LAYOUTS]
    ]
    return [with_layout(job, judged, layout) for layout in nearest]
