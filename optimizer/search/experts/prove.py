"""Two slots a GPU: the optimum of each layer bracketed by linear programming and CP-SAT.

Counts admit a placement of at most T a GPU exactly if, for every s > T / 2, there are no more
pieces of at least s than pieces of at most T - s (Hall's theorem on largest-with-smallest pairs).
With the sizes s in falling order, the surplus of each condition is that of the one before plus the
pieces that come in between: a chain in which every choice of a count stands once, in place of a
dense row for each s. The relaxation's dual prices either prove that T is a bound, which needs no
solver to check, or leave few counts of each expert worth a try, over which CP-SAT decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints
from optimizer.search.experts.bounds import Certificate
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.improve import CLOSE
from optimizer.search.experts.pack import gpu_loads
from optimizer.search.experts.pairs import pair

EFFORT = 4.0  # deterministic seconds of CP-SAT for one decision
ROUNDING = 1e-12  # of T: by how much a piece may exceed what it is compared with
FEW = 4  # counts of an expert, from the fewest that fit
POSITIVE = 1e-6  # pieces: a surplus above it is no rounding


class Prices(NamedTuple):
    """Weights of the conditions at `sizes`, which rise, and a price for each slot used."""

    sizes: list[float]
    weights: list[float]
    slot_price: float


def prove_pairs(
    loads: Floats, placed: Ints, certificates: list[Certificate], distinct: bool
) -> tuple[Ints, list[Certificate]]:
    """Placements [layers, slots] and bounds at least as good, for layers with two slots a GPU."""
    placed, certificates = placed.copy(), list(certificates)
    for layer, load in enumerate(loads):
        placed[layer], certificates[layer] = _bracket(
            load, placed[layer], certificates[layer], distinct
        )
    return placed, certificates


def _bracket(
    load: Floats, placed: Ints, known: Certificate, distinct: bool
) -> tuple[Ints, Certificate]:
    """Raises the bound by the relaxation, finds a placement near it, then proves between the two.

    Each pass halves an interval. The second looks only at few counts of each expert, so what it
    does not find proves nothing; the third leaves out only what the prices rule out.
    """
    slots = len(placed)
    low, high = known.value, _largest(load, placed)
    while high > low * (1 + CLOSE):
        middle = (low + high) / 2
        prices = (choices := _Choices.below(load, slots, middle)).prices()
        if choices.priced(prices)[0] > POSITIVE:
            low, known = middle, Certificate("hall", middle, prices._asdict())
        else:
            high = middle
    low, high = known.value, _largest(load, placed)
    for only_few in (True, False):
        least = low  # proven only in the second of these passes
        while high > least * (1 + CLOSE):
            middle = (least + high) / 2
            choices = _Choices.below(load, slots, middle)
            if only_few:
                choices = choices.take(choices.copies < FEW + choices.fewest[choices.expert])
            else:
                surplus, excess = choices.priced(choices.prices())
                choices = choices.take(excess <= POSITIVE - surplus)
            found = choices.decide()
            if found is None:
                break
            if not found.size:
                least = middle
                continue
            pairs = pair(load[None], found[None])[0][0]
            if distinct:
                pairs = _apart(load / found, pairs)
                if (pairs[:, 0] == pairs[:, 1]).any():
                    break
            if (value := _largest(load, pairs.ravel())) >= high:
                break
            placed, high = pairs.ravel(), value
        low = low if only_few else least
    if low <= known.value * (1 + CLOSE):
        return placed, known
    checked = {"kind": known.kind, "bound": known.value, **known.data}
    return placed, Certificate("solver", low, {"solver": "CP-SAT", "checked": checked})


def _largest(load: Floats, placed: Ints) -> float:
    return float(gpu_loads(load[None], placed[None], len(placed) // 2).max())


def _apart(piece: Floats, pairs: Ints) -> Ints:
    """Pairs [gpus, 2] with an expert beside itself exchanged with the pair that suffers least.

    `piece` [experts] is the load of a copy. Pairs stay as they are where no other has room.
    """
    pairs = pairs.copy()
    for gpu in np.flatnonzero(pairs[:, 0] == pairs[:, 1]).tolist():
        expert = pairs[gpu, 0]
        after = piece[expert] + piece[pairs].max(axis=1)
        after[(pairs == expert).any(axis=1)] = np.inf
        other = after.argmin()
        if np.isfinite(after[other]):
            pairs[gpu, 1], pairs[other, 0] = pairs[other, 0], expert
    return pairs


@dataclass(frozen=True)
class _Choices:
    """The counts of every expert that fit below T, and the first condition that sees their pieces.

    The conditions stand in the order of falling sizes; each sees all that those before it see.
    """

    load: Floats  # [experts]
    slots: int
    limit: float  # T
    fewest: Ints  # [experts], copies that fit below T
    expert: Ints  # [choices]
    copies: Ints  # [choices]
    large: NDArray[np.bool_]  # [choices], pieces above T / 2
    sizes: Floats  # [conditions], falling
    first: Ints  # [choices]

    @classmethod
    def below(cls, load: Floats, slots: int, limit: float) -> _Choices:
        """No expert can have more copies than the slots that all others leave it."""
        fewest = np.maximum(1, np.ceil(load / (limit * (1 + ROUNDING)))).astype(np.int64)
        spare = max(slots - int(fewest.sum()), 0)
        expert = np.repeat(np.arange(len(load)), spare + 1)
        copies = (fewest[:, None] + np.arange(spare + 1)).ravel()
        piece = load[expert] / copies
        large = piece > limit / 2
        sizes = np.unique(piece[large])[::-1]
        first = np.where(
            large,
            np.searchsorted(-sizes, -piece),
            np.searchsorted(limit * (1 + ROUNDING) - sizes, piece),
        )
        return cls(load, slots, limit, fewest, expert, copies, large, sizes, first)

    def take(self, kept: NDArray[np.bool_]) -> _Choices:
        return _Choices(
            self.load,
            self.slots,
            self.limit,
            self.fewest,
            self.expert[kept],
            self.copies[kept],
            self.large[kept],
            self.sizes,
            self.first[kept],
        )

    def prices(self) -> Prices:
        """Dual prices of the linear relaxation that makes the worst surplus as small as it can."""
        from ortools.linear_solver import pywraplp

        solver = pywraplp.Solver.CreateSolver("GLOP")
        infinity = solver.infinity()
        worst = solver.NumVar(-self.slots, self.slots, "")
        surplus = [solver.NumVar(-infinity, infinity, "") for _ in self.sizes]
        one_count = [solver.Constraint(1, 1) for _ in self.load]
        total = solver.Constraint(self.slots, self.slots)
        chain = [solver.Constraint(0, 0) for _ in self.sizes]
        limits = [solver.Constraint(-infinity, 0) for _ in self.sizes]
        for condition, row in enumerate(chain):
            row.SetCoefficient(surplus[condition], 1)
            if condition:
                row.SetCoefficient(surplus[condition - 1], -1)
            limits[condition].SetCoefficient(surplus[condition], 1)
            limits[condition].SetCoefficient(worst, -1)
        signed = np.where(self.large, -self.copies, self.copies).astype(float)
        columns = (self.expert, self.copies.astype(float), signed, self.first)
        for expert, copies, sign, first in zip(*(one.tolist() for one in columns), strict=True):
            share = solver.NumVar(0, infinity, "")
            one_count[expert].SetCoefficient(share, 1)
            total.SetCoefficient(share, copies)
            if first < len(chain):
                chain[first].SetCoefficient(share, sign)
        solver.Objective().SetCoefficient(worst, 1)
        solver.Objective().SetMinimization()
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            return Prices([], [], 0.0)
        weights = np.array([max(-row.dual_value(), 0.0) for row in limits])
        kept = np.flatnonzero(weights > 1e-9)[::-1]
        sizes = self.sizes[kept] * (1 - ROUNDING)
        return Prices(sizes.tolist(), weights[kept].tolist(), -total.dual_value())

    def priced(self, prices: Prices) -> tuple[float, Floats]:
        """The least weighted surplus of any counts, and what each choice adds to that [choices].

        Above 0, T is a bound; a choice that adds more than is missing to 0 is in no placement.
        """
        piece = self.load[self.expert] / self.copies
        large = piece > self.limit / 2
        at = np.searchsorted(prices.sizes, np.where(large, piece, self.limit - piece), side="right")
        weight = np.concatenate([[0.0], np.cumsum(prices.weights)])[at]
        cost = self.copies * (np.where(large, weight, -weight) + prices.slot_price)
        least = np.full(len(self.load), np.inf)
        np.minimum.at(least, self.expert, cost)
        return float(least.sum() - prices.slot_price * self.slots), cost - least[self.expert]

    def decide(self) -> Ints | None:
        """Counts [experts] that admit a placement; empty if there are none, None if unknown."""
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        chosen = [model.new_bool_var("") for _ in self.expert]
        for expert in range(len(self.load)):
            model.add_exactly_one(chosen[i] for i in np.flatnonzero(self.expert == expert))
        total = cp_model.LinearExpr.weighted_sum(chosen, self.copies.tolist())
        model.add(total == self.slots)
        signed = np.where(self.large, self.copies, -self.copies)
        surplus: cp_model.LinearExpr = cp_model.LinearExpr.sum([])
        for condition in range(len(self.sizes)):
            enters = np.flatnonzero(self.first == condition)
            here = model.new_int_var(-self.slots, 0, "")
            pieces = cp_model.LinearExpr.weighted_sum(
                [chosen[i] for i in enters], signed[enters].tolist()
            )
            model.add(here == surplus + pieces)
            surplus = here
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.max_deterministic_time = EFFORT
        solver.parameters.catch_sigint_signal = False
        status = solver.solve(model)
        if status == cp_model.INFEASIBLE:
            return np.empty(0, dtype=np.int64)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        counts = np.zeros(len(self.load), dtype=np.int64)
        taken = np.array([solver.boolean_value(one) for one in chosen])
        counts[self.expert[taken]] = self.copies[taken]
        return counts
