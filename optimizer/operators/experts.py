"""How many experts a step touches, and the load of the hottest rank: statistics of routing."""

from __future__ import annotations

import numpy as np

from optimizer.operators.operator import Floats
from optimizer.spec.model import MoeFfn

# Mean of the largest of n standard normals (Harter, 1961, Biometrika 48), n = 1, 2, 4 ... 1,024.
LARGEST_OF = (0.0, 0.564, 1.029, 1.424, 1.766, 2.07, 2.344, 2.595, 2.827, 3.044, 3.248)


def largest_normal(ranks: Floats) -> Floats:
    """Mean of the largest of `ranks` independent standard normals, linear in log2 between."""
    return np.interp(np.log2(ranks), np.arange(len(LARGEST_OF)), LARGEST_OF)


def touched_experts(ffn: MoeFfn, tokens: Floats, ep: Floats) -> Floats:
    """Experts of the rank that touches most, of ceil(experts / ep), that at least one of `tokens`
    tokens picks: the mean, and its spread over ep ranks.

    Routers prefer some experts: popularity is taken as exponentially distributed, so that of
    experts picked lambda times in the mean a share lambda / (1 + lambda) is touched (picked
    evenly: 1 - e^-lambda).
    """
    held = np.ceil(ffn.num_experts / ep)
    picked = -np.log1p(-ffn.num_experts_per_token / (ffn.num_experts + 1e-9)) * tokens
    share = picked / (1.0 + picked)
    spread = largest_normal(ep) * np.sqrt(held * share * (1.0 - share))
    pairs = tokens * ffn.num_experts_per_token
    touched: Floats = np.minimum(np.minimum(held * share + spread, held), pairs)
    return np.maximum(touched, np.minimum(1.0, pairs / ep))


def hottest_load(pairs: Floats, ep: Floats) -> Floats:
    """Pairs of the hottest of ep ranks over the mean `pairs`, when each pair picks its rank evenly:
    the largest of ep binomial counts, at most all."""
    spread = np.sqrt((1.0 - 1.0 / ep) / np.maximum(pairs, 1e-9))
    return np.minimum(1.0 + largest_normal(ep) * spread, ep)
