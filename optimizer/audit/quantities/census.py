"""A figure that no reading gives: how many sums of the report's own quantities print it, and how
many would by chance. A match proves something only where chance alone makes none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, gcd, prod
from typing import NamedTuple

import numpy as np

from optimizer.audit.amounts import UNITS, Printed, number, show
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Derived
from optimizer.spec.linears import total_parameters
from optimizer.spec.model import GroupedQueryAttention, LatentAttention

STATES = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20)  # B a parameter: weights, gradients, Adam's state
KEPT = (1, 2, 4, 8, 16, 34)  # hidden states of a token and layer
ELEMENTS = (1, 2, 4)  # B
MARGINS = (1.0, 1.05, 1.1, 1.2, 1.25, 1.3, 1.5)
NEAR = 0.05  # of the figure: how densely sums lie around it


SHARP = 1e-4  # of a figure: what rounding may hide of one that is told from others by its digits
PARTS = (2, 3, 4)  # of a capacity, in round shares of it


class Census(NamedTuple):
    """Distinct sums that were tried, those that print the figure, and how many would by chance."""

    tried: int
    hits: int
    by_chance: float

    def text(self, figure: str) -> str:
        return (
            f"{number(self.tried)} sums were tried (states of 1 to 20 B a parameter, activations, "
            f"attention scores and cache, whole, of a rank or of a GPU, margins to 50 %, GB or "
            f"GiB): {self.hits} print {figure}, {self.by_chance:.2g} would by chance"
        )


def is_sharp(claim: Claim) -> bool:
    """Whether a figure is printed with enough digits to be told from its neighbours."""
    figure = claim.figure
    if figure is None or claim.about or claim.comparison != "equal" or not figure.value:
        return False
    return figure.half_step / abs(figure.value) < SHARP


def round_shares(case: Case) -> Iterator[Derived]:
    """Round shares of the GPU's memory, which no sum of tensors comes to: the figure was then
    computed back from a percentage."""
    there = case.gpu.memory_bytes
    sizes = {"GB": there}
    if there % 1000**3 == 0:
        sizes["GiB"] = there / 1000**3 * 1024**3
    for (unit, size), part in product(sizes.items(), PARTS):
        for many in range(1, 2 * part):
            if gcd(many, part) == 1:
                capacity = f"{size / (1024**3 if unit == 'GiB' else 1000**3):g} {unit}"
                label = f"{many}/{part} of {capacity}: a share of the capacity, no sum of tensors"
                text = f"{many}/{part} x {capacity} = {show(size * many / part, 'bytes')}"
                yield Derived(size * many / part, text, (label,), (label,), holds=False)


def counted(case: Case, claim: Claim, derived: Sequence[Derived]) -> str:
    """What the census says of a figure that no reading gives; "" where one does."""
    figure, unit = claim.figure, claim.unit
    assert figure is not None
    assert unit is not None
    scales = tuple(scale.size for scale in UNITS[unit].scales)
    values = [each.value for each in derived if not isinstance(each.value, str)]
    if any(figure.shows(value / scale) for value in values for scale in scales):
        return ""
    return census(case, figure, scales).text(f"{claim.value} {unit}")


def census(case: Case, figure: Printed, scales: tuple[float, ...]) -> Census:
    """Of all sums with one term of each kind or none, times a margin, in every unit."""
    terms = (_states(case), _activations(case), _scores(case), _cache(case))
    sums = np.zeros(1)
    for term in terms:
        sums = np.unique(np.add.outer(sums, np.array([0.0, *term])).ravel())
    value, half = float(figure.value), float(figure.half_step)
    tried = hits = near = 0
    for margin in MARGINS:
        for scale in scales:
            apart = np.abs(sums * margin / scale - value)
            tried += len(sums)
            hits += int((apart <= half).sum())
            near += int((apart <= NEAR * value).sum())
    return Census(tried, hits, near * half / (NEAR * value))


def _states(case: Case) -> set[float]:
    """Parameters of the model, of a GPU's share, and with whole copies of all but the experts."""
    total, layout, moe = float(total_parameters(case.model)), case.layout, case.model.moe
    held = {total, total / layout.gpus_per_replica}
    if moe is not None:
        gates = 3 if moe.gated else 2
        routed = gates * case.model.hidden_size * moe.intermediate_size * moe.num_experts
        routed *= sum(
            case.model.layer_types[name].ffn.kind == "moe" for name in case.model.layer_names
        )
        held.add(total - routed + routed / (layout.ep * layout.etp))
    return {share * size for share in held for size in STATES}


def _shares(case: Case) -> set[float]:
    """Sequences of the whole batch, of an attention rank, of a GPU."""
    layout = case.layout
    ranks = layout.dp * layout.cp * layout.replicas
    return {case.batch / share for share in (1, ranks, layout.gpus)}


def _layers(case: Case) -> set[int]:
    return {1, ceil(case.model.num_layers / case.layout.pp)}


def _activations(case: Case) -> set[float]:
    width = case.seq_len * case.model.hidden_size
    axes = (_shares(case), KEPT, ELEMENTS, _layers(case))
    return {width * prod(pick) for pick in product(*axes)}


def _scores(case: Case) -> set[float]:
    heads = {attention.num_heads for attention in _attentions(case)}
    axes = (_shares(case), heads, ELEMENTS, _layers(case))
    return {case.seq_len**2 * prod(pick) for pick in product(*axes)}


def _cache(case: Case) -> set[float]:
    widths = {
        2 * attention.num_kv_heads * attention.head_dim
        if isinstance(attention, GroupedQueryAttention)
        else attention.kv_lora_rank + attention.qk_rope_head_dim
        for attention in _attentions(case)
    }
    axes = (_shares(case), widths, ELEMENTS, _layers(case))
    return {case.seq_len * prod(pick) for pick in product(*axes)}


def _attentions(case: Case) -> Iterator[GroupedQueryAttention | LatentAttention]:
    """Of layers that keep a cache."""
    for layer in case.model.layer_types.values():
        if isinstance(layer.attention, GroupedQueryAttention | LatentAttention):
            yield layer.attention
