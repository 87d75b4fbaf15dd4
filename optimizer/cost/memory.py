"""Bytes that the fullest rank holds, by component, as columns; the fullest stage decides.

Weights and KV cache follow from the specs to the byte; activations, logits and buffers are what an
engine keeps alive at the peak of its largest step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from optimizer.cost.factoring import Factors
from optimizer.cost.stages import Stage
from optimizer.operators import Columns, Floats
from optimizer.operators.attention import KV_BYTES, STATE_BYTES
from optimizer.operators.matrices import shard_bytes
from optimizer.operators.operator import ACTIVATION_BYTES, shards
from optimizer.spec.formats import matrix_bytes
from optimizer.spec.linears import (
    Linear,
    embedding_linears,
    head_linears,
    layer_linears,
    mtp_linears,
)
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LatentAttention,
    LayerType,
    ModelSpec,
)
from optimizer.units import GIB

RUNTIME_RESERVE_BYTES = 3.5 * GIB  # context, graphs, communication libraries (AIConfigurator)
LOGIT_BYTES = 4.0 + 2.0  # fp32 logits beside the head's 16-bit output

COMPONENTS = (
    "dense weights",
    "expert weights",
    "embedding and head",
    "KV cache",
    "activations",
    "logits",
    "communication buffers",
    "runtime reserve",
)


class LayerBytes(NamedTuple):
    """Columns [n] of one layer type: weights outside and inside routed experts, and cache bytes."""

    dense: Floats
    experts: Floats
    cache: Floats


class LayoutBytes(NamedTuple):
    """Columns [n] that follow from the degrees alone; the cache is that of one sequence."""

    layers: dict[str, LayerBytes]
    first: Floats  # embedding, extra weights
    last: Floats  # head and final norm; 0 for tied weights on one stage
    logits: Floats  # of one token


class MemoryColumns(NamedTuple):
    """All that the memory of any stage is summed from; every array [n]."""

    layers: dict[str, LayerBytes]
    first: Floats
    last: Floats
    activations: Floats
    logits: Floats  # on the last stage
    buffers: Floats
    reserve: float

    def stage(self, types: tuple[str, ...], stage: Stage, row: int) -> dict[str, float]:
        """One row's bytes by component on one stage."""
        layers = [
            (count, self.layers[name]) for count, name in zip(stage.layers, types, strict=True)
        ]
        ends = float(self.first[row]) * stage.first + float(self.last[row]) * stage.last
        amounts = (
            sum(count * float(held.dense[row]) for count, held in layers),
            sum(count * float(held.experts[row]) for count, held in layers),
            ends,
            sum(count * float(held.cache[row]) for count, held in layers),
            float(self.activations[row]),
            float(self.logits[row]) * stage.last,
            float(self.buffers[row]),
            self.reserve,
        )
        return dict(zip(COMPONENTS, amounts, strict=True))


def cached_tokens(layer: LayerType, tokens: Floats | int) -> Floats:
    """Tokens whose keys and values a layer keeps: all, or the last window."""
    attention = layer.attention
    whole = np.asarray(tokens, dtype=np.float64)
    if isinstance(attention, GroupedQueryAttention) and attention.window is not None:
        return np.minimum(whole, attention.window)
    if isinstance(attention, GroupedQueryAttention) and attention.chunk is not None:
        return np.minimum(whole, attention.chunk)
    return whole


