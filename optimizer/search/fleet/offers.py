"""Offers: what one replica of a layout in one pool serves at most within the limits."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.serving import peak, sustained
from optimizer.layout import ParallelLayout

Pieces = tuple[tuple[int, int], ...]  # (GPUs of a piece, pieces), the largest first


class Offer(NamedTuple):
    """One replica: the requests that it holds at once and the seconds of each, at the best batch
    that keeps every limit, and the room that it takes: so many pieces of so many GPUs, each inside
    one domain."""

    pool: int
    layout: ParallelLayout
    pieces: Pieces
    slots: float
    request_s: float

    def requests_per_s(self, replicas: int = 1) -> float:
        """What so many replicas sustain with room for peaks: more of them share peaks."""
        return sustained(self.slots * replicas) / self.request_s

    def replicas_for(self, requests_per_s: float) -> int:
        """The fewest replicas that sustain a rate."""
        in_flight = np.array(requests_per_s * self.request_s)
        return max(1, ceil(float(peak(in_flight)) / self.slots))

    @property
    def full_per_s(self) -> float:
        """Requests a second with every slot taken all the time."""
        return self.slots / self.request_s

    @property
    def gpus(self) -> int:
        return sum(size * many for size, many in self.pieces)


def pieces_of(pp: int, width: int, span: int) -> Pieces:
    """The pieces of a replica: each stage lies in whole pieces of `span` GPUs and one rest."""
    whole, rest = divmod(width, span)
    found = [(span, pp * whole), (rest, pp)]
    return tuple((size, many) for size, many in found if size and many)


def offers_of(candidates: Candidates) -> tuple[Offer, ...]:
    """The best offer of each pool and each way of taking room that no other beats, in a fixed
    order.

    One offer beats another of its pool where some number of its replicas fit into the other's
    pieces and serve as much, alone and in any number: whoever takes the other may take these in its
    place. (Rates of n replicas are between those of one and of endlessly many.)
    """
    able = np.flatnonzero(candidates.broken() == 0)
    rates = candidates.concurrency[able] / candidates.latency_s[able]
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
        row = int(able[place])
        offer = Offer(
            pool,
            candidates.layout(row, 1),
            pieces_of(pp, width, span),
            float(candidates.concurrency[row]),
            float(candidates.latency_s[row]),
        )
        known = best.get((pool, offer.pieces))
        if rates[place] > 0 and (known is None or offer.full_per_s > known.full_per_s):
            best[pool, offer.pieces] = offer
    return _unbeaten([best[key] for key in sorted(best)])


def _unbeaten(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Small offers first: what beats an offer is no larger."""
    kept: list[Offer] = []
    for offer in sorted(offers, key=lambda each: (each.pool, each.gpus, -each.full_per_s)):
        if not any(other.pool == offer.pool and _beats(other, offer) for other in kept):
            kept.append(offer)
    return tuple(kept)


def _beats(other: Offer, offer: Offer) -> bool:
    many = _fitting(other.pieces, offer.pieces)
    return (
        many > 0
        and many * other.full_per_s >= offer.full_per_s
        and other.requests_per_s(many) >= offer.requests_per_s()
    )


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
