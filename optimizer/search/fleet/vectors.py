"""Usage vectors: the ways in which one role can be served, each with the room that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.factoring import coded, representatives
from optimizer.layout import Ints, ParallelLayout
from optimizer.operators import Floats
from optimizer.search.fleet.keeping import Keep
from optimizer.search.fleet.offers import Offer, Pieces
from optimizer.search.fleet.room import PoolRoom

SHORT = 1e-9  # share of a demand that a served rate may lack: rounding
BLOCK = 256
NOTHING = -1  # in place of a use, in a way that leaves a pool alone


class Use(NamedTuple):
    """So many replicas of one offer, what they take of each row of its pool's room, and the
    requests a second that they sustain."""

    offer: Offer
    replicas: int
    room: tuple[int, ...]
    requests_per_s: float

    @property
    def gpus(self) -> int:
        return self.offer.gpus * self.replicas

    @property
    def pieces(self) -> Pieces:
        return tuple((size, many * self.replicas) for size, many in self.offer.pieces)


Vector = tuple[Use, ...]  # in different pools


def served_by(vector: Vector) -> float:
    """Requests a second."""
    return sum(use.requests_per_s for use in vector)


def layouts_of(vector: Vector) -> tuple[tuple[int, ParallelLayout], ...]:
    """What tells ways to serve a role apart beside their numbers of replicas."""
    return tuple((use.offer.pool, use.offer.layout) for use in vector)


def vectors_of(
    offers: Sequence[Offer],
    rooms: Sequence[PoolRoom],
    wanted_per_s: float,
    max_pools: int,
    partial: bool = False,
    layers: int = 1,
    near: Near | None = None,
) -> list[Vector]:
    """Every way to serve a role from one layout a pool in at most `max_pools` pools that not as
    many as `layers` ways by other layouts beat in room taken; with `partial` also ways that serve
    less, unbeaten in room and rate. With `near` ways that load more do not beat
    others.

    Of an offer at most as many replicas count as serve what is wanted alone.
    """
    least = 0.0 if partial else wanted_per_s * (1 - SHORT)
    by_pool: dict[int, list[Offer]] = {}
    for offer in offers:
        by_pool.setdefault(offer.pool, []).append(offer)
    uses: dict[int, _Uses] = {}
    for pool in sorted(by_pool):
        every = _uses(by_pool[pool], rooms[pool], wanted_per_s, near)
        alone = np.arange(len(every.offer))[:, None]
        uses[pool] = every.take(_unbeaten([every], alone, wanted_per_s, layers)[:, 0])
    rate = wanted_per_s if partial else 0.0
    found: dict[tuple[int, ...], Ints] = {}
    for many in range(1, max_pools + 1):
        for pools in combinations(uses, many):
            own = [uses[pool] for pool in pools]
            fewer = [_spread(found[few], few, pools) for few in found if set(few) < set(pools)]
            ways = np.concatenate([*fewer, _joined(own, least, layers, near)])
            left = _unbeaten(own, ways, rate, layers)
            found[pools] = left[(left != NOTHING).all(axis=1)]
    return [vector for pools, ways in found.items() for vector in _spelled(uses, pools, ways)]


class Near(NamedTuple):
    """What a way may cost at most, at such a price of a GPU of each pool, and what replicas of an
    offer keep of what runs."""

    most: float
    prices: Sequence[float]
    keep: Callable[[Offer], Keep]


class _Uses(NamedTuple):
    """Columns of a pool's uses; the last row of those with one more is that of no use."""

    offers: Sequence[Offer]
    offer: Ints
    replicas: Ints
    room: Ints  # [n + 1, rows of the pool's room]
    rates: Floats  # [n + 1] requests a second
    kinds: Ints  # [n + 1] layouts told apart
    costs: Floats  # [n + 1]
    held_bytes: Floats  # [n + 1] weights of all replicas
    load_bytes: Floats  # [n + 1] those that they do not find

    def take(self, uses: Ints) -> _Uses:
        last = np.append(uses, NOTHING)
        offer, replicas = self.offer[uses], self.replicas[uses]
        return _Uses(self.offers, offer, replicas, *(column[last] for column in self[3:]))

    def use(self, index: int) -> Use:
        room = tuple(self.room[index].tolist())
        offer = self.offers[self.offer[index]]
        return Use(offer, int(self.replicas[index]), room, float(self.rates[index]))


