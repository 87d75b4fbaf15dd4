"""CP-SAT chooses: one row with its replicas, and how their pieces lie in the domains.

Variables: x[i], row i is the plan; y[t, a], domains of type t (so many live GPUs) that hold packing
a. Every criterion is linear in the replicas, and GPUs are one of them, so the best lies at the
least or at the most replicas, and each row stands here once for either end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from ortools.sat.python import cp_model

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints
from optimizer.search.objectives import Criterion
from optimizer.search.packing import (
    DomainType,
    Packing,
    Shape,
    domain_types,
    most_stages,
    packings_of,
    shapes_of,
)
from optimizer.search.solver import new_solver
from optimizer.spec.cluster import Cluster

__all__ = [
    "Choice",
    "DegreesModel",
    "DomainType",
    "Packing",
    "Shape",
    "at_ends",
    "domain_types",
    "most_stages",
    "packings_of",
    "shapes_of",
]

NEED_UNITS = {"memory": 1024.0, "GPUs": 1.0}  # KiB; everything else in nanoseconds
LEAST_SLACK = -1e13  # units; what is further within a limit is not told apart


@dataclass(frozen=True)
class Choice:
    """One ranked answer of the solver."""

    row: int
    value: int
    bound: int
    status: Literal["OPTIMAL", "FEASIBLE"]
    packings: tuple[tuple[DomainType, Packing, int], ...]


def at_ends(candidates: Candidates) -> tuple[Candidates, Ints]:
    """(every row at its least and at its most replicas, the row that each came from)."""
    rows = np.arange(len(candidates))
    wider = np.flatnonzero(candidates.replicas_max > candidates.replicas_min)
    origin = np.concatenate([rows, wider])
    replicas = np.concatenate([candidates.replicas_min, candidates.replicas_max[wider]])
    return replace(candidates.take(origin), replicas_min=replicas, replicas_max=replicas), origin


class DegreesModel:
    """The solver's model over rows with fixed replicas; `rank` solves it once a ranked plan."""

    def __init__(self, cluster: Cluster, candidates: Candidates) -> None:
        self._candidates = candidates
        self._model = cp_model.CpModel()
        self._chosen = [self._model.new_bool_var(f"x{row}") for row in range(len(candidates))]
        self._packings: list[tuple[DomainType, Packing, cp_model.IntVar]] = []
        self._model.add_exactly_one(self._chosen)
        types = domain_types(cluster)
        self._limit_gpus(types)
        self._limit_needs()
        self._pack(types)

    def _limit_gpus(self, types: Sequence[DomainType]) -> None:
        """GPUs used in each pool are no more than its live ones."""
        one_stage = self._candidates.layouts.width * self._candidates.replicas_min
        for pool, (stages, _) in self._candidates.shares().items():
            live = sum(kind.many * kind.size for kind in types if kind.pool == pool)
            rows = np.flatnonzero(stages)
            self._model.add(self._weighted(rows, one_stage * stages) <= live)

    def _limit_needs(self) -> None:
        """Memory and latencies of the chosen row are within their limits."""
        rows = np.arange(len(self._candidates))
        for name, needs in self._candidates.needs.items():
            unit = NEED_UNITS.get(name, 1e-9)
            over = np.ceil(needs / unit) - np.ceil(self._candidates.limits[name] / unit)
            over = np.clip(over, LEAST_SLACK, -LEAST_SLACK)  # so that sums stay within 64 bits
            self._model.add(self._weighted(rows, over.astype(np.int64)) <= 0)

    def _pack(self, types: Sequence[DomainType]) -> None:
        """The chosen row's pieces and rests lie in the domains, each domain cut in one way."""
        layouts, replicas = self._candidates.layouts, self._candidates.replicas_min
        shares = self._candidates.shares()
        by_shape: dict[Shape, list[int]] = {}
        for row, shapes in enumerate(shapes_of(self._candidates)):
            for shape in shapes:
                by_shape.setdefault(shape, []).append(row)
        for shape, rows in by_shape.items():
            stages = replicas * shares[shape.pool][0]
            pieces = stages * (layouts.width // shape.span)
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

    def rank(self, criteria: Sequence[Criterion], keys: Ints, top: int) -> Iterator[Choice]:
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
        solver = new_solver()
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
        (shapes,) = shapes_of(self._candidates.take(np.array([row])))
        used = tuple(
            (kind, packing, solver.value(count))
            for kind, packing, count in self._packings
            if packing.shape in shapes and solver.value(count)
        )
        status: Literal["OPTIMAL", "FEASIBLE"] = (
            "OPTIMAL" if found == cp_model.OPTIMAL else "FEASIBLE"
        )
        return Choice(row, best, bound, status, used)