def sequence_cache_bytes(
    layer: LayerType, model: ModelSpec, tokens: Floats | int, tp: Floats, cp: Floats
) -> Floats:
    """Cache bytes of one sequence of `tokens` tokens in one layer on one rank [n].

    Grouped-query: 2 x ceil(kv_heads / tp) x head_dim a token; MLA: the latent, replicated over tp;
    an indexer adds one 8-bit key and its scale; linear attention keeps a state and the
    convolution's last inputs instead. cp cuts the tokens.
    """
    attention, cache = layer.attention, KV_BYTES[model.precision.kv_cache]
    kept = np.ceil(cached_tokens(layer, tokens) / cp)
    if isinstance(attention, GroupedQueryAttention):
        return kept * 2 * shards(attention.num_kv_heads, tp) * attention.head_dim * cache
    if isinstance(attention, LatentAttention):
        per_token = (attention.kv_lora_rank + attention.qk_rope_head_dim) * cache
        if attention.indexer is not None:
            per_token += attention.indexer.head_dim + 4
        return kept * per_token * np.ones_like(tp)
    keys = shards(attention.num_key_heads, tp) * attention.key_head_dim
    value_heads = shards(attention.num_value_heads, tp)
    values = value_heads * attention.value_head_dim
    state = value_heads * attention.key_head_dim * attention.value_head_dim
    convolution = (attention.conv_kernel - 1) * (2 * keys + values)
    return STATE_BYTES * state + ACTIVATION_BYTES * convolution


def mean_cache_bytes(model: ModelSpec, tokens: Floats, tp: Floats) -> Floats:
    """Cache bytes of one sequence of `tokens` tokens in all layers on one rank [n]."""
    whole = np.ones_like(tp)
    return sum(
        (
            model.layer_names.count(name) * sequence_cache_bytes(layer, model, tokens, tp, whole)
            for name, layer in model.layer_types.items()
        ),
        np.zeros_like(tp),
    )


def _layer_weights(
    layer: LayerType, model: ModelSpec, tp: Floats, ep: Floats, etp: Floats, redundant: int
) -> tuple[Floats, Floats]:
    dense, experts = np.zeros_like(tp), np.zeros_like(tp)
    for linear in layer_linears(layer, model.hidden_size):
        if linear.part == "experts":
            local = np.ceil((linear.copies + redundant) / ep)
            experts = experts + local * shard_bytes(linear, etp, model.precision)
        else:
            dense = dense + shard_bytes(linear, tp, model.precision)
    return dense, experts


def _activation_bytes(layer: LayerType, model: ModelSpec, columns: Columns) -> Floats:
    """Alive at once in one layer: residual and hidden twice, and the wider of attention's and the
    FFN's intermediate results; routed tokens with their expert rows come on top."""
    tp, tokens = columns["tp"], columns["tokens"]
    attention, ffn = layer.attention, layer.ffn
    if isinstance(attention, GroupedQueryAttention):
        gates = 2 if attention.output_gate else 1
        width = attention.head_dim * (
            (gates + 1) * shards(attention.num_heads, tp) + 2 * shards(attention.num_kv_heads, tp)
        )
    elif isinstance(attention, LatentAttention):
        head = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
        width = 2 * head * shards(attention.num_heads, tp)
    else:
        width = 2 * shards(attention.num_key_heads, tp) * attention.key_head_dim
        width = width + 3 * shards(attention.num_value_heads, tp) * attention.value_head_dim
    gate = 3 if ffn.gated else 2
    if isinstance(ffn, DenseFfn):
        inner = gate * shards(ffn.intermediate_size, tp)
        routed = np.zeros_like(tokens)
    else:
        inner = gate * shards(ffn.shared_intermediate_size, tp)
        every = tokens * columns["dp"] * columns["cp"]
        pairs = np.minimum(
            every * ffn.num_experts_per_token / columns["ep"] * columns["imbalance"],
            every * ffn.num_experts_per_token,
        )
        rows = shards(ffn.intermediate_size, columns["etp"]) * gate + 2 * model.hidden_size
        routed = pairs * rows
    kept: Floats = tokens * (4 * model.hidden_size + np.maximum(width, inner)) + routed
    return ACTIVATION_BYTES * kept


def _buffer_bytes(model: ModelSpec, columns: Columns) -> Floats:
    """Send and receive buffers: two of the hidden states, and the routed copies of one dispatch."""
    hidden = columns["tokens"] * model.hidden_size * ACTIVATION_BYTES
    total = 2.0 * hidden * (columns["tp"] * columns["dp"] * columns["cp"] > 1)
    if model.moe is not None:
        apart = columns["dp"] * columns["cp"] > 1
        copies = np.minimum(model.moe.num_experts_per_token, columns["ep"]) * columns["etp"]
        total = total + np.where(apart, 2.0 * hidden / columns["tp"] * copies, 0.0)
    return total


