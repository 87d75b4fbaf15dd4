"""CP-SAT chooses: one row with its replicas, and how their pieces lie in the domains.

Variables: x[i], row i is the plan; y[t, a], domains of type t (so many live GPUs) that hold packing a.
A stage lies in whole pieces of `span` GPUs and one rest; packings of a type are all maximal ways to
cut its live GPUs into pieces and rests of one shape. Every objective is linear in the replicas, so an
optimum lies at the least or the most of them, and each row stands here once for either end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from ortools.sat.python import cp_model

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints
from optimizer.search.objectives import Criterion
from optimizer.spec.cluster import Cluster

NEED_UNITS = {"memory": 1024.0, "GPUs": 1.0}  # KiB; everything else in nanoseconds
DETERMINISTIC_LIMIT = 60.0


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


@dataclass(frozen=True)
class Choice:
    """One ranked answer of the solver."""

    row: int
    value: int
    bound: int
    status: Literal["OPTIMAL", "FEASIBLE"]
    packings: tuple[tuple[DomainType, Packing, int], ...]


def domain_types(cluster: Cluster) -> tuple[DomainType, ...]:
    """The distinct kinds of live domains."""
    kinds = [(domain.pool, len(domain.gpus)) for domain in cluster.domains if domain.gpus]
    return tuple(DomainType(*kind, kinds.count(kind)) for kind in dict.fromkeys(kinds))


def packings_of(size: int, shape: Shape) -> tuple[Packing, ...]:
    """All maximal packings of a domain with `size` live GPUs."""
    if shape.rest == 0:
        return (Packing(shape, size // shape.span, 0),) if size >= shape.span else ()
    found = [
        Packing(shape, pieces, (size - pieces * shape.span) // shape.rest)
        for pieces in range(size // shape.span + 1)
    ]
    return tuple(packing for packing in found if packing.pieces or packing.rests)


def shapes_of(candidates: Candidates) -> list[Shape]:
    """The shape of each row's stages."""
    layouts = candidates.layouts
    rests = layouts.width % layouts.span
    return [
        Shape(int(pool), int(span), int(rest))
        for pool, span, rest in zip(candidates.pool, layouts.span, rests, strict=True)
    ]


def most_stages(types: Sequence[DomainType], shape: Shape, full: int) -> int:
    """The most stages of one shape, `full` whole pieces each, that the domains hold at once."""
    supply = [
        (kind, packing)
        for kind in types
        if kind.pool == shape.pool
        for packing in packings_of(kind.size, shape)
    ]
    if shape.rest == 0:
        return sum(kind.many * packing.pieces for kind, packing in supply) // full
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
    solver = _solver()
    return solver.value(stages) if solver.solve(model) == cp_model.OPTIMAL else 0


def at_ends(cluster: Cluster, candidates: Candidates) -> tuple[Candidates, Ints, int]:
    """(every row at its least and at its most replicas, the row each came from, rows without room).

    The most replicas are what the limits allow and the domains hold.
    """
    types = domain_types(cluster)
    full = candidates.layouts.width // candidates.layouts.span
    known: dict[tuple[Shape, int], int] = {}
    most = np.zeros(len(candidates), dtype=np.int64)
    for row, shape in enumerate(shapes_of(candidates)):
        key = (shape, int(full[row]))
        if key not in known:
            known[key] = most_stages(types, shape, key[1])
        most[row] = known[key] // int(candidates.layouts.pp[row])
    most = np.minimum(most, candidates.replicas_max)
    fits = np.flatnonzero(most >= candidates.replicas_min)
    wider = fits[most[fits] > candidates.replicas_min[fits]]
    origin = np.concatenate([fits, wider])
    replicas = np.concatenate([candidates.replicas_min[fits], most[wider]])
    ends = replace(candidates.take(origin), replicas_min=replicas, replicas_max=replicas)
    return ends, origin, len(candidates) - len(fits)


