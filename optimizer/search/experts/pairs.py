"""Two slots a GPU, few count vectors: all of them, which proves the best.

For given counts the best placement pairs the largest piece with the smallest, the second largest
with the second smallest, and so on; so the best over all count vectors is the optimum.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import comb

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.bounds import Certificate
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.pack import slots_of

MOST_VECTORS = 20_000


def enumerable(experts: int, gpus: int, slots: int) -> bool:
    """Whether `place_pairs` applies: two slots a GPU, and not too many count vectors."""
    return slots == 2 * gpus and comb(slots - 1, experts - 1) <= MOST_VECTORS


def place_pairs(loads: Floats, slots: int, distinct: bool) -> tuple[Ints, list[Certificate]]:
    """The best placement [layers, slots] and its proof.

    `distinct` takes the best vector whose pairing puts no expert beside itself, and the bound stays
    that of all vectors; -1 marks a layer where no pairing does.
    """
    vectors = _count_vectors(loads.shape[1], slots)
    placed = np.full((len(loads), slots), -1)
    proofs = []
    slot_expert = slots_of(vectors)
    copies = np.take_along_axis(vectors, slot_expert, axis=1)
    for layer, load in enumerate(loads):
        pieces = load[slot_expert] / copies
        order = np.argsort(pieces, axis=1, kind="stable")
        pieces = np.take_along_axis(pieces, order, axis=1)
        largest = (pieces + pieces[:, ::-1])[:, : slots // 2].max(axis=1)
        proofs.append(Certificate("enumeration", float(largest.min())))
        pairs = np.take_along_axis(slot_expert, order, axis=1)
        pairs = np.stack([pairs[:, ::-1], pairs], axis=2)[:, : slots // 2]
        if distinct:
            largest = np.where((pairs[:, :, 0] == pairs[:, :, 1]).any(axis=1), np.inf, largest)
        best = largest.argmin()
        if np.isfinite(largest[best]):
            placed[layer] = pairs[best].ravel()
    return placed, proofs


@cache
def _count_vectors(experts: int, slots: int) -> Ints:
    """Every way to give `slots` to `experts`, at least one each: [vectors, experts]."""
    cuts = np.array(list(combinations(range(1, slots), experts - 1)), dtype=np.int64)
    cuts = cuts.reshape(-1, experts - 1)
    edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, slots)))
    return np.diff(edges, axis=1)
