"""Usage vectors: the ways in which one role can be served, each with the room that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, combinations, islice, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints, ParallelLayout
from optimizer.operators import Floats
from optimizer.search.fleet.offers import Offer, Pieces
from optimizer.search.fleet.room import PoolRoom

SHORT = 1e-9  # share of a demand that a served rate may lack: rounding
BLOCK = 256


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


def vectors_of(
    offers: Sequence[Offer],
    rooms: Sequence[PoolRoom],
    wanted_per_s: float,
    max_pools: int,
    partial: bool = False,
    layers: int = 1,
) -> list[Vector]:
    """Every way to serve a role from one layout a pool in at most `max_pools` pools that not as
    many as `layers` ways by other layouts beat in room taken; with `partial` also ways that serve
    less, unbeaten in room and rate.

    Of an offer at most as many replicas count as serve what is wanted alone.
    """
    least = 0.0 if partial else wanted_per_s * (1 - SHORT)
    by_pool: dict[int, list[Use]] = {}
    for offer in offers:
        by_pool.setdefault(offer.pool, []).extend(_uses(offer, rooms[offer.pool], wanted_per_s))
    uses = {
        pool: [use for (use,) in _unbeaten([(use,) for use in own], wanted_per_s, layers)]
        for pool, own in by_pool.items()
    }
    rate = wanted_per_s if partial else 0.0
    found: dict[tuple[int, ...], list[Vector]] = {}
    for many in range(1, max_pools + 1):
        for pools in combinations(sorted(uses), many):
            fewer = [own for other, own in found.items() if set(other) < set(pools)]
            joined = _joined([uses[pool] for pool in pools], least, layers)
            left = _unbeaten([*chain.from_iterable(fewer), *joined], rate, layers)
            found[pools] = [vector for vector in left if len(vector) == many]
    return list(chain.from_iterable(found.values()))


def _uses(offer: Offer, own: PoolRoom, wanted_per_s: float) -> Iterator[Use]:
    live = sum(size * many for size, many in own.domains)
    enough = offer.replicas_for(wanted_per_s * (1 - SHORT))
    one = own.demand(offer.pieces)
    for replicas in range(1, min(enough, live // offer.gpus) + 1):
        room = tuple(replicas * each for each in one)
        yield Use(offer, replicas, room, offer.requests_per_s(replicas))


def layouts_of(vector: Vector) -> tuple[tuple[int, ParallelLayout], ...]:
    """What tells ways to serve a role apart beside their numbers of replicas."""
    return tuple((use.offer.pool, use.offer.layout) for use in vector)


def _joined(uses: Sequence[Sequence[Use]], least_per_s: float, layers: int) -> Iterator[Vector]:
    """One use of each pool, together at least so many requests a second, no pool in vain."""
    *others, last = uses
    # Where room is one number, the smallest use that serves enough beats the larger ones.
    one_is_enough = layers == 1 and least_per_s > 0 and all(len(use.room) == 1 for use in last)
    for vector in product(*others):
        left = least_per_s - served_by(vector)
        if vector and least_per_s > 0 and left <= 0:
            continue
        enough = ((*vector, use) for use in last if use.requests_per_s >= left)
        yield from islice(enough, 1) if one_is_enough else enough


def _unbeaten(vectors: Sequence[Vector], wanted_per_s: float, layers: int) -> list[Vector]:
    """Vectors that none of the same layouts, and not as many as `layers` of others, beat in every
    row of room and in the rate served, up to what is wanted; of equal ones the first. Smaller ones
    come first."""
    lengths = {use.offer.pool: len(use.room) for vector in vectors for use in vector}
    ends = accumulate(lengths.values(), initial=0)
    starts = dict(zip(lengths, ends, strict=False))
    taken = np.zeros((len(vectors), sum(lengths.values()) + 1))
    for row, vector in enumerate(vectors):
        for use in vector:
            start = starts[use.offer.pool]
            taken[row, start : start + len(use.room)] = use.room
        taken[row, -1] = -min(served_by(vector), wanted_per_s)
    numbers: dict[tuple[tuple[int, ParallelLayout], ...], int] = {}
    kinds = np.array(
        [numbers.setdefault(layouts_of(vector), len(numbers)) for vector in vectors], dtype=np.int64
    )
    order = np.lexsort((taken[:, -1], taken[:, :-1].sum(axis=1)))
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        beats = _beats(taken[block], taken[kept])
        block = block[~_outdone(beats, kinds[block], kinds[kept], layers)]
        # What an earlier one of the block beats stays beaten where that one is beaten too.
        others = np.append(kept, block)
        beats = _beats(taken[block], taken[others])
        beats[:, len(kept) :] = np.tril(beats[:, len(kept) :], -1)
        block = block[~_outdone(beats, kinds[block], kinds[others], layers)]
        kept = np.append(kept, block)
    return [vectors[row] for row in kept.tolist()]


def _beats(rows: Floats, others: Floats) -> NDArray[np.bool_]:
    """Whether an other is no larger than a row in every column [rows, others]."""
    beats = np.ones((len(rows), len(others)), dtype=bool)
    for column in range(rows.shape[1]):
        beats &= others[None, :, column] <= rows[:, None, column]
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
