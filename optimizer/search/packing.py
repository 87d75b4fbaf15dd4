"""How stages lie in domains: shapes, ways to cut a domain, and the most stages that domains hold.

A stage lies in whole pieces of `span` GPUs and one rest; packings of a domain are all maximal ways
to cut its live GPUs into pieces and rests of one shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from optimizer.cost.candidates import Candidates
from optimizer.search.solver import new_solver
from optimizer.spec.cluster import Cluster


class Shape(NamedTuple):
    """How a stage lies: in whole pieces of `span` GPUs and one rest (0: none), in one pool."""

    pool: int
    span: int
    rest: int


class DomainType(NamedTuple):
    """Domains of one pool with the same number of live GPUs."""

    pool: int
    size: int
    many: int


class Packing(NamedTuple):
    """A domain of some type cut into so many whole pieces and rests of one shape."""

    shape: Shape
    pieces: int
    rests: int


def domain_types(cluster: Cluster) -> tuple[DomainType, ...]:
    """The distinct kinds of live domains."""
    return tuple(
        DomainType(pool, size, many)
        for pool, sizes in enumerate(cluster.live_sizes)
        for size, many in sizes.items()
    )


def packings_of(size: int, shape: Shape) -> tuple[Packing, ...]:
    """All maximal packings of a domain with `size` live GPUs."""
    if shape.rest == 0:
        return (Packing(shape, size // shape.span, 0),) if size >= shape.span else ()
    found = [
        Packing(shape, pieces, (size - pieces * shape.span) // shape.rest)
        for pieces in range(size // shape.span + 1)
    ]
    return tuple(packing for packing in found if packing.pieces or packing.rests)


def shapes_of(candidates: Candidates) -> list[tuple[Shape, ...]]:
    """The shapes of each row's stages: one for each pool that has any."""
    found: list[tuple[Shape, ...]] = [()] * len(candidates)
    for pool, (stages, span) in candidates.shares().items():
        rows = np.flatnonzero(stages)
        rest = candidates.layouts.width[rows] % span[rows]
        for row, *shape in zip(rows.tolist(), span[rows].tolist(), rest.tolist(), strict=True):
            found[row] += (Shape(pool, *shape),)
    return found


def most_stages(types: Sequence[DomainType], shape: Shape, full: int) -> int:
    """The most stages of one shape, `full` whole pieces each, that the domains hold at once."""
    here = [kind for kind in types if kind.pool == shape.pool]
    pieces = sum(kind.many * (kind.size // shape.span) for kind in here)
    if shape.rest == 0:
        return pieces // full
    width = full * shape.span + shape.rest
    at_least = pieces // (full + 1)  # each rest in a whole piece
    at_most = min(pieces // full, sum(kind.many * kind.size for kind in here) // width)
    return at_least if at_least == at_most else _most_mixed(here, shape, full)


def _most_mixed(types: Sequence[DomainType], shape: Shape, full: int) -> int:
    """Pieces and rests side by side: how many domains are cut in which way the solver says."""
    supply = [(kind, packing) for kind in types for packing in packings_of(kind.size, shape)]
    model = cp_model.CpModel()
    used = [model.new_int_var(0, kind.many, "y") for kind, _ in supply]
    stages = model.new_int_var(0, sum(kind.many * kind.size for kind in types), "stages")
    for kind in types:
        held = [count for count, (other, _) in zip(used, supply, strict=True) if other == kind]
        model.add(sum(held) <= kind.many)
    pieces = [packing.pieces * count for count, (_, packing) in zip(used, supply, strict=True)]
    rests = [packing.rests * count for count, (_, packing) in zip(used, supply, strict=True)]
    model.add(full * stages <= sum(pieces))
    model.add(stages <= sum(rests))
    model.maximize(stages)
    solver = new_solver()
    return solver.value(stages) if solver.solve(model) == cp_model.OPTIMAL else 0
