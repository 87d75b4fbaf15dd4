"""Offers: what one replica of a layout in one pool serves at most within the limits."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.layout import ParallelLayout

Pieces = tuple[tuple[int, int], ...]  # (GPUs of a piece, pieces), the largest first


class Offer(NamedTuple):
    """One replica: requests a second at the best batch that keeps every limit, and the room that it
    takes, so many pieces of so many GPUs, each inside one domain."""

    pool: int
    layout: ParallelLayout
    pieces: Pieces
    requests_per_s: float

    @property
    def gpus(self) -> int:
        return sum(size * many for size, many in self.pieces)


def pieces_of(pp: int, width: int, span: int) -> Pieces:
    """The pieces of a replica: each stage lies in whole pieces of `span` GPUs and one rest."""
    whole, rest = divmod(width, span)
    found = [(span, pp * whole), (rest, pp)]
    return tuple((size, many) for size, many in found if size and many)


def offers_of(candidates: Candidates, tokens_of_request: float) -> tuple[Offer, ...]:
    """The best offer of each pool and each way of taking room that no other beats, in a fixed
    order.

    One offer beats another of its pool where some number of its replicas fit into the other's
    pieces and serve as much: whoever takes the other may take these in its place.
    """
    able = np.flatnonzero(candidates.broken() == 0)
    rates = candidates.tokens_per_s[able] / tokens_of_request
    able, rates = able[np.isfinite(rates)], rates[np.isfinite(rates)]
    layouts = candidates.layouts
    columns = (candidates.pool, layouts.pp, layouts.width, layouts.span)
    keys = np.stack([np.asarray(column)[able] for column in columns])
    order = np.lexsort((able, -rates, *keys[::-1]))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(keys[:, order], axis=1) != 0).any(axis=0)
    best: dict[tuple[int, Pieces], Offer] = {}
    for place in order[first].tolist():
        pool, pp, width, span = keys[:, place].tolist()
        row, rate = int(able[place]), float(rates[place])
        offer = Offer(pool, candidates.layout(row, 1), pieces_of(pp, width, span), rate)
        known = best.get((pool, offer.pieces))
        if rate > 0 and (known is None or rate > known.requests_per_s):
            best[pool, offer.pieces] = offer
    return _unbeaten([best[key] for key in sorted(best)])


def _unbeaten(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Small offers first: what beats an offer is no larger."""
    kept: list[Offer] = []
    for offer in sorted(offers, key=lambda each: (each.pool, each.gpus, -each.requests_per_s)):
        if not any(
            other.pool == offer.pool
            and _fitting(other.pieces, offer.pieces) * other.requests_per_s >= offer.requests_per_s
            for other in kept
        ):
            kept.append(offer)
    return tuple(kept)


def _fitting(pieces: Pieces, into: Pieces) -> int:
    """Replicas of some pieces that fit into other pieces, by putting the largest first into the
    smallest that has room: a number that fits, not always the most."""
    left = sorted(size for size, many in into for _ in range(many))
    count = 0
    while True:
        for size, many in pieces:
            for _ in range(many):
                place = next((index for index, room in enumerate(left) if room >= size), None)
                if place is None:
                    return count
                room = left.pop(place) - size
                insort(left, room)
        count += 1
