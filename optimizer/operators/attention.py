"""Attention layers: projections, the attention itself over cached tokens, and its collectives."""

from __future__ import annotations

import numpy as np

from optimizer.operators.matrices import products
from optimizer.operators.operator import (
    ACTIVATION_BYTES,
    Columns,
    Family,
    Floats,
    HeadShape,
    Operator,
    collective,
    memory,
    shards,
)
from optimizer.spec.linears import attention_linears
from optimizer.spec.model import (
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    LayerType,
    LinearAttention,
    ModelSpec,
    Precision,
)

KV_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0}
# Kernels of one layer beside its matrix products: norm with residual, rotary embedding with norms
# of q and k, cache write (linear: convolution, gates, norm of the values); the attention itself.
NORM_KERNELS = {"gqa": 3.0, "mla": 3.0, "linear": 4.0}
CORE_KERNELS = {"gqa": 1.0, "mla": 1.0, "linear": 2.0}
INDEXER_KERNELS = (
    6.0  # norm, rotary embedding, rounding with cache write, scores, top-k, page table
)
STATE_BYTES = 4.0  # linear-attention states are kept in fp32


def families(part: str, layer: LayerType, model: ModelSpec) -> tuple[Family, ...]:
    """Projections and norms, the attention core, and the all-reduce that closes the block."""
    hidden, precision, attention = model.hidden_size, model.precision, layer.attention

    def projections(columns: Columns) -> tuple[Operator, ...]:
        tokens, tp = columns["tokens"], columns["tp"]
        linears = attention_linears(attention, hidden)
        matrices = products(linears, "attention projections", tokens, tp, precision)
        moved = ACTIVATION_BYTES * tokens * (4 * hidden + 3 * normed_width(attention, tp))
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
                columns["tp_inside"],
                columns["tp_leaf"],
            ),
        )

    return (
        Family(part, ("tp", "tokens"), projections),
        Family(part, ("tp", "cp", "tokens", "sequences", "context", "cp_inside", "cp_leaf"), core),
        Family(part, ("tp", "tokens", "tp_inside", "tp_leaf"), closing),
    )


def normed_width(
    attention: GroupedQueryAttention | LatentAttention | LinearAttention, tp: Floats
) -> Floats:
    """Elements of a token that norms, rotary embedding and gates read and write between the
    projections and the attention itself, on one rank."""
    if isinstance(attention, GroupedQueryAttention):
        heads = shards(attention.num_heads, tp) + 2 * shards(attention.num_kv_heads, tp)
        return attention.head_dim * heads
    if isinstance(attention, LatentAttention):
        head = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        return (
            shards(attention.num_heads, tp) * head
            + (attention.q_lora_rank or 0)
            + (attention.kv_lora_rank)
        )
    keys = shards(attention.num_key_heads, tp) * attention.key_head_dim
    return 2 * (keys + shards(attention.num_value_heads, tp) * attention.value_head_dim)


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
    attending to `context` cached tokens in the mean (causality is in that mean); a sequence's last
    query attends to half its new tokens more, and that many keys are read."""
    tokens, sequences, context = columns["tokens"], columns["sequences"], columns["context"]
    tp, cp = columns["tp"], columns["cp"]
    cache = KV_BYTES[precision.kv_cache]
    keys = context + (tokens / sequences - 1) / 2
    extra: tuple[Operator, ...] = ()
    shape = None
    if isinstance(attention, GroupedQueryAttention):
        heads = shards(attention.num_heads, tp)
        kv_heads = shards(attention.num_kv_heads, tp)
        dim = attention.head_dim
        flops = 4.0 * tokens * attended(attention, context) * heads * dim
        moved = sequences * attended(attention, keys) * 2 * kv_heads * dim * cache
        moved = moved + ACTIVATION_BYTES * tokens * dim * (2 * heads + 2 * kv_heads)
        exchange = tokens * 2 * kv_heads * dim * cache
        window = float(attention.window or 1)
        if attention.chunk is None:
            shape = HeadShape(tokens, sequences, keys, heads, kv_heads, dim, window, cache)
    elif isinstance(attention, LatentAttention):
        heads = shards(attention.num_heads, tp)
        latent = attention.kv_lora_rank + attention.qk_rope_head_dim
        is_prefill = tokens > sequences
        read = context
        if attention.indexer is not None:
            read = np.minimum(context, attention.indexer.top_k)
            keys = np.where(is_prefill, keys, read)
            extra = (_indexer(attention.indexer, columns),)
        # Decode multiplies in the latent space (absorbed); prefill expands keys and values per
        # head.
        absorbed = latent + attention.kv_lora_rank
        head = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
        flops = 2.0 * tokens * read * heads * np.where(is_prefill, head, absorbed)
        widths = np.where(
            is_prefill, head + attention.qk_nope_head_dim + attention.v_head_dim, absorbed
        )
        moved = sequences * keys * latent * cache + ACTIVATION_BYTES * tokens * heads * widths
        exchange = tokens * latent * cache
    else:
        value_heads = shards(attention.num_value_heads, tp)
        key_heads = shards(attention.num_key_heads, tp)
        state = value_heads * attention.key_head_dim * attention.value_head_dim
        flops = 6.0 * tokens * state
        channels = key_heads * attention.key_head_dim + value_heads * attention.value_head_dim
        moved = 2 * STATE_BYTES * sequences * state + 4 * ACTIVATION_BYTES * tokens * channels
        exchange = 0.0 * tokens
    core = Operator(
        f"{attention.kind}_attention",
        "attention",
        "attention",
        flops,
        moved,
        kernels=CORE_KERNELS[attention.kind],
        heads=shape,
    )
    ring = collective(
        "cp_ring",
        "all_gather",
        "cp",
        exchange,
        cp,
        columns["cp_inside"],
        columns["cp_leaf"],
    )
    return (core, *extra, ring)


def _indexer(indexer: Indexer, columns: Columns) -> Operator:
    """Scores of all cached tokens in 8 bits, not cut over tp (DeepSeek-V3.2, 2025)."""
    tokens, sequences, context = columns["tokens"], columns["sequences"], columns["context"]
    flops = 2.0 * tokens * context * indexer.num_heads * indexer.head_dim
    moved = sequences * context * (indexer.head_dim + 4.0)  # a key of 8 bits and its fp32 scale
    return Operator(
        "indexer", "attention", "attention", flops, moved, format="fp8", kernels=INDEXER_KERNELS
    )
