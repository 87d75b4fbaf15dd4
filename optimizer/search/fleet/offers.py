"""Offers: what one replica of a layout in one pool serves at most within the limits."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.serving import mean_in_flight, peak, sustained
from optimizer.layout import Ints, ParallelLayout
from optimizer.operators import Floats
from optimizer.search.room import numbered, run_bounds

Pieces = tuple[tuple[int, int], ...]  # (GPUs of a piece, pieces), the largest first


@dataclass(frozen=True)
class Offer:
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

    def rates(self, replicas: Ints) -> Floats:
        """requests_per_s of several numbers of replicas."""
        return mean_in_flight(self.slots * replicas.astype(np.float64)) / self.request_s

    def replicas_for(self, requests_per_s: float) -> int:
        """The fewest replicas that sustain a rate."""
        in_flight = np.array(requests_per_s * self.request_s)
        return max(1, ceil(float(peak(in_flight)) / self.slots))

    @cached_property
    def full_per_s(self) -> float:
        """Requests a second with every slot taken all the time."""
        return self.slots / self.request_s

    @cached_property
    def gpus(self) -> int:
        return sum(size * many for size, many in self.pieces)


def pieces_of(pp: int, width: int, span: int) -> Pieces:
    """The pieces of a replica: each stage lies in whole pieces of `span` GPUs and one rest."""
    whole, rest = divmod(width, span)
    found = [(span, pp * whole), (rest, pp)]
    return tuple((size, many) for size, many in found if size and many)


def best_rows(candidates: Candidates) -> Ints:
    """Of each stretch of rows of one pool, layout and span, of those that keep every limit: the row
    that serves most with every slot taken, and those that serve more than it in one replica alone.

    With u = sqrt(1 + slots n) the share of full that n replicas sustain is (u - 1)/(u + 1), whose
    elasticity in n is 1/u: a row that is no worse in one replica and in endlessly many is no worse
    in any number."""
    layouts = candidates.layouts
    degrees = (layouts.pp, layouts.tp, layouts.cp, layouts.dp, layouts.ep, layouts.etp)
    bounds = run_bounds(candidates.pool, *degrees, layouts.span)
    rates = candidates.concurrency / candidates.latency_s
    able = (candidates.broken() == 0) & np.isfinite(rates) & (rates > 0)
    if not able.any():
        return np.zeros(0, dtype=np.int64)
    rates = np.where(able, rates, 0.0)
    most = np.maximum.reduceat(rates, bounds[:-1])
    run = numbered(bounds)
    rows = np.flatnonzero(able & (rates == most[run]))
    first = rows[np.diff(run[rows], prepend=-1) > 0]
    alone = np.where(able, mean_in_flight(candidates.concurrency) / candidates.latency_s, 0.0)
    beaten = np.full(len(most), np.inf)
    beaten[run[first]] = alone[first]
    return np.sort(np.append(first, np.flatnonzero(alone > beaten[run])))


def offers_of(
    candidates: Candidates, layers: int = 1, always: Collection[tuple[int, ParallelLayout]] = ()
) -> tuple[Offer, ...]:
    """The offers of each pool that not as many as `layers` other layouts beat, in a fixed order: of
    each way of taking room the best ones. Layouts that `always` names with a pool come last where
    others beat them.

    One offer beats another of its pool where some number of its replicas fit into the other's
    pieces and serve as much, alone and in any number: whoever takes the other may take these in its
    place. (Rates of n replicas are between those of one and of endlessly many.)
    """
    candidates = candidates.take(best_rows(candidates))
    layouts = candidates.layouts
    columns = (candidates.pool, layouts.pp, layouts.width, layouts.span)
    order = np.lexsort((-candidates.concurrency / candidates.latency_s, *columns[::-1]))
    ways = zip(*(column[order].tolist() for column in columns), strict=True)
    degrees = zip(
        *(getattr(layouts, name)[order].tolist() for name in ("tp", "cp", "ep", "etp")), strict=True
    )
    met: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = {}
    found: dict[tuple[int, Pieces], list[Offer]] = {}
    alone = (mean_in_flight(candidates.concurrency) / candidates.latency_s)[order].tolist()
    for row, way, layout, one in zip(order.tolist(), ways, degrees, alone, strict=True):
        others = met.setdefault(way, [])
        beaten_by = {other for rate, other in others if rate >= one}
        if layout in beaten_by or len(beaten_by) >= layers:
            continue
        others.append((one, layout))
        offer = _offer(candidates, row)
        found.setdefault((offer.pool, offer.pieces), []).append(offer)
    kept = _unbeaten([offer for key in sorted(found) for offer in found[key]], layers)
    if not always:
        return kept
    every = (_offer(candidates, row) for row in order.tolist())
    beaten = [offer for offer in every if (offer.pool, offer.layout) in always]
    return tuple(dict.fromkeys([*kept, *beaten]))


def _offer(candidates: Candidates, row: int) -> Offer:
    layout = candidates.layout(row, 1)
    pieces = pieces_of(layout.pp, layout.width, int(candidates.layouts.span[row]))
    slots, request_s = float(candidates.concurrency[row]), float(candidates.latency_s[row])
    return Offer(int(candidates.pool[row]), layout, pieces, slots, request_s)


def _unbeaten(offers: Sequence[Offer], layers: int) -> tuple[Offer, ...]:
    """Small offers first: what beats an offer is no larger."""
    kept: list[Offer] = []
    for offer in sorted(offers, key=lambda each: (each.pool, each.gpus, -each.full_per_s)):
        beaten_by: set[ParallelLayout] = set()
        for other in kept:
            if other.pool == offer.pool and _beats(other, offer):
                beaten_by.add(other.layout)
                if len(beaten_by) == layers:
                    break
        if len(beaten_by) < layers and offer.layout not in beaten_by:
            kept.append(offer)
    return tuple(kept)


def _beats(other: Offer, offer: Offer) -> bool:
    if offer.gpus // other.gpus * other.full_per_s < offer.full_per_s:
        return False
    many = fitting(other.pieces, offer.pieces)
    return (
        many > 0
        and many * other.full_per_s >= offer.full_per_s
        and other.requests_per_s(many) >= offer.requests_per_s()
    )


def fitting(pieces: Pieces, into: Pieces) -> int:
    """Replicas of some pieces that fit into other pieces, by putting the largest first into the
    smallest that has room: a number that fits, not always the most."""
    if len(pieces) == 1:
        ((own, needed),) = pieces
        return sum(size // own * many for size, many in into) // needed
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
