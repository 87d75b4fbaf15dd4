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
MOST_DISTINCT = 24  # slots, up to which pairs of different experts are searched exhaustively


def enumerable(experts: int, gpus: int, slots: int) -> bool:
    """Whether `place_pairs` applies: two slots a GPU, and not too many count vectors."""
    return slots == 2 * gpus and comb(slots - 1, experts - 1) <= MOST_VECTORS


def place_pairs(loads: Floats, slots: int, distinct: bool) -> tuple[Ints, list[Certificate]]:
    """The best placement [layers, slots] and its proof; -1 marks a layer without a placement.

    `distinct` looks for the best pairs of different experts of every vector that could be better.
    """
    vectors = _count_vectors(loads.shape[1], slots)
    placed = np.full((len(loads), slots), -1)
    proofs = []
    for layer, load in enumerate(loads):
        pairs, sums = pair(np.broadcast_to(load, vectors.shape), vectors)
        largest = sums.max(axis=1)
        best, value = pairs[largest.argmin()], float(largest.min())
        if distinct and (best[:, 0] == best[:, 1]).any():
            best = np.full_like(best, -1)
            if slots <= MOST_DISTINCT:
                best, value = _best_distinct(load / vectors, pairs, largest)
        placed[layer] = best.ravel()
        proofs.append(Certificate("enumeration", value))
    return placed, proofs


def _best_distinct(piece: Floats, pairs: Ints, largest: Floats) -> tuple[Ints, float]:
    """The pairs of different experts with the least largest sum over all vectors, and that sum.

    `piece` [vectors, experts] a copy; `pairs` and `largest` of each vector when experts may repeat.
    """
    best, value = np.full(pairs.shape[1:], -1), np.inf
    for vector in np.argsort(largest, kind="stable"):
        if largest[vector] >= value:
            break
        while (found := distinct_pairs(piece[vector], pairs[vector], value)) is not None:
            best, value = found, piece[vector][found].sum(axis=1).max()
    return best, float(value) if np.isfinite(value) else float(largest.min())


def distinct_pairs(piece: Floats, pairs: Ints, limit: float) -> Ints | None:
    """The experts in `pairs` [gpus, 2] paired anew: all different, every sum below `limit`.

    The largest piece left takes the largest partner that fits; sets of pieces that failed are not
    tried again.
    """
    experts = sorted(pairs.ravel().tolist(), key=lambda e: (-piece[e], e))
    sizes = [float(piece[e]) for e in experts]
    everything = (1 << len(experts)) - 1
    failed: set[int] = set()

    def complete(used: int) -> list[tuple[int, int]] | None:
        if used == everything:
            return []
        if used in failed:
            return None
        one = (~used & (used + 1)).bit_length() - 1  # the lowest bit not set
        for other in range(one + 1, len(experts)):
            if used >> other & 1 or experts[one] == experts[other]:
                continue
            if sizes[one] + sizes[other] < limit:
                rest = complete(used | 1 << one | 1 << other)
                if rest is not None:
                    return [(experts[one], experts[other]), *rest]
        failed.add(used)
        return None

    found = complete(0)
    return None if found is None else np.array(found)


def pair(loads: Floats, counts: Ints) -> tuple[Ints, Floats]:
    """Experts of each GPU [rows, gpus, 2], largest with smallest piece, and its load [rows, gpus].

    `loads` and `counts` [rows, experts], of even sum.
    """
    slot_expert = slots_of(counts)
    pieces = np.take_along_axis(loads / counts, slot_expert, axis=1)
    order = np.argsort(pieces, axis=1, kind="stable")
    half = order.shape[1] // 2
    pieces = np.take_along_axis(pieces, order, axis=1)
    slot_expert = np.take_along_axis(slot_expert, order, axis=1)
    pairs = np.stack([slot_expert[:, ::-1], slot_expert], axis=2)[:, :half]
    return pairs, (pieces[:, ::-1] + pieces)[:, :half]


@cache
def _count_vectors(experts: int, slots: int) -> Ints:
    """Every way to give `slots` to `experts`, at least one each: [vectors, experts]."""
    cuts = np.array(list(combinations(range(1, slots), experts - 1)), dtype=np.int64)
    cuts = cuts.reshape(comb(slots - 1, experts - 1), experts - 1)
    edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, slots)))
    return np.diff(edges, axis=1)
