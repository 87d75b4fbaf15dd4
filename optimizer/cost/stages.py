"""Layers on stages: cuts, what each stage then holds, and sums and maxima over stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.spec.model import ModelSpec


class Stage(NamedTuple):
    """What one stage holds: layers of each type, and whether it embeds or computes logits."""

    layers: tuple[int, ...]  # in the order of model.layer_types
    first: bool
    last: bool


def even_cut(num_layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each stage, equal where pp divides; the rest goes to stages before the last, where
    engines put it too (vLLM's default partition)."""
    base, extra = divmod(num_layers, pp)
    sizes = [base] * pp
    for offset in range(extra):
        sizes[(pp - 2 - offset) % pp] += 1
    return tuple(sizes)


Cut = Callable[[ModelSpec, int], tuple[int, ...]]  # layers of each of so many stages


def even_stages(model: ModelSpec, pp: int) -> tuple[int, ...]:
    """The even cut of a model."""
    return even_cut(model.num_layers, pp)


@cache
def stages_of(
    model_layers: tuple[str, ...], types: tuple[str, ...], cut: tuple[int, ...]
) -> tuple[Stage, ...]:
    """The stages of a cut, in order."""
    found = []
    start = 0
    for index, size in enumerate(cut):
        names = model_layers[start : start + size]
        start += size
        counts = tuple(names.count(kind) for kind in types)
        found.append(Stage(counts, index == 0, index == len(cut) - 1))
    return tuple(found)


def by_degree(pp: Ints) -> Iterator[tuple[int, slice | Ints]]:
    """(degree, its rows) for each degree; the rows are a slice where the column ascends."""
    if len(pp) and (pp[1:] >= pp[:-1]).all():
        bounds = [0, *(np.flatnonzero(np.diff(pp)) + 1).tolist(), len(pp)]
        for start, end in pairwise(bounds):
            yield int(pp[start]), slice(start, end)
        return
    for degree in np.unique(pp).tolist():
        yield degree, np.flatnonzero(pp == degree)


def stage_sums(
    model: ModelSpec,
    pp: Ints,
    layers: Mapping[str, Floats],
    first: Floats,
    last: Floats,
    cut: Cut = even_stages,
) -> Floats:
    """What each distinct stage sums up of a quantity [n], or of several [quantities, n], that
    layers, embedding and head add to [stages, ..., n]; -inf beyond a row's stages."""
    types, names = tuple(model.layer_types), model.layer_names
    degrees = [
        (rows, tuple(dict.fromkeys(stages_of(names, types, cut(model, pp)))))
        for pp, rows in by_degree(pp)
    ]
    most = max((len(stages) for _, stages in degrees), default=0)
    sums = np.full((most, *first.shape), -np.inf)
    for rows, stages in degrees:
        columns = [layers[name][..., rows] for name in types]
        for index, stage in enumerate(stages):
            total = np.zeros(columns[0].shape)
            for count, column in zip(stage.layers, columns, strict=True):
                if count:
                    total += count * column
            if stage.first:
                total += first[..., rows]
            if stage.last:
                total += last[..., rows]
            sums[index][..., rows] = total
    return sums


def stage_maximum(
    model: ModelSpec,
    pp: Ints,
    layers: Mapping[str, Floats],
    first: Floats,
    last: Floats,
    cut: Cut = even_stages,
) -> Floats:
    """The largest stage's sum of a quantity that each layer, the embedding and the head add to."""
    largest: Floats = stage_sums(model, pp, layers, first, last, cut).max(axis=0, initial=0.0)
    return largest


def stage_total(
    model: ModelSpec, layers: Mapping[str, Floats], first: Floats, last: Floats
) -> Floats:
    """The sum over all stages: a token's whole path."""
    names = model.layer_names
    return sum(
        (names.count(name) * column for name, column in layers.items()),
        first + last,
    )
