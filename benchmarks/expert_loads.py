"""Synthetic expert loads of several kinds, calibrated to the one public figure.

DeepSeek-R1 on 32 GPUs without balancing shows a (largest - mean) / mean rank load of 0.46 to 2.46
by layer, 1.56 on average (TensorRT-LLM, examples/ep_load_balancer). Lognormal loads with a spread
drawn for each layer come close; power laws are as skewed as a benchmark's random prompts are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOKENS = 262_144  # of which each picks top_k experts
BATCH = 8_192  # tokens: the power law's largest weight is 0.8 of it


class Moe(NamedTuple):
    """The shape of a model's mixture of experts."""

    layers: int
    experts: int
    top_k: int


DEEPSEEK = Moe(58, 256, 8)
QWEN = Moe(94, 128, 8)
GPT_OSS = Moe(36, 128, 4)
MIXTRAL = Moe(32, 8, 2)


def expert_loads(moe: Moe, kind: str, seed: int) -> Floats:
    """Loads [layers, experts]: "mild", "calibrated", "powerlaw1.01", "powerlaw1.2" or "zipf1.0"."""
    rng = np.random.default_rng(seed)
    return np.array([_layer(moe, kind, rng) for _ in range(moe.layers)], dtype=np.float64)


def drifted(loads: Floats, drift: float, seed: int) -> Floats:
    """Every load times a lognormal factor of spread `drift`."""
    rng = np.random.default_rng(seed)
    return loads * np.exp(drift * rng.standard_normal(loads.shape))


def _layer(moe: Moe, kind: str, rng: np.random.Generator) -> NDArray[np.int64]:
    if kind in ("mild", "calibrated"):
        low, high = {"mild": (0.3, 0.7), "calibrated": (0.5, 1.62)}[kind]
        weights = np.exp(rng.normal(0.0, rng.uniform(low, high), moe.experts))
    elif kind.startswith("powerlaw"):
        weights = _power_law(float(kind.removeprefix("powerlaw")), moe.experts, rng)
    elif kind.startswith("zipf"):
        weights = np.arange(1, moe.experts + 1) ** -float(kind.removeprefix("zipf"))
        rng.shuffle(weights)
    else:
        raise ValueError(f"there is no kind of loads '{kind}'")
    return rng.multinomial(TOKENS * moe.top_k, _capped(weights / weights.sum(), 1 / moe.top_k))


def _power_law(exponent: float, size: int, rng: np.random.Generator) -> Floats:
    """Weights by the inverse distribution function of x ** -exponent on [1, 0.8 x BATCH]."""
    power = 1 - exponent
    top = (0.8 * BATCH) ** power
    weights: Floats = (1 + rng.random(size) * (top - 1)) ** (1 / power)
    return weights


def _capped(shares: Floats, cap: float) -> Floats:
    """No share above `cap` (a token picks an expert once); the rest grows in proportion."""
    capped = np.zeros(shares.size, dtype=bool)
    while (over := (shares > cap) & ~capped).any():
        capped |= over
        rest = shares[~capped].sum()
        shares = np.where(capped, cap, shares * (1 - cap * capped.sum()) / rest)
    return shares / shares.sum()