def _uses(offers: Sequence[Offer], own: PoolRoom, wanted_per_s: float, near: Near | None) -> _Uses:
    """Each offer in every number of replicas that there is room for, and that may be needed."""
    live = sum(size * many for size, many in own.domains)
    numbers: dict[ParallelLayout, int] = {}
    numbered = [numbers.setdefault(offer.layout, len(numbers)) for offer in offers]
    wanted = wanted_per_s * (1 - SHORT)
    counts = [
        np.arange(1, min(offer.replicas_for(wanted), live // offer.gpus) + 1) for offer in offers
    ]
    offer = np.repeat(np.arange(len(offers)), [len(count) for count in counts])
    replicas = np.concatenate(counts)
    rates = np.concatenate([each.rates(count) for each, count in zip(offers, counts, strict=True)])
    one = np.array([own.demand(offer.pieces) for offer in offers])
    room = np.concatenate([one[offer] * replicas[:, None], np.zeros_like(one[:1])])
    kinds = np.append(np.array(numbered)[offer], NOTHING)
    none = np.zeros(len(room))
    every = _Uses(offers, offer, replicas, room, np.append(rates, 0.0), kinds, none, none, none)
    if near is None:
        return every
    keeps = [near.keep(each) for each in offers]
    kept = [keep.kept_bytes(count) for keep, count in zip(keeps, counts, strict=True)]
    held = np.array([keep.replica_bytes for keep in keeps])[offer] * replicas
    gpus = np.array([each.gpus for each in offers])[offer] * replicas
    costs = np.append(gpus * near.prices[offers[0].pool], 0.0)
    load = np.append(held - np.concatenate(kept), 0.0)
    every = every._replace(costs=costs, held_bytes=np.append(held, 0.0), load_bytes=load)
    return every.take(np.flatnonzero(costs[:NOTHING] <= near.most))


def _spread(ways: Ints, pools: tuple[int, ...], over: tuple[int, ...]) -> Ints:
    """Ways in some pools as ways in more of them."""
    spread = np.full((len(ways), len(over)), NOTHING)
    spread[:, [over.index(pool) for pool in pools]] = ways
    return spread


def _spelled(uses: Mapping[int, _Uses], pools: tuple[int, ...], ways: Ints) -> list[Vector]:
    columns = [
        {index: uses[pool].use(index) for index in np.unique(column).tolist()}
        for pool, column in zip(pools, ways.T, strict=True)
    ]
    return [
        tuple(known[index] for known, index in zip(columns, way, strict=True))
        for way in ways.tolist()
    ]


def _joined(uses: Sequence[_Uses], least_per_s: float, layers: int, near: Near | None) -> Ints:
    """One use of each pool, together at least so many requests a second, no pool in vain [ways,
    pools]."""
    *others, last = uses
    # Where room is one number, the smallest use that serves enough beats the larger ones.
    one_is_enough = layers == 1 and near is None and least_per_s > 0 and last.room.shape[1] == 1
    found = [np.zeros((0, len(uses)), dtype=np.int64)]
    # All uses of the last two pools at once, for one way at a time in the pools before.
    for few in product(*(range(len(own.offer)) for own in others[:-1])):
        ahead = np.array([few])
        if others:
            second = np.arange(len(others[-1].offer))
            ahead = np.column_stack([np.tile(ahead, (len(second), 1)), second])
        ahead = ahead.astype(np.int64)
        served = _sum([own.rates for own in others], ahead)
        if others and least_per_s > 0:
            ahead, served = ahead[served < least_per_s], served[served < least_per_s]
        enough = last.rates[None, :NOTHING] >= (least_per_s - served)[:, None]
        if near is not None:
            spent = _sum([own.costs for own in others], ahead)
            enough &= last.costs[None, :NOTHING] <= (near.most - spent)[:, None]
        rows, columns = np.nonzero(enough)
        if one_is_enough:
            rows, first = np.unique(rows, return_index=True)
            columns = columns[first]
        found.append(np.column_stack([ahead[rows], columns]))
    return np.concatenate(found)


def _sum(columns: Sequence[Floats], ways: Ints) -> Floats:
    """What the uses of each way add up to, of a column of each pool's uses."""
    parts = (column[uses] for column, uses in zip(columns, ways.T, strict=True))
    return sum(parts, np.zeros(len(ways)))


def _unbeaten(uses: Sequence[_Uses], ways: Ints, wanted_per_s: float, layers: int) -> Ints:
    """Ways [n, pools] that none of the same layouts, and not as many as `layers` of others, beat in
    every row of room, in the rate served, up to what is wanted, and in what they load; of equal
    ones the first. Smaller ones come first."""
    room = np.column_stack([own.room[use] for own, use in zip(uses, ways.T, strict=True)])
    rates = np.minimum(_sum([own.rates for own in uses], ways), wanted_per_s)
    # Of what they hold, too: no pool keeps more of a model than its GPUs have.
    held = _sum([own.held_bytes for own in uses], ways)
    load = _sum([own.load_bytes for own in uses], ways)
    taken = np.column_stack([room, -rates, held, load])
    _, kinds = representatives(*(own.kinds[use] for own, use in zip(uses, ways.T, strict=True)))
    order = np.lexsort((held, load, -rates, room.sum(axis=1)))
    varied = np.flatnonzero((taken != taken[:1]).any(axis=0))
    if layers == 1 and len(varied) <= 2:
        first, second = taken[order][:, [*varied, 0, 0][:2]].T
        return ways[order[_stairs(first, second)]]
    columns = [coded(column)[1].astype(np.int32) for column in taken[:, varied].T]
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        beats = _beats(columns, block, kept)
        block = block[~_outdone(beats, kinds[block], kinds[kept], layers)]
        # What an earlier one of the block beats stays beaten where that one is beaten too.
        others = np.append(kept, block)
        beats = _beats(columns, block, others)
        beats[:, len(kept) :] = np.tril(beats[:, len(kept) :], -1)
        block = block[~_outdone(beats, kinds[block], kinds[others], layers)]
        kept = np.append(kept, block)
    return ways[kept]


def _stairs(first: Floats, second: Floats) -> Ints:
    """The rows of two columns that none is below in both, and of equal ones the first."""
    rows = np.lexsort((second, first))
    heights = second[rows]
    lower = np.ones(len(rows), dtype=bool)
    lower[1:] = heights[1:] < np.minimum.accumulate(heights)[:-1]
    return np.sort(rows[lower])


def _beats(columns: Sequence[NDArray[np.int32]], rows: Ints, others: Ints) -> NDArray[np.bool_]:
    """Whether an other is no larger than a row in every column [rows, others]."""
    beats = np.ones((len(rows), len(others)), dtype=bool)
    for column in columns:
        beats &= column[others][None, :] <= column[rows][:, None]
    return beats


def _outdone(beats: NDArray[np.bool_], kinds: Ints, others: Ints, layers: int) -> NDArray[np.bool_]:
    """Which rows one of their own kind beats, or others of as many kinds as `layers` [rows]."""
    found: NDArray[np.bool_] = np.any(beats, axis=1)
    if layers == 1 or not found.any():
        return found
    order = np.argsort(others, kind="stable")
    starts = np.flatnonzero(np.diff(others[order], prepend=-1))
    by_kind = np.logical_or.reduceat(beats[:, order], starts, axis=1)
    own = (by_kind & (others[order][starts][None, :] == kinds[:, None])).any(axis=1)
    found &= own | (by_kind.sum(axis=1) >= layers)
    return found