def layout_bytes(
    model: ModelSpec, columns: Mapping[str, Floats], sequence_tokens: int, redundant: int = 0
) -> LayoutBytes:
    """What follows from the degrees alone (columns tp, cp, ep, etp, pp); `redundant` slots of each
    layer hold second copies of experts."""
    factors = Factors(columns)
    grid, on_grid = factors.distinct(("tp", "ep", "etp"))
    cut, on_cut = factors.distinct(("tp", "cp"))
    layers: dict[str, LayerBytes] = {}
    for name, layer in model.layer_types.items():
        dense, experts = _layer_weights(
            layer, model, grid["tp"], grid["ep"], grid["etp"], redundant
        )
        cache = sequence_cache_bytes(layer, model, sequence_tokens, cut["tp"], cut["cp"])
        layers[name] = LayerBytes(dense[on_grid], experts[on_grid], cache[on_cut])
    found, back = factors.distinct(("tp",))
    tp = found["tp"]
    extra = sum(matrix_bytes(1, each.parameters, each.format) for each in model.extra_weights)
    first = extra + _sum_bytes(embedding_linears(model), tp, model)
    last = _sum_bytes(head_linears(model), tp, model)[back]
    if model.tied_embeddings:
        table = _sum_bytes(head_linears(model)[:1], tp, model)[back]
        last = np.where(columns["pp"] > 1, last, last - table)
    if model.mtp is not None and model.mtp.used:
        extra_layer = np.zeros(len(grid["tp"]))
        for linear in mtp_linears(model):
            degree = grid["etp"] if linear.part == "experts" else grid["tp"]
            copies = np.ceil(linear.copies / grid["ep"]) if linear.part == "experts" else 1.0
            extra_layer = extra_layer + copies * shard_bytes(linear, degree, model.precision)
        last = last + model.mtp.num_layers * extra_layer[on_grid]
    logits = LOGIT_BYTES * shards(model.vocab_size, tp)
    return LayoutBytes(layers, first[back], last, logits[back])


def _sum_bytes(linears: Iterable[Linear], tp: Floats, model: ModelSpec) -> Floats:
    sizes = (shard_bytes(linear, tp, model.precision) for linear in linears)
    return sum(sizes, np.zeros(len(tp)))


def working_bytes(model: ModelSpec, columns: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """(activations, communication buffers) at the peak of a step: columns tp, cp, dp, ep, etp;
    tokens (new tokens of one attention rank); imbalance."""
    wide, back = Factors(columns).distinct(("tp", "cp", "dp", "ep", "etp", "tokens", "imbalance"))
    activations = np.zeros(len(wide["tp"]))
    for layer in model.layer_types.values():
        activations = np.maximum(activations, _activation_bytes(layer, model, wide))
    return activations[back], _buffer_bytes(model, wide)[back]


def memory_columns(
    model: ModelSpec,
    columns: Mapping[str, Floats],
    sequence_tokens: int,
    reserve_bytes: float,
    redundant: int = 0,
) -> MemoryColumns:
    """Memory of n candidates.

    Columns: tp, cp, dp, ep, etp, pp; tokens (new tokens of one attention rank in the largest step),
    logits (tokens whose logits that step computes), held (sequences whose cache the rank keeps),
    imbalance. Each of the held sequences has sequence_tokens tokens at its end.
    """
    fixed = layout_bytes(model, columns, sequence_tokens, redundant)
    layers = {
        name: layer._replace(cache=layer.cache * columns["held"])
        for name, layer in fixed.layers.items()
    }
    logits = fixed.logits * columns["logits"]
    activations, buffers = working_bytes(model, columns)
    return MemoryColumns(
        layers, fixed.first, fixed.last, activations, logits, buffers, reserve_bytes
    )
