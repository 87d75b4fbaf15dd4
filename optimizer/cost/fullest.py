"""The fullest stage of many candidates: bytes are linear in the sequences that a rank holds, so
each layout's stages are summed once and only those that can be the fullest are compared."""

from __future__ import annotations

import numpy as np

from optimizer.cost.memory import LayoutBytes
from optimizer.cost.stages import Cut, even_stages, stage_sums
from optimizer.layout import Ints
from optimizer.operators import Floats
from optimizer.spec.model import ModelSpec


def fullest_bytes(
    model: ModelSpec,
    held: LayoutBytes,
    pp: Ints,
    layout: Ints,
    sequences: Floats,
    logits: Floats,
    cut: Cut = even_stages,
) -> Floats:
    """Weights, cache and logits of the fullest stage's rank [n].

    held and pp are columns of the layouts; layout, sequences and logits (tokens whose logits a step
    computes) of the candidates.
    """
    zero = np.zeros(len(pp))
    layers = {
        name: np.stack([layer.dense + layer.experts, layer.cache, zero])
        for name, layer in held.layers.items()
    }
    first = np.stack([held.first, zero, zero])
    last = np.stack([held.last, zero, held.logits])
    constant, a_sequence, a_logit = stage_sums(model, pp, layers, first, last, cut).swapaxes(0, 1)
    terms = _undominated_first(constant, np.maximum(a_sequence, 0.0), np.maximum(a_logit, 0.0))
    fullest = np.zeros(len(layout))
    for weight, cache, logit in zip(*terms, strict=True):
        total = cache[layout] * sequences
        total += weight[layout]
        if logit.any():
            total += logit[layout] * logits
        np.maximum(fullest, total, out=fullest)
    return fullest


def _undominated_first(*terms: Floats) -> list[Floats]:
    """The terms [stages, n] with each column's undominated stages first, rows of others dropped."""
    stages = len(terms[0])
    beaten = np.zeros(terms[0].shape, dtype=bool)
    for one in range(stages):
        for other in range(stages):
            no_less = np.all([term[other] >= term[one] for term in terms], axis=0)
            equal = np.all([term[other] == term[one] for term in terms], axis=0)
            beaten[one] |= no_less & (~equal | (other < one))
    order = np.argsort(beaten, axis=0, kind="stable")[: (~beaten).sum(axis=0).max(initial=1)]
    return [np.take_along_axis(term, order, 0) for term in terms]
