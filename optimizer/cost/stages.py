"""Layers on stages: cuts, what each stage then holds, and sums and maxima over stages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
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


@cache
def stages_of(model_layers: tuple[str, ...], types: tuple[str, ...], pp: int) -> tuple[Stage, ...]:
    """The distinct stages of an even cut into pp."""
    found: dict[Stage, None] = {}
    start = 0
    for index, size in enumerate(even_cut(len(model_layers), pp)):
        names = model_layers[start : start + size]
        start += size
        counts = tuple(names.count(kind) for kind in types)
        found[Stage(counts, index == 0, index == pp - 1)] = None
    return tuple(found)


def stage_maximum(
    model: ModelSpec, pp: Ints, layers: Mapping[str, Floats], first: Floats, last: Floats
) -> Floats:
    """The largest stage's sum of a quantity that each layer, the embedding and the head add to."""
    types = tuple(model.layer_types)
    result = np.zeros(len(pp))
    for degree in np.unique(pp):
        rows = np.flatnonzero(pp == degree)
        best = np.zeros(len(rows))
        columns = [layers[name][rows] for name in types]
        for stage in stages_of(model.layer_names, types, int(degree)):
            total = sum(
                (count * column for count, column in zip(stage.layers, columns, strict=True)),
                np.zeros(len(rows)),
            )
            if stage.first:
                total = total + first[rows]
            if stage.last:
                total = total + last[rows]
            np.maximum(best, total, out=best)
        result[rows] = best
    return result


def stage_total(
    model: ModelSpec, layers: Mapping[str, Floats], first: Floats, last: Floats
) -> Floats:
    """The sum over all stages: a token's whole path."""
    names = model.layer_names
    return sum(
        (names.count(name) * column for name, column in layers.items()),
        first + last,
    )
