"""Objectives as integer criteria, minimised one after the other: the lexicographic order of plans."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.candidates import Candidates
from optimizer.layout import Ints

Objective = Literal["throughput", "latency", "gpus", "balanced"]

OBJECTIVES: dict[Objective, tuple[str, ...]] = {
    "throughput": ("tokens/s", "GPUs used", "latency", "canonical order"),
    "latency": ("latency", "tokens/s", "GPUs used", "canonical order"),
    "gpus": ("GPUs used", "tokens/s", "latency", "canonical order"),
    "balanced": ("balanced score", "GPUs used", "latency", "canonical order"),
}
BALANCED_WEIGHTS = {"tokens/s": 0.5, "latency": 0.3, "GPUs used": 0.2}  # printed with every plan

GRID = 1e9  # the largest total of a scaled criterion: nine digits decide, ties go down the order
LATENCY_SCALE = 1e6  # latencies are compared in microseconds


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


def canonical_order(candidates: Candidates) -> Ints:
    """The place of each row when sorted by size and degrees: the last word on ties [n]."""
    layouts = candidates.layouts
    keys = (
        candidates.micro_batches,
        candidates.chunk,
        candidates.sequences,
        candidates.replicas_min,
        -layouts.span,
        layouts.etp,
        layouts.ep,
        layouts.cp,
        layouts.tp,
        layouts.dp,
        layouts.pp,
        candidates.precision,
        candidates.gpus_per_replica,
        candidates.pool,
    )
    place = np.empty(len(candidates), dtype=np.int64)
    place[np.lexsort(keys)] = np.arange(len(candidates))
    return place


def criteria(candidates: Candidates, objective: Objective, num_gpus: int) -> tuple[Criterion, ...]:
    """The criteria of an objective over these candidates, the deciding one first."""
    zero = np.zeros(len(candidates), dtype=np.int64)
    most = candidates.tokens_per_s * candidates.replicas_max
    scale = 10.0 ** np.floor(np.log10(GRID / max(1e-12, float(most.max(initial=0.0)))))
    rates = np.rint(candidates.tokens_per_s * scale).astype(np.int64)
    gpus = candidates.gpus_per_replica.astype(np.int64)
    latency = np.rint(candidates.latency_s * LATENCY_SCALE).astype(np.int64)
    order = canonical_order(candidates)
    known = {
        "tokens/s": Criterion("tokens/s", -rates, zero, float(scale), True),
        "GPUs used": Criterion("GPUs used", gpus, zero, 1.0, False),
        "latency": Criterion("latency", zero, latency, LATENCY_SCALE, False),
        "canonical order": Criterion("canonical order", zero, order, 1.0, False),
    }
    if objective == "balanced":
        known["balanced score"] = _balanced(candidates, num_gpus)
    return tuple(known[name] for name in OBJECTIVES[objective])


def _balanced(candidates: Candidates, num_gpus: int) -> Criterion:
    """Weighted shares of the best: tokens/s of the highest, latency over the lowest, GPUs of all."""
    most = float((candidates.tokens_per_s * candidates.replicas_max).max(initial=1e-12))
    least = float(candidates.latency_s.min(initial=1e12))
    weights = BALANCED_WEIGHTS
    per_replica = (
        weights["GPUs used"] * candidates.gpus_per_replica / num_gpus
        - weights["tokens/s"] * candidates.tokens_per_s / most
    )
    constant = np.minimum(weights["latency"] * candidates.latency_s / least, 1e3)
    scale = 1e9
    return Criterion(
        "balanced score",
        np.rint(per_replica * scale).astype(np.int64),
        np.rint(constant * scale).astype(np.int64),
        scale,
        False,
    )