class DegreesModel:
    """The solver's model over rows with fixed replicas; `rank` solves it once a ranked plan."""

    def __init__(self, cluster: Cluster, candidates: Candidates) -> None:
        self._candidates = candidates
        self._model = cp_model.CpModel()
        self._chosen = [self._model.new_bool_var(f"x{row}") for row in range(len(candidates))]
        self._packings: list[tuple[DomainType, Packing, cp_model.IntVar]] = []
        self._model.add_exactly_one(self._chosen)
        self._limit_gpus(cluster)
        self._limit_needs()
        self._pack(domain_types(cluster))

    def _limit_gpus(self, cluster: Cluster) -> None:
        """GPUs used in a pool are no more than its live ones."""
        gpus = self._candidates.gpus_per_replica * self._candidates.replicas_min
        for pool in range(len(cluster.pools)):
            live = sum(len(domain.gpus) for domain in cluster.domains if domain.pool == pool)
            rows = np.flatnonzero(self._candidates.pool == pool)
            self._model.add(self._weighted(rows, gpus) <= live)

    def _limit_needs(self) -> None:
        """Memory and latencies of the chosen row are within their limits."""
        rows = np.arange(len(self._candidates))
        for name, needs in self._candidates.needs.items():
            unit = NEED_UNITS.get(name, 1e-9)
            need = np.ceil(needs / unit).astype(np.int64)
            limit = np.ceil(self._candidates.limits[name] / unit).astype(np.int64)
            self._model.add(self._weighted(rows, need - limit) <= 0)

    def _pack(self, types: Sequence[DomainType]) -> None:
        """The chosen row's pieces and rests lie in the domains, each domain cut in one way."""
        layouts, replicas = self._candidates.layouts, self._candidates.replicas_min
        stages = replicas * layouts.pp
        pieces = stages * (layouts.width // layouts.span)
        by_shape: dict[Shape, list[int]] = {}
        for row, shape in enumerate(shapes_of(self._candidates)):
            by_shape.setdefault(shape, []).append(row)
        for shape, rows in by_shape.items():
            supply = [
                (kind, packing, self._model.new_int_var(0, kind.many, "y"))
                for kind in types
                if kind.pool == shape.pool
                for packing in packings_of(kind.size, shape)
            ]
            self._packings += supply
            chosen = np.array(rows)
            held = sum(packing.pieces * used for _, packing, used in supply)
            self._model.add(self._weighted(chosen, pieces) <= held)
            if shape.rest:
                held = sum(packing.rests * used for _, packing, used in supply)
                self._model.add(self._weighted(chosen, stages) <= held)
        for kind in types:
            cut = [used for other, _, used in self._packings if other == kind]
            self._model.add(sum(cut) <= kind.many)

    def _weighted(self, rows: Ints, weights: Ints) -> cp_model.LinearExprT:
        chosen = [self._chosen[row] for row in rows]
        return cp_model.LinearExpr.weighted_sum(chosen, [int(value) for value in weights[rows]])

    def rank(self, criteria: Sequence[Criterion], keys: Ints, top: int) -> Iterable[Choice]:
        """The best row, then the best of every other layout, `top` times at most."""
        values = [criterion.values(self._candidates.replicas_min) for criterion in criteria]
        for _ in range(top):
            choice = self._best(values)
            if choice is None:
                return
            yield choice
            same = np.flatnonzero(keys == keys[choice.row])
            self._model.add(self._weighted(same, np.ones_like(keys)) == 0)

    def _best(self, values: Sequence[Ints]) -> Choice | None:
        """Lexicographic optimum: the first criterion decides, ties go down the list."""
        solver = _solver()
        self._model.minimize(self._weighted(np.arange(len(values[0])), values[0]))
        found = solver.solve(self._model)
        if found not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        best, bound = round(solver.objective_value), round(solver.best_objective_bound)
        tied = np.flatnonzero(values[0] == best)
        model = self._model
        for rest in values[1:]:
            if len(tied) == 1:
                break
            model = model.clone()
            others = np.setdiff1d(np.arange(len(rest)), tied)
            model.add(self._weighted(others, np.ones_like(rest)) == 0)
            model.minimize(self._weighted(tied, rest))
            solver.solve(model)
            tied = tied[rest[tied] == round(solver.objective_value)]
        row = next(index for index, chosen in enumerate(self._chosen) if solver.value(chosen))
        used = tuple(
            (kind, packing, solver.value(count))
            for kind, packing, count in self._packings
            if solver.value(count)
        )
        status: Literal["OPTIMAL", "FEASIBLE"] = (
            "OPTIMAL" if found == cp_model.OPTIMAL else "FEASIBLE"
        )
        return Choice(row, best, bound, status, used)


def _solver() -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.cp_model_probing_level = 0  # one-hot rows leave nothing to probe
    solver.parameters.symmetry_level = 0
    solver.parameters.max_deterministic_time = DETERMINISTIC_LIMIT
    return solver
