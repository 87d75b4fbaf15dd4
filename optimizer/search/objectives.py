"""Objectives as integer criteria, minimised one after the other: the order of plans."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.cost.factoring import representatives
from optimizer.layout import Ints
from optimizer.operators import Floats

Objective = Literal["throughput", "latency", "gpus", "balanced"]

OBJECTIVES: dict[Objective, tuple[str, ...]] = {
    "throughput": ("tokens/s", "GPUs used", "latency", "canonical order"),
    "latency": ("latency", "tokens/s", "GPUs used", "canonical order"),
    "gpus": ("GPUs used", "tokens/s", "latency", "canonical order"),
    "balanced": ("balanced score", "GPUs used", "latency", "canonical order"),
}
BALANCED_WEIGHTS = {"tokens/s": 0.5, "latency": 0.3, "GPUs used": 0.2}  # printed with every plan

GRID = 1e9  # the largest total of tokens/s on its grid: nine digits decide, ties go down the order
MICROSECONDS = 1e6  # the grid of latencies, unless all of them are far shorter or longer
LONGEST = 1e12  # steps of a latency's grid; longer ones are not told apart
SCORE = 1e12  # the balanced score's grid
WORST_SCORE = 1e14  # what a latency adds to it at most, 333 times what the lowest adds


class Criterion(NamedTuple):
    """sum over chosen rows of per_replica x replicas + constant; smaller is better.

    Real value = integer value / scale; `negated` criteria are maximised quantities.
    """

    name: str
    per_replica: Ints
    constant: Ints
    scale: float
    negated: bool

    def values(self, replicas: Ints) -> Ints:
        """The criterion of each row at so many replicas [n]."""
        return self.per_replica * replicas + self.constant

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Criterion:
        return self._replace(per_replica=self.per_replica[rows], constant=self.constant[rows])


def significant(values: Floats) -> Floats:
    """Rounded to 40 bits, twelve digits: beyond them the order of additions shows, not the plan
    (Dekker's splitting, 1971)."""
    scaled = values * 8193.0  # 2^13 + 1: 53 bits less 13
    rest = np.subtract(scaled, values, out=np.zeros_like(scaled), where=np.isfinite(scaled))
    rounded: Floats = scaled - rest
    return rounded


def has_fixed_replicas(candidates: Candidates) -> bool:
    """Whether each row stands for one number of replicas, over which a fixed load is split."""
    return bool((candidates.replicas_min == candidates.replicas_max).all())


def canonical_order(candidates: Candidates) -> Ints:
    """The place of each row by size and degrees; of one layout by tokens/s and latency beyond the
    other criteria's grids, then in the order the rows came in: the last word on ties [n]."""
    layouts, precision, pool = candidates.layouts, candidates.precision, candidates.pool
    degrees = (layouts.pp, layouts.dp, layouts.tp, layouts.cp, layouts.ep, layouts.etp)
    spanning = (*candidates.stages.values(), *candidates.spans.values())
    columns = (pool, candidates.gpus_per_replica, precision, *degrees, -layouts.span, *spanning)
    rows, kinds = representatives(*columns)
    rank = _places(*(column[rows] for column in columns))
    rates = significant(candidates.tokens_per_s)
    return _places(rank[kinds], candidates.replicas_min, -rates, significant(candidates.latency_s))


def _places(*keys: NDArray[Any]) -> Ints:
    """The place of each row when sorted by the first key, then by the next [n]."""
    place = np.empty(len(keys[0]), dtype=np.int64)
    place[np.lexsort(keys[::-1])] = np.arange(len(place))
    return place


def _power_of_ten(value: float) -> float:
    """The largest power of ten that is not above a positive value."""
    return float(10.0 ** np.floor(np.log10(value)))


def _tokens_per_s(candidates: Candidates) -> Criterion:
    """Of a fixed load the total is rounded, not a replica's share: equal totals stay equal."""
    rates = significant(candidates.tokens_per_s)
    most = float((rates * candidates.replicas_max).max(initial=0.0))
    scale = _power_of_ten(GRID / max(most, 1e-12))
    zero = np.zeros(len(candidates), dtype=np.int64)
    if has_fixed_replicas(candidates):
        totals = np.rint(rates * candidates.replicas_max * scale).astype(np.int64)
        return Criterion("tokens/s", zero, -totals, scale, True)
    return Criterion("tokens/s", -np.rint(rates * scale).astype(np.int64), zero, scale, True)


def _latency(candidates: Candidates) -> Criterion:
    latencies = significant(candidates.latency_s)
    least = float(latencies.min(initial=np.inf))
    usual = not 0.0 < least < np.inf or 1e-3 <= least <= 1e3
    scale = MICROSECONDS if usual else _power_of_ten(GRID / least)
    steps = np.rint(np.minimum(latencies * scale, LONGEST)).astype(np.int64)
    return Criterion("latency", np.zeros_like(steps), steps, scale, False)


def criteria(candidates: Candidates, objective: Objective, num_gpus: int) -> tuple[Criterion, ...]:
    """The criteria of an objective over these candidates, the deciding one first."""
    known = all_criteria(candidates, num_gpus)
    return tuple(known[name] for name in OBJECTIVES[objective])


def all_criteria(candidates: Candidates, num_gpus: int) -> dict[str, Criterion]:
    """Every criterion by its name."""
    zero = np.zeros(len(candidates), dtype=np.int64)
    gpus = candidates.gpus_per_replica.astype(np.int64)
    tokens, latency = _tokens_per_s(candidates), _latency(candidates)
    found = (
        tokens,
        Criterion("GPUs used", gpus, zero, 1.0, False),
        latency,
        _balanced(candidates, tokens, latency, gpus, num_gpus),
        Criterion("canonical order", zero, canonical_order(candidates), 1.0, False),
    )
    return {criterion.name: criterion for criterion in found}


def _balanced(
    candidates: Candidates, tokens: Criterion, latency: Criterion, gpus: Ints, num_gpus: int
) -> Criterion:
    """Weighted shares of the best: tokens/s of the highest, latency over the lowest, GPUs of all.

    Whole multiples of the other criteria's grids, so that what is no worse in each of them is no
    worse here; the rounding of the multiples moves a weight by 0.1 % at most.
    """
    most = -int(tokens.values(candidates.replicas_max).min(initial=-1))
    least = int(latency.constant.min(initial=int(LONGEST)))
    weights = BALANCED_WEIGHTS
    for_tokens = max(1, round(weights["tokens/s"] * SCORE / max(1, most)))
    for_gpus = max(1, round(weights["GPUs used"] * SCORE / num_gpus))
    for_latency = max(1, round(weights["latency"] * SCORE / max(1, least)))
    # In floats first: the product may pass 2^63, and below WORST_SCORE it is exact.
    waiting = np.minimum(latency.constant.astype(np.float64) * for_latency, WORST_SCORE)
    return Criterion(
        "balanced score",
        for_tokens * tokens.per_replica + for_gpus * gpus,
        for_tokens * tokens.constant + waiting.astype(np.int64),
        SCORE,
        False,
    )
