"""The works of attention and FFN blocks: products, element-wise traffic, collectives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optimizer.cost.training.layouts import (
    CORE_ATTENTION,
    MLA_UP,
    MLP,
    MOE,
    MOE_ACTIVATION,
    NORMS,
    Floats,
    TrainingLayouts,
)
from optimizer.cost.training.work import Job, Work, fused, own_tokens, product, rank_tokens
from optimizer.operators.operator import shards
from optimizer.spec.linears import attention_linears, ffn_linears
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LatentAttention,
    LayerType,
    MoeFfn,
)

UP_PROJECTIONS = frozenset(("q_b_proj", "kv_b_proj"))


def attention_works(
    layer: LayerType, hidden: int, layouts: TrainingLayouts, job: Job
) -> Iterator[Work]:
    """Projections, the attention itself, norms with residual and rotary embedding; a block's two
    rings over tp, and the ring of keys and values over cp."""
    tp = layouts.tp.astype(np.float64)
    tokens = rank_tokens(layouts, job)
    for name, linears in fused(attention_linears(layer.attention, hidden)).items():
        module = MLA_UP if name in UP_PROJECTIONS else 0
        yield product(name, linears, tokens, tp, module)
    heads, kv_heads, qk_dim, v_dim, flops_a_token = core_shape(layer, tp, job)
    stored = 0.0 if job.flash else 10.0 * tokens * job.sequence_length * heads
    yield Work(
        "core",
        "core",
        tokens * flops_a_token,
        stored + 2.0 * tokens * 2 * heads * (qk_dim + v_dim),
        module=CORE_ATTENTION,
        aligned=float(qk_dim % 8 == 0),
    )
    norms = 10.0 * own_tokens(layouts, job) * hidden + 4.0 * tokens * (heads + kv_heads) * qk_dim
    yield Work("attention_norms", "memory", 0.0, norms, module=NORMS)
    yield Work("attention_tp", "tp", 0.0, 2.0 * tokens * hidden)
    yield Work("ring", "cp", 0.0, 2.0 * tokens * kv_heads * (qk_dim + v_dim))


def core_shape(
    layer: LayerType, tp: Floats, job: Job
) -> tuple[Floats, Floats, float, float, Floats]:
    """Heads and key-value heads of a rank, their widths, and FLOPs a token: a causal query reads
    half the sequence, at most its window (flash); without flash attention all of it."""
    attention, length = layer.attention, float(job.sequence_length)
    context = length / 2 if job.flash else length
    if isinstance(attention, GroupedQueryAttention):
        heads, kv_heads = shards(attention.num_heads, tp), shards(attention.num_kv_heads, tp)
        reach = attention.window or (attention.chunk and attention.chunk / 2)
        context = min(context, float(reach)) if reach else context
        dim = float(attention.head_dim)
        return heads, kv_heads, dim, dim, 4.0 * context * heads * dim
    if isinstance(attention, LatentAttention):
        heads = shards(attention.num_heads, tp)
        qk_dim = float(attention.qk_nope_head_dim + attention.qk_rope_head_dim)
        v_dim, extra = float(attention.v_head_dim), 0.0
        if attention.indexer is not None:
            index = attention.indexer
            extra = 2.0 * context * index.num_heads * index.head_dim
            context = min(context, float(index.top_k))
        return heads, heads, qk_dim, v_dim, 2.0 * context * heads * (qk_dim + v_dim) + extra
    keys, values = attention.key_head_dim, attention.value_head_dim
    heads = shards(attention.num_value_heads, tp)
    key_heads = shards(attention.num_key_heads, tp)
    return heads, key_heads, float(keys), float(values), 6.0 * heads * keys * values


def dense_works(ffn: DenseFfn, hidden: int, layouts: TrainingLayouts, job: Job) -> Iterator[Work]:
    """The matrices, activation, norms with residual, and the block\'s rings over tp."""
    tp = layouts.tp.astype(np.float64)
    tokens = rank_tokens(layouts, job)
    for name, linears in fused(ffn_linears(ffn, hidden)).items():
        yield product(name, linears, tokens, tp, MLP)
    size = shards(ffn.intermediate_size, tp)
    yield Work("activation", "memory", 0.0, 2.0 * tokens * (2 + ffn.gated) * size, module=MLP)
    norms = 10.0 * own_tokens(layouts, job) * hidden
    yield Work("ffn_norms", "memory", 0.0, norms, module=MLP | NORMS)
    yield Work("ffn_tp", "tp", 0.0, 2.0 * tokens * hidden, module=MLP)


def moe_works(ffn: MoeFfn, hidden: int, layouts: TrainingLayouts, job: Job) -> Iterator[Work]:
    """Routed rows are spread evenly over the ep ranks; `imbalance` prices the hottest."""
    tp, ep = layouts.tp.astype(np.float64), layouts.ep
    etp = layouts.etp.astype(np.float64)
    tokens = rank_tokens(layouts, job)
    own, top = tokens / tp, ffn.num_experts_per_token
    rows, local = own * top * etp, np.ceil(ffn.num_experts / ep)
    for name, linears in fused(ffn_linears(ffn, hidden)).items():
        part = linears[0].part
        if part == "experts":
            yield product(name, linears, rows, etp, MOE, local)
        elif part == "router":
            yield product(name, linears, own, np.ones_like(tp), MOE)
        else:
            yield product(name, linears, tokens, tp, MOE)
    size = shards(ffn.intermediate_size, etp)
    shared = shards(ffn.shared_intermediate_size, tp)
    moved = 2.0 * (2 + ffn.gated) * (rows * size + tokens * shared)
    yield Work("moe_activation", "memory", 0.0, moved, module=MOE | MOE_ACTIVATION)
    yield Work("permute", "permute", 0.0, 12.0 * own * top * hidden, module=MOE)
    norms = 10.0 * own_tokens(layouts, job) * hidden
    yield Work("moe_norms", "memory", 0.0, norms, module=MOE | NORMS)
    if ffn.shared_intermediate_size:
        yield Work("shared_tp", "tp", 0.0, 2.0 * tokens * hidden, module=MOE)
    yield Work(
        "exchange",
        "ep",
        0.0,
        2.0 * own * hidden,
        module=MOE,
        copies=float(top),
        most_nodes=job.most_nodes,
    )
