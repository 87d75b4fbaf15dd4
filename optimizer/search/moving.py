"""From a plan that runs to one that shall: which GPU takes which rank so that least is loaded.

What a GPU holds is layers x (a slice of the dense weights + a slice of the experts), so that what
two ranks share is a product of overlaps. Left out: weights that tensor parallelism repeats on every
rank (norms, down-projections of MLA) count as cut like the rest, 1 % of a model's bytes at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python import linear_sum_assignment

from optimizer.cost.memory import layout_bytes
from optimizer.layout import Ints, ParallelLayout
from optimizer.operators import Floats
from optimizer.plan import Deployment, Plan, RankPart
from optimizer.search.placing import stage_order
from optimizer.spec.model import ModelSpec

Flags = NDArray[np.bool_]
STEP_BYTES = 1024.0  # what is worth less is not told apart


class Holdings(NamedTuple):
    """What n ranks or GPUs hold: blocks (layers, then embedding and head), slices of the dense
    weights, slices of the experts."""

    blocks: Flags  # [n, blocks]
    dense: Flags  # [n, slices]
    experts: Flags  # [n, experts x slices]

    def take(self, rows: Ints) -> Holdings:
        return Holdings(*(column[rows] for column in self))


class BlockBytes(NamedTuple):
    """Bytes of each whole block [blocks]: outside and inside routed experts."""

    dense: Floats
    experts: Floats


def block_bytes(model: ModelSpec) -> BlockBytes:
    """The bytes of every layer, of the embedding and of the head."""
    one = {name: np.ones(1) for name in ("tp", "cp", "dp", "ep", "etp")}
    whole = layout_bytes(model, {**one, "pp": np.full(1, 2.0)}, 1)
    layers = [whole.layers[name] for name in model.layer_names]
    dense = [float(layer.dense[0]) for layer in layers]
    ends = [float(whole.first[0]), float(whole.last[0])]
    experts = [float(layer.experts[0]) for layer in layers]
    return BlockBytes(np.array(dense + ends), np.array([*experts, 0.0, 0.0]))


def ranks_of(deployment: Deployment, num_layers: int, num_experts: int, cuts: Ints) -> Holdings:
    """What each rank of a replica holds, on slices that every degree of both plans divides: cuts
    are the slices of the dense weights and of each expert."""
    placed = deployment.placement.ranks
    return holdings(deployment.layout, placed, num_layers, num_experts, cuts)


def holdings(
    layout: ParallelLayout,
    ranks: Sequence[RankPart],
    num_layers: int,
    num_experts: int,
    cuts: Ints,
) -> Holdings:
    """ranks_of the ranks of one replica in a layout."""
    dense_cuts, expert_cuts = (int(cut) for cut in cuts)
    blocks = np.zeros((len(ranks), num_layers + 2), dtype=bool)
    dense = np.zeros((len(ranks), dense_cuts), dtype=bool)
    experts = np.zeros((len(ranks), num_experts, expert_cuts), dtype=bool)
    for row, part in enumerate(ranks):
        blocks[row, _span(part.layers)] = True
        blocks[row, num_layers] = part.embedding
        blocks[row, num_layers + 1] = part.head
        width = dense_cuts // layout.tp
        dense[row, part.tp * width : (part.tp + 1) * width] = True
        width = expert_cuts // layout.etp
        if part.experts:
            own = experts[row, _span(part.experts)]
            own[:, part.etp * width : (part.etp + 1) * width] = True
    return Holdings(blocks, dense, experts.reshape(len(ranks), -1))


def _span(text: str) -> slice:
    first, _, last = text.partition("-")
    return slice(int(first), int(last or first) + 1)


def shared_bytes(new: Holdings, old: Holdings, size: BlockBytes) -> Floats:
    """Bytes that each new holder needs and each old one has [new, old]."""
    has = old.blocks.astype(np.float64).T
    dense = (new.blocks * size.dense) @ has * _overlap(new.dense, old.dense)
    return dense + (new.blocks * size.experts) @ has * _overlap(new.experts, old.experts)


def _overlap(new: Flags, old: Flags) -> Floats:
    """Share of the whole that both hold [new, old]."""
    both: Floats = new.astype(np.float64) @ old.astype(np.float64).T / max(1, new.shape[1])
    return both


def both_cuts(old: Deployment, new: Deployment) -> Ints:
    """Slices that the degrees of both plans divide: of the dense weights, of one expert."""
    return cuts_of([old.layout, new.layout])


def cuts_of(layouts: Sequence[ParallelLayout]) -> Ints:
    """Slices that the degrees of all layouts divide: of the dense weights, of one expert."""
    return np.array([lcm(*(each.tp for each in layouts)), lcm(*(each.etp for each in layouts))])


def settle(plan: Plan, kept: Floats, gpus: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The GPUs of every rank so that most bytes stay where they are.

    kept: bytes that a rank finds on a GPU [ranks, gpus]. Ranks of a piece may take any GPU of its
    domain, pieces each other's places, but stages of one replica stay together.
    """
    deployment = plan.deployment
    column = {gpu: index for index, gpu in enumerate(gpus)}
    placed = deployment.placement.rank_gpu
    units = list(_units(deployment))
    if any(pool.leaf is not None for pool in plan.cluster.pools):
        units = [[piece for unit in units for piece in unit]]  # pieces keep to their leaves
    spots = [(replica, unit) for replica in range(len(placed)) for unit in units]
    found = [list(replica) for replica in placed]
    shapes = {tuple(len(piece) for piece in unit) for unit in units}
    for shape in sorted(shapes):
        own = [
            (replica, unit)
            for replica, unit in spots
            if tuple(len(piece) for piece in unit) == shape
        ]
        places = [
            [[column[placed[replica][rank]] for rank in piece] for piece in unit]
            for replica, unit in own
        ]
        worth = np.array(
            [
                [
                    sum(
                        _matched(kept[np.ix_(piece, at)])[1]
                        for piece, at in zip(unit, place, strict=True)
                    )
                    for place in places
                ]
                for _, unit in own
            ]
        )
        for (replica, unit), chosen in zip(own, _matched(worth)[0], strict=True):
            for piece, at in zip(unit, places[chosen], strict=True):
                order, _ = _matched(kept[np.ix_(piece, at)])
                for rank, index in zip(piece, order, strict=True):
                    found[replica][rank] = gpus[at[index]]
    return tuple(tuple(replica) for replica in found)


def _units(deployment: Deployment) -> list[list[list[int]]]:
    """What may trade places: pieces of a stage; of several stages the replica as a whole."""
    layout, pieces = deployment.layout, []
    for stage, span in enumerate(deployment.stage_spans):
        order = stage_order(layout, deployment.placement.inside)
        ends = [*range(0, layout.width, span), layout.width]
        ranks = [stage * layout.width + rank for rank in order]
        pieces += [ranks[start:end] for start, end in pairwise(ends)]
    return [pieces] if layout.pp > 1 else [[piece] for piece in pieces]


def _matched(worth: Floats) -> tuple[list[int], float]:
    """(the column of each row, the total): the assignment of most worth; ties keep the order."""
    size = len(worth)
    if size == 1:
        return [0], float(worth[0, 0])
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    rows, columns = np.divmod(np.arange(size * size), size)
    # Staying in order is worth less than one step in all.
    cost = -np.rint(worth.ravel() / STEP_BYTES).astype(np.int64) * size * size + (rows != columns)
    solver.add_arcs_with_cost(rows, columns, cost)
    solver.solve()
    chosen = [solver.right_mate(row) for row in range(size)]
    return chosen, float(sum(worth[row, place] for row, place in enumerate(chosen)))
