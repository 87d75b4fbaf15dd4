"""Attention layers: projections, the attention itself over cached tokens, and its collectives."""

from __future__ import annotations

import numpy as np

from optimizer.operators.matrices import projection, tp_inside
from optimizer.operators.operator import (
    ACTIVATION_BYTES,
    Columns,
    Family,
    Floats,
    Operator,
    collective,
    memory,
    shards,
)
from optimizer.spec.linears import attention_linears
from optimizer.spec.model import (
    GroupedQueryAttention,
    LatentAttention,
    LayerType,
    LinearAttention,
    ModelSpec,
    Precision,
)

KV_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
# Kernels of one layer beside its matrix products: norms with their residual, and the attention
# itself with rotary embedding, cache write and the reduction of split sequences (gqa); absorption
# of the up-projection (mla); convolution, gates, recurrence and gated norm (linear).
NORM_KERNELS = {"gqa": 1.0, "mla": 2.0, "linear": 1.0}
CORE_KERNELS = {"gqa": 4.0, "mla": 4.0, "linear": 6.0}
INDEXER_KERNELS = 4.0  # scores, top-k, gather, cache write
STATE_BYTES = 4.0  # linear-attention states are kept in fp32


def families(part: str, layer: LayerType, model: ModelSpec) -> tuple[Family, ...]:
    """Projections and norms, the attention core, and the all-reduce that closes the block."""
    hidden, precision, attention = model.hidden_size, model.precision, layer.attention

    def projections(columns: Columns) -> tuple[Operator, ...]:
        tokens, tp = columns["tokens"], columns["tp"]
        matrices = tuple(
            projection(linear, "attention projections", tokens, tp, precision)
            for linear in attention_linears(attention, hidden)
            if linear.gemm
        )
        moved = 4 * ACTIVATION_BYTES * tokens * hidden
        norms = memory("attention_norms", "norms", moved, NORM_KERNELS[attention.kind])
        return (*matrices, norms)

    def core(columns: Columns) -> tuple[Operator, ...]:
        return core_operators(attention, columns, precision)

    def closing(columns: Columns) -> tuple[Operator, ...]:
        payload = columns["tokens"] * hidden * ACTIVATION_BYTES
        return (
            collective(
                "attention_all_reduce",
                "all_reduce",
                "tp",
                payload,
                columns["tp"],
                tp_inside(columns),
            ),
        )

    return (
        Family(part, ("tp", "tokens"), projections),
        Family(part, ("tp", "cp", "tokens", "sequences", "context", "span"), core),
        Family(part, ("tp", "tokens", "span"), closing),
    )


def attended(attention: GroupedQueryAttention, context: Floats) -> Floats:
    """Cached tokens that one query reads: all, the last `window`, or half a chunk on average."""
    if attention.window is not None:
        return np.minimum(context, attention.window)
    if attention.chunk is not None:
        return np.where(context > attention.chunk, attention.chunk / 2, context)
    return context


def core_operators(
    attention: GroupedQueryAttention | LatentAttention | LinearAttention,
    columns: Columns,
    precision: Precision,
) -> tuple[Operator, ...]:
    """softmax(QK)V or its linear form for `tokens` new tokens of `sequences` sequences, each query
    attending to `context` cached tokens in the mean (causality is in that mean)."""
    tokens, sequences, context = columns["tokens"], columns["sequences"], columns["context"]
    tp, cp = columns["tp"], columns["cp"]
    cache = KV_BYTES[precision.kv_cache]
    kernels = CORE_KERNELS[attention.kind]
    if isinstance(attention, GroupedQueryAttention):
        heads = shards(attention.num_heads, tp)
        kv_heads = shards(attention.num_kv_heads, tp)
        read = attended(attention, context)
        dim = attention.head_dim
        flops = 4.0 * tokens * read * heads * dim
        moved = sequences * read * 2 * kv_heads * dim * cache
        moved = moved + ACTIVATION_BYTES * tokens * dim * (2 * heads + 2 * kv_heads)
        exchange = tokens * 2 * kv_heads * dim * cache
    elif isinstance(attention, LatentAttention):
        heads = shards(attention.num_heads, tp)
        latent = attention.kv_lora_rank + attention.qk_rope_head_dim
        read, extra = context, 0.0 * context
        if attention.indexer is not None:
            index = attention.indexer
            read = np.minimum(context, index.top_k)
            extra = 2.0 * tokens * context * index.num_heads * index.head_dim
        # Decode multiplies in the latent space (absorbed); prefill expands keys and values per
        # head.
        absorbed = 2.0 * tokens * read * heads * (latent + attention.kv_lora_rank)
        expanded = (
            2.0
            * tokens
            * read
            * heads
            * (attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim)
        )
        flops = np.where(tokens > sequences, expanded, absorbed) + extra
        moved = sequences * read * latent * cache
        if attention.indexer is not None:
            moved = moved + sequences * context * (attention.indexer.head_dim + 4)
        width = latent + attention.kv_lora_rank
        moved = moved + ACTIVATION_BYTES * tokens * heads * width
        kernels += INDEXER_KERNELS * (attention.indexer is not None)
        exchange = tokens * latent * cache
    else:
        value_heads = shards(attention.num_value_heads, tp)
        key_heads = shards(attention.num_key_heads, tp)
        state = value_heads * attention.key_head_dim * attention.value_head_dim
        flops = 6.0 * tokens * state
        channels = 2 * key_heads * attention.key_head_dim + value_heads * attention.value_head_dim
        moved = 2 * STATE_BYTES * sequences * state + 4 * ACTIVATION_BYTES * tokens * channels
        exchange = 0.0 * tokens
    core = Operator(
        f"{attention.kind}_attention", "attention", "attention", flops, moved, kernels=kernels
    )
    ring = collective(
        "cp_ring",
        "all_gather",
        "cp",
        exchange,
        cp,
        np.maximum(1.0, np.floor(columns["span"] / tp)),
    )
    return (core, ring)
