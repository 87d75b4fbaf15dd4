"""Layers on the stages of two pools: for every number of layers in the first, either pool's cut so
that none of its stages holds more bytes of weights than it must."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from optimizer.cost.cuts import layer_weights
from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.spec.model import ModelSpec

NO_CUT = np.iinfo(np.int64).max


class Contents(NamedTuple):
    """What the stages of one pool hold, by number of layers in the first pool, n.

    own: layers of each type on all of its stages [n, types]; stages: of the distinct stages that no
    other of the pool holds more of, layers of each type and, last, 1 where the model's end is there
    [n, stages, types + 1], 0 beyond them.
    """

    own: Ints
    stages: Ints

    def largest(self, values: tuple[Floats, ...]) -> Floats:
        """The largest stage's sum of what a layer of each type, and the end, add [points, n]."""
        return self._most(values, self._summed)

    def largest_bytes(self, values: tuple[Floats, ...]) -> Floats:
        """The same of whole numbers, which add up alike in any order [points, n]."""
        added = np.stack(values, axis=-1)
        return self._most(values, lambda _, counts: added @ counts.T.astype(np.float64))

    def _most(
        self,
        values: tuple[Floats, ...],
        summed: Callable[[tuple[Floats, ...], Ints], Floats],
    ) -> Floats:
        found = summed(values, self.stages[:, 0])
        for stage in range(1, self.stages.shape[1]):
            np.maximum(found, summed(values, self.stages[:, stage]), out=found)
        return found

    def total(self, values: tuple[Floats, ...]) -> Floats:
        """The sum over all stages [points, n]."""
        return self._summed(values, np.column_stack([self.own, np.ones(len(self.own), np.int64)]))

    def _summed(self, values: tuple[Floats, ...], counts: Ints) -> Floats:
        """counts [n, types + 1] times what each adds."""
        used = [part for part in range(len(values)) if counts[:, part].any()]
        found = np.zeros((len(values[0]), len(counts)))
        for part in used:
            found += values[part][:, None] * counts[:, part]
        return found


def cut_of(model: ModelSpec, stages: tuple[int, int], layers: int) -> tuple[int, ...]:
    """Layers of every stage, `layers` of them in all on the first pool's stages."""
    sizes, head = layer_weights(model)
    first = best_cuts(sizes, 0, stages[0]).sizes[layers]
    return first + best_cuts(sizes[::-1], head, stages[1]).sizes[len(sizes) - layers][::-1]


def contents_of(model: ModelSpec) -> tuple[Callable[[int], Contents], Callable[[int], Contents]]:
    """What so many stages of the first pool, and of the second, hold. The end of the first is the
    embedding, of the second the head."""
    sizes, head = layer_weights(model)
    types = tuple(model.layer_types)
    kinds = tuple(types.index(name) for name in model.layer_names)

    def first(stages: int) -> Contents:
        return _contents(kinds, len(types), best_cuts(sizes, 0, stages).sizes)

    def second(stages: int) -> Contents:
        cuts = best_cuts(sizes[::-1], head, stages).sizes
        found = _contents(kinds[::-1], len(types), cuts)
        return Contents(found.own[::-1], found.stages[::-1])

    return first, second


class Cuts(NamedTuple):
    """The best cuts of the first n layers into some number of stages: the largest stage's bytes
    [n], and the layers of each stage, () where there are fewer than stages."""

    largest: Ints
    sizes: tuple[tuple[int, ...], ...]


@cache
def best_cuts(layers: tuple[int, ...], end: int, stages: int) -> Cuts:
    """The cuts of the first n layers, for every n, whose largest stage is least, `end` added to the
    first stage: exact, stage by stage (Bellman, 1957); of such cuts the one whose last stage is
    nearest to an even share."""
    count = len(layers)
    ends = np.cumsum((0, *layers))
    if stages == 1:
        return Cuts(ends + end, ((), *((size,) for size in range(1, count + 1))))
    before = best_cuts(layers, end, stages - 1)
    size, start = np.arange(count + 1)[:, None], np.arange(count + 1)
    able = (start >= stages - 1) & (start < size)
    held = np.maximum(before.largest, ends[size] - ends)
    held[~able] = NO_CUT
    largest = held.min(axis=1)
    off = np.abs(start - size * ((stages - 1) / stages))
    chosen = np.where(able & (held == largest[:, None]), off, np.inf).argmin(axis=1).tolist()
    return Cuts(
        largest,
        tuple(
            (*before.sizes[start], each - start) if each >= stages else ()
            for each, start in enumerate(chosen)
        ),
    )


@cache
def _contents(kinds: tuple[int, ...], types: int, cuts: tuple[tuple[int, ...], ...]) -> Contents:
    """Of each cut of the first n layers, whose first stage holds the model's end."""
    held = np.zeros((len(kinds) + 1, types), dtype=np.int64)
    for kind in range(types):
        held[1:, kind] = np.cumsum(np.array(kinds) == kind)
    stages = []
    for cut in cuts:
        ends = np.cumsum((0, *cut))
        counts = held[ends[1:]] - held[ends[:-1]]
        end = np.arange(len(cut)) == 0
        stages.append(_most(np.column_stack([counts, end]).astype(np.int64)))
    most = max(len(each) for each in stages)
    padded = np.zeros((len(cuts), most, types + 1), dtype=np.int64)
    for size, each in enumerate(stages):
        padded[size, : len(each)] = each
    return Contents(held, padded)


def _most(stages: Ints) -> Ints:
    """The distinct stages that no other holds at least as much of everything as."""
    distinct = np.unique(stages, axis=0)
    more = (distinct[None, :] >= distinct[:, None]).all(axis=2)
    found: Ints = distinct[more.sum(axis=1) == 1]
    return found
