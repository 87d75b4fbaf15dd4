"""Lower bounds of the largest GPU load, each with what it takes to check it by hand.

No bound here looks at a placement: a checker recomputes it from the loads alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.counts import Floats, highest_averages


@dataclass(frozen=True)
class Certificate:
    """A lower bound of one layer, by kind, and the figures that its check needs.

    mean         the load of all experts, shared by all GPUs
    share        `expert` with `copies`: smaller pieces everywhere would need more slots than exist
    sizes        one copy each: what the `pieces` largest force, alone on GPUs or sharing one
    enumeration  two slots a GPU: every count vector, paired largest with smallest, is above it
    hall         two slots a GPU: pieces of at least s need as many of at most bound - s, summed
                 over `sizes` with `weights`, at `slot_price` a slot, over the best counts
    groups       every way to split the groups over the nodes has a node with this mean or share
    solver       proven infeasible below by `solver`; nobody else vouches for it
    """

    kind: str
    value: float
    data: Mapping[str, object] = field(default_factory=dict)


def mean_bounds(loads: Floats, gpus: int) -> list[Certificate]:
    return [Certificate("mean", float(value)) for value in loads.sum(axis=1) / gpus]


def share_bounds(loads: Floats, slots: int) -> list[Certificate]:
    """The least that the largest piece can be: highest averages with divisor 0 reach it."""
    counts = _least_pieces(loads, slots)
    pieces = loads / counts
    expert = pieces.argmax(axis=1)
    return [
        Certificate(
            "share", float(pieces[row, e]), {"expert": int(e), "copies": int(counts[row, e])}
        )
        for row, e in enumerate(expert)
    ]


def size_bounds(loads: Floats, gpus: int) -> list[Certificate]:
    """With one copy each: what the k largest pieces force, for the k that forces most.

    Up to k = gpus, either they lie on k GPUs, beside at least the k (S - 1) smallest of all, and
    one of these GPUs holds a k-th of that; or two of the k share a GPU with S - 2 others. Above,
    ceil(k / gpus) of them share a GPU with the smallest in its other slots.
    """
    rows, experts = loads.shape
    per_gpu = experts // gpus
    falling = -np.sort(-loads, axis=1)
    largest = np.concatenate([np.zeros((rows, 1)), falling.cumsum(axis=1)], axis=1)
    smallest = np.concatenate([np.zeros((rows, 1)), falling[:, ::-1].cumsum(axis=1)], axis=1)

    def together(k: Ints, number: Ints) -> Floats:
        """The last `number` of the k largest on one GPU, its other slots filled with the least."""
        shared: Floats = largest[:, k] - largest[:, k - number] + smallest[:, per_gpu - number]
        return shared

    alone = np.arange(1, gpus + 1)
    value = (largest[:, alone] + smallest[:, alone * (per_gpu - 1)]) / alone
    if per_gpu > 1:
        pairs = together(alone[1:], np.full(gpus - 1, 2))
        value[:, 1:] = np.minimum(value[:, 1:], pairs)
    crowded = np.arange(1, per_gpu) * gpus + 1
    value = np.concatenate([value, together(crowded, -(-crowded // gpus))], axis=1)
    best = value.argmax(axis=1)
    pieces = np.concatenate([alone, crowded])
    return [
        Certificate("sizes", float(value[row, i]), {"pieces": int(pieces[i])})
        for row, i in enumerate(best)
    ]


def lower_bounds(loads: Floats, gpus: int, slots: int) -> list[Certificate]:
    """The best bound of each layer that needs no solver."""
    families = [mean_bounds(loads, gpus), share_bounds(loads, slots)]
    if slots == loads.shape[1]:
        families.append(size_bounds(loads, gpus))
    return best_of(*families)


def best_of(*families: Sequence[Certificate]) -> list[Certificate]:
    """The largest bound of each layer; the first family wins ties."""
    return [max(layer, key=lambda one: one.value) for layer in zip(*families, strict=True)]


def values(certificates: Sequence[Certificate]) -> Floats:
    return np.array([one.value for one in certificates])


def _least_pieces(loads: Floats, slots: int) -> Ints:
    """Counts [rows, experts] with the smallest largest piece."""
    ones = np.ones(loads.shape, dtype=np.int64)
    return highest_averages(loads, ones, slots, np.zeros(len(loads)), most=slots)
