"""Room in a pool: whether pieces of given sizes fit its domains, as rows of linear constraints.

Where each size divides the next one (1, 2, 4, 8 GPUs), pieces fit exactly if, for every size s, the
GPUs in pieces of at least s are no more than the domains hold in whole pieces of s: filling the
largest pieces first then never strands room. Other sizes need the ways to cut a domain as
variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from optimizer.search.fleet.offers import Offer
from optimizer.spec.cluster import Cluster

MAX_CUTS = 2_000  # of one kind of domain


class PoolRoom(NamedTuple):
    """What a pool's live domains hold, as rows.

    sizes: those of pieces, ascending; domains: (live GPUs, how many such domains). Of a chain
    `limits` pairs a size with the GPUs that the domains hold in whole pieces of it, for sizes where
    that is less than for the sizes below. Else each size is a row, with no limit of its own, and
    `cuts` has for each kind of domain every maximal way to cut it, in pieces by size.
    """

    sizes: tuple[int, ...]
    domains: tuple[tuple[int, int], ...]
    limits: tuple[tuple[int, int | None], ...]
    cuts: tuple[tuple[tuple[int, ...], ...], ...]

    def demand(self, pieces: Iterable[tuple[int, int]]) -> tuple[int, ...]:
        """What pieces take of each row: GPUs in pieces of at least its size, or pieces of it."""
        if self.cuts:
            counts = dict(pieces)
            return tuple(counts.get(size, 0) for size in self.sizes)
        taken = list(pieces)
        return tuple(
            sum(size * many for size, many in taken if size >= least) for least, _ in self.limits
        )


def rooms_of(cluster: Cluster, offers: Iterable[Offer]) -> tuple[PoolRoom, ...]:
    """The room of each pool for the pieces of these offers."""
    sizes: list[set[int]] = [set() for _ in cluster.pools]
    for offer in offers:
        sizes[offer.pool] |= {size for size, _ in offer.pieces}
    return tuple(
        _room(tuple(sorted(own)), tuple(sorted(live.items())))
        for own, live in zip(sizes, cluster.live_sizes, strict=True)
    )


def _room(sizes: tuple[int, ...], domains: tuple[tuple[int, int], ...]) -> PoolRoom:
    if any(large % small for small, large in pairwise(sizes)):
        cuts = tuple(_cuts(live, sizes) for live, _ in domains)
        return PoolRoom(sizes, domains, tuple((size, None) for size in sizes), cuts)
    limits: list[tuple[int, int]] = []
    for size in sizes:
        held = sum(many * (live // size) * size for live, many in domains)
        if not limits or held < limits[-1][1]:
            limits.append((size, held))
    return PoolRoom(sizes, domains, tuple(limits), ())


def _cuts(live: int, sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Every maximal way to cut so many GPUs into pieces of these sizes: less than the smallest is
    left. At most MAX_CUTS + 1 of them."""
    return tuple(islice(_maximal(live, sizes), MAX_CUTS + 1))


def _maximal(live: int, sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if len(sizes) == 1:
        yield (live // sizes[0],)
        return
    *smaller, largest = sizes
    for many in range(live // largest, -1, -1):
        for cut in _maximal(live - many * largest, smaller):
            yield (*cut, many)


def packable(
    cluster: Cluster, offers: Sequence[Offer], chains: bool = False
) -> tuple[list[Offer], list[str]]:
    """(offers whose pieces can be packed exactly, what was left out).

    A pool with too many ways to cut its domains, or with `chains` every pool, keeps the longest
    chain of sizes that divide each other, of equally long ones the chain that more offers use.
    """
    kept: list[Offer] = []
    notes: list[str] = []
    for pool, room in enumerate(rooms_of(cluster, offers)):
        own = [offer for offer in offers if offer.pool == pool]
        many = any(len(cuts) > MAX_CUTS for cuts in room.cuts)
        if not many and not (chains and room.cuts):
            kept += own
            continue
        chain = _longest_chain(room.sizes, own)
        inside = [offer for offer in own if {size for size, _ in offer.pieces} <= chain]
        kept += inside
        notes.append(
            f"{cluster.pools[pool].name}: "
            + (f"domains can be cut in more than {MAX_CUTS:,} ways; " if many else "")
            + f"{len(own) - len(inside)} of {len(own)} offers with pieces beside "
            f"{', '.join(map(str, sorted(chain)))} GPUs were left out"
        )
    return kept, notes


def _longest_chain(sizes: Sequence[int], offers: Sequence[Offer]) -> set[int]:
    """By dynamic programming over the sizes, ascending."""
    users = {size: sum(size in dict(offer.pieces) for offer in offers) for size in sizes}
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {}
    for size in sizes:
        before = [best[small] for small in best if size % small == 0]
        length, used, chain = max(before, default=(0, 0, ()))
        best[size] = length + 1, used + users[size], (*chain, size)
    return set(max(best.values())[2])
