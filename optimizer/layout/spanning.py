"""Replicas that span two pools: the first stages in one pool, the others in another, all of one
width.

Each ordered pair of pools is a space of its own: every stage that both pools can hold, in every
number here and there. Where those are more than MOST_LAYOUTS the deepest pipelines are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Ints, Layouts
from optimizer.layout.enumeration import Space
from optimizer.spec.cluster import Cluster

MOST_LAYOUTS = 6000  # of all pairs together
MOST_POOLS = 6  # where there are more, no replica that spans two is searched


@dataclass(frozen=True)
class Split:
    """n layouts over two pools: `layouts` has the stages of both and the span of the first; of them
    `stages` lie in the first pool, and the second has `span` GPUs of a stage in one domain."""

    layouts: Layouts
    stages: Ints
    span: Ints

    def __len__(self) -> int:
        return len(self.stages)

    def take(self, rows: NDArray[np.int64]) -> Split:
        return Split(self.layouts.take(rows), self.stages[rows], self.span[rows])

    @property
    def shares(self) -> tuple[Layouts, Layouts]:
        """What lies in either pool, as layouts of their own."""
        first = replace(self.layouts, pp=self.stages)
        return first, replace(self.layouts, pp=self.layouts.pp - self.stages, span=self.span)

    def replicas(self, cluster: Cluster, pools: tuple[int, int]) -> Ints:
        """Replicas that the GPUs of both pools are enough for [n]."""
        here = [
            cluster.live_gpus(pool) // share.gpus_per_replica
            for pool, share in zip(pools, self.shares, strict=True)
        ]
        found: Ints = np.minimum(*here)
        return found


@dataclass(frozen=True)
class SpanningSpace(Space):
    """The layouts of one ordered pair of pools; what divides was counted in each pool's own."""

    pools: tuple[int, int]
    split: Split


def spanning_spaces(
    cluster: Cluster, stages: Sequence[Layouts], num_layers: int, pp: int | None = None
) -> tuple[SpanningSpace, ...]:
    """Every pair's space; `stages`: of each pool the ways that one stage may lie (their pp aside);
    `pp`: the stages of a replica where they are given, whether or not there are GPUs for them."""
    pairs = _pairs(cluster, stages)
    if pp is None:
        wanted = range(2, deepest(pairs, num_layers) + 1)
    else:
        pairs = [
            pair._replace(most=(pair.most[0] * 0 + pp, pair.most[1] * 0 + pp)) for pair in pairs
        ]
        wanted = range(pp, min(pp, num_layers) + 1)
    found = []
    for pair in pairs:
        split = pair.split(wanted)
        if len(split):
            found.append(SpanningSpace(split.layouts, len(split), {}, pair.pools, split))
    return tuple(found)


def left_out(cluster: Cluster, stages: Sequence[Layouts], num_layers: int) -> str | None:
    """What spanning_spaces does not have; None where it has all."""
    if len(stages) > MOST_POOLS:
        return f"not searched in more than {MOST_POOLS} pools"
    pairs = _pairs(cluster, stages)
    most = deepest(pairs, num_layers)
    more = sum(int(pair.ways(pp).sum()) for pair in pairs for pp in range(most + 1, num_layers + 1))
    return f"searched up to {most} stages, {more:,} layouts are deeper" if more else None


def _pairs(cluster: Cluster, stages: Sequence[Layouts]) -> list[_Pair]:
    if len(stages) > MOST_POOLS:
        return []
    return [_Pair.of(cluster, pools, stages) for pools in permutations(range(len(stages)), 2)]


class _Pair(NamedTuple):
    """Stages that two pools can both hold, and the most of them that either has GPUs for."""

    pools: tuple[int, int]
    layouts: Layouts  # in the first pool; their pp says nothing
    span: Ints  # in the second
    most: tuple[Ints, Ints]

    @classmethod
    def of(cls, cluster: Cluster, pools: tuple[int, int], stages: Sequence[Layouts]) -> _Pair:
        first, second = (
            stages[pool].take(np.flatnonzero(stages[pool].pp == stages[pool].pp[:1]))
            for pool in pools
        )
        others: dict[tuple[int, ...], list[int]] = {}
        for row, key in enumerate(_keys(second)):
            others.setdefault(key, []).append(row)
        joined = [
            (row, other) for row, key in enumerate(_keys(first)) for other in others.get(key, ())
        ]
        rows, there = np.array(joined, dtype=np.int64).reshape(-1, 2).T
        layouts = first.take(rows)
        most = (
            cluster.live_gpus(pools[0]) // layouts.width,
            cluster.live_gpus(pools[1]) // layouts.width,
        )
        return cls(pools, layouts, second.span[there], most)

    def least(self, pp: int) -> Ints:
        """The fewest stages in the first pool of a replica with pp stages [n]."""
        return np.maximum(1, pp - self.most[1])

    def ways(self, pp: int) -> Ints:
        """Ways to cut pp stages into those here and those there [n]."""
        return np.maximum(np.minimum(self.most[0], pp - 1) - self.least(pp) + 1, 0)

    def split(self, wanted: Iterable[int]) -> Split:
        """All splits into so many stages, those of equal degrees one after the other."""
        rows, stages, total = [], [], []
        for pp in wanted:
            ways = self.ways(pp)
            row = np.repeat(np.arange(len(ways)), ways)
            place = np.arange(len(row)) - (np.cumsum(ways) - ways)[row]
            rows.append(row)
            stages.append(self.least(pp)[row] + place)
            total.append(np.full_like(row, pp))
        empty = np.zeros(0, dtype=np.int64)
        row, here, pp_of = (np.concatenate([empty, *each]) for each in (rows, stages, total))
        order = np.argsort(row, kind="stable")
        layouts = replace(self.layouts.take(row[order]), pp=pp_of[order])
        return Split(layouts, here[order], self.span[row[order]])


def deepest(pairs: Sequence[_Pair], num_layers: int) -> int:
    """The most stages of a replica so that no more than MOST_LAYOUTS layouts have that many or
    fewer; 1 where two stages are too many already."""
    left = MOST_LAYOUTS
    for pp in range(2, num_layers + 1):
        left -= sum(int(pair.ways(pp).sum()) for pair in pairs)
        if left < 0:
            return pp - 1
    return num_layers


def _keys(layouts: Layouts) -> Iterator[tuple[int, ...]]:
    degrees = ("tp", "cp", "dp", "ep", "etp")
    return zip(*(getattr(layouts, name).tolist() for name in degrees), strict=True)
