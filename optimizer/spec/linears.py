"""The matrices of a layer: the one list from which weights, FLOPs and shards all follow.

Sources: the models' published modelling code and config.json files (DeepSeek-V3/V3.2, Qwen3,
Qwen3.5, gpt-oss, Llama 4, MiniMax-M2). Checked by the exact parameter totals in
tests/spec/test_parameters.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from optimizer.spec.formats import Format, matrix_bytes
from optimizer.spec.model import (
    DenseFfn,
    Ffn,
    GroupedQueryAttention,
    LatentAttention,
    LayerType,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Precision,
)

Part = Literal[
    "attention", "ffn", "shared_experts", "experts", "router", "embedding", "head", "norm"
]
Split = Literal["outputs", "inputs", "none"]


class Linear(NamedTuple):
    """One matrix inputs -> outputs. A tensor-parallel rank holds ceil(units / tp) of its units
    along `split`; units are heads, or single columns. `copies` counts routed experts; `bias` adds
    outputs."""

    name: str
    part: Part
    inputs: int
    outputs: int
    split: Split
    units: int
    bias: bool = False
    copies: int = 1
    gemm: bool = True  # False: vectors and tables that no matrix product reads (norms, embedding)


def attention_linears(
    attention: GroupedQueryAttention | LatentAttention | LinearAttention, hidden: int
) -> Iterator[Linear]:
    """The projections of one attention layer, its norms left to `norm_linears`."""
    if isinstance(attention, GroupedQueryAttention):
        heads, kv_heads, dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
        bias = attention.bias or attention.qkv_bias
        gates = 2 if attention.output_gate else 1
        yield Linear("q_proj", "attention", hidden, gates * heads * dim, "outputs", heads, bias)
        yield Linear("k_proj", "attention", hidden, kv_heads * dim, "outputs", kv_heads, bias)
        yield Linear("v_proj", "attention", hidden, kv_heads * dim, "outputs", kv_heads, bias)
        yield Linear("o_proj", "attention", heads * dim, hidden, "inputs", heads, attention.bias)
    elif isinstance(attention, LatentAttention):
        heads = attention.num_heads
        nope, rope, v_dim = (
            attention.qk_nope_head_dim,
            attention.qk_rope_head_dim,
            attention.v_head_dim,
        )
        q_rank, kv_rank = attention.q_lora_rank, attention.kv_lora_rank
        if q_rank is None:
            yield Linear("q_proj", "attention", hidden, heads * (nope + rope), "outputs", heads)
        else:
            yield Linear("q_a_proj", "attention", hidden, q_rank, "none", 1)
            yield Linear("q_b_proj", "attention", q_rank, heads * (nope + rope), "outputs", heads)
        yield Linear("kv_a_proj", "attention", hidden, kv_rank + rope, "none", 1)
        yield Linear("kv_b_proj", "attention", kv_rank, heads * (nope + v_dim), "outputs", heads)
        yield Linear("o_proj", "attention", heads * v_dim, hidden, "inputs", heads)
        if attention.indexer is not None:
            index = attention.indexer
            source = q_rank or hidden
            size = index.num_heads * index.head_dim
            yield Linear("indexer_q_proj", "attention", source, size, "none", 1)
            yield Linear("indexer_k_proj", "attention", hidden, index.head_dim, "none", 1)
            yield Linear("indexer_weights", "router", hidden, index.num_heads, "none", 1)
    else:
        keys = attention.num_key_heads * attention.key_head_dim
        values = attention.num_value_heads * attention.value_head_dim
        heads, v_heads = attention.num_key_heads, attention.num_value_heads
        yield Linear("qk_proj", "attention", hidden, 2 * keys, "outputs", heads)
        yield Linear("v_proj", "attention", hidden, values, "outputs", v_heads)
        yield Linear("z_proj", "attention", hidden, values, "outputs", v_heads)
        yield Linear("ba_proj", "router", hidden, 2 * v_heads, "outputs", v_heads)
        yield Linear("o_proj", "attention", values, hidden, "inputs", v_heads)
        kernel = attention.conv_kernel
        yield Linear("conv", "norm", kernel, 2 * keys + values, "outputs", heads, gemm=False)
        yield Linear("decay", "norm", 2, v_heads, "outputs", v_heads, gemm=False)


def ffn_linears(ffn: Ffn, hidden: int) -> Iterator[Linear]:
    """The matrices of one FFN: up, gate split by columns, down by rows (Shoeybi et al., 2019)."""
    if isinstance(ffn, DenseFfn):
        yield from _mlp("ffn", hidden, ffn.intermediate_size, ffn.gated, ffn.bias, 1, "")
        return
    size = ffn.intermediate_size
    yield Linear("router", "router", hidden, ffn.num_experts, "none", 1, ffn.bias)
    if ffn.router_correction:
        yield Linear("router_correction", "norm", 1, ffn.num_experts, "none", 1, gemm=False)
    yield from _mlp("experts", hidden, size, ffn.gated, ffn.bias, ffn.num_experts, "expert_")
    if ffn.shared_intermediate_size:
        shared = ffn.shared_intermediate_size
        yield from _mlp("shared_experts", hidden, shared, ffn.gated, False, 1, "shared_")
        if ffn.shared_gate:
            yield Linear("shared_gate", "router", hidden, 1, "none", 1)


def _mlp(
    part: Part, hidden: int, size: int, gated: bool, bias: bool, copies: int, prefix: str
) -> Iterator[Linear]:
    if gated:
        yield Linear(f"{prefix}gate", part, hidden, size, "outputs", size, bias, copies)
    yield Linear(f"{prefix}up", part, hidden, size, "outputs", size, bias, copies)
    yield Linear(f"{prefix}down", part, size, hidden, "inputs", size, bias, copies)


def norm_linears(layer: LayerType, hidden: int) -> Iterator[Linear]:
    """The vectors of one layer: two layer norms and the norms inside attention."""
    yield Linear("norms", "norm", 2, hidden, "none", 1, gemm=False)
    attention = layer.attention
    if isinstance(attention, GroupedQueryAttention):
        dim = attention.head_dim
        if attention.qk_norm:
            yield Linear("qk_norm", "norm", 2, dim, "none", 1, gemm=False)
        if attention.qk_norm_full:
            heads, kv_heads = attention.num_heads, attention.num_kv_heads
            yield Linear("q_norm", "norm", 1, heads * dim, "outputs", heads, gemm=False)
            yield Linear("k_norm", "norm", 1, kv_heads * dim, "outputs", kv_heads, gemm=False)
        if attention.sinks:
            yield Linear(
                "sinks", "norm", 1, attention.num_heads, "outputs", attention.num_heads, gemm=False
            )
    elif isinstance(attention, LatentAttention):
        size = (attention.q_lora_rank or 0) + attention.kv_lora_rank
        yield Linear("latent_norms", "norm", 1, size, "none", 1, gemm=False)
        if attention.indexer is not None:
            dim = attention.indexer.head_dim
            yield Linear("indexer_norm", "norm", 2, dim, "none", 1, gemm=False)
    else:
        yield Linear("value_norm", "norm", 1, attention.value_head_dim, "none", 1, gemm=False)


def layer_linears(layer: LayerType, hidden: int) -> tuple[Linear, ...]:
    """Everything that one layer holds."""
    return (
        *attention_linears(layer.attention, hidden),
        *ffn_linears(layer.ffn, hidden),
        *norm_linears(layer, hidden),
    )


def embedding_linears(model: ModelSpec) -> tuple[Linear, ...]:
    """The input table of stage 0, split over tp by padded vocabulary."""
    vocab, hidden = model.vocab_size, model.hidden_size
    return (Linear("embedding", "embedding", hidden, vocab, "outputs", vocab, gemm=False),)


def head_linears(model: ModelSpec) -> tuple[Linear, ...]:
    """The final norm and the output matrix of the last stage; tied weights are the embedding's."""
    vocab, hidden = model.vocab_size, model.hidden_size
    return (
        Linear("head", "head", hidden, vocab, "outputs", vocab),
        Linear("final_norm", "norm", 1, hidden, "none", 1, gemm=False),
    )


def mtp_linears(model: ModelSpec) -> tuple[Linear, ...]:
    """One MTP layer: the last layer's matrices, the 2h -> h projection and three norms."""
    hidden = model.hidden_size
    return (
        *layer_linears(model.layer_types[model.layer_names[-1]], hidden),
        Linear("mtp_proj", "ffn", 2 * hidden, hidden, "none", 1),
        Linear("mtp_norms", "norm", 3, hidden, "none", 1, gemm=False),
    )


def parameters(linear: Linear) -> int:
    return linear.copies * (linear.inputs * linear.outputs + linear.outputs * linear.bias)


def linear_bytes(inputs: int, outputs: int, bias: bool, part: Part, precision: Precision) -> int:
    """Bytes of one (shard of a) matrix with its block scales; biases are kept as norms are."""
    kind: Format = getattr(precision, part)
    total = matrix_bytes(inputs, outputs, kind)
    return total + (matrix_bytes(1, outputs, precision.norm) if bias else 0)


def total_parameters(model: ModelSpec) -> int:
    """Parameters of the decoder without MTP and without extra weights; tied heads count once."""
    layers = sum(
        parameters(linear)
        for name in model.layer_names
        for linear in layer_linears(model.layer_types[name], model.hidden_size)
    )
    outside = sum(parameters(linear) for linear in embedding_linears(model) + head_linears(model))
    tied = model.hidden_size * model.vocab_size if model.tied_embeddings else 0
    return layers + outside - tied


def expert_parameters(model: ModelSpec) -> int:
    """Parameters of the routed experts."""
    return sum(
        parameters(linear)
        for name in model.layer_names
        for linear in ffn_linears(model.layer_types[name].ffn, model.hidden_size)
        if linear.part == "experts"
    )


def moe_layers(model: ModelSpec) -> tuple[int, ...]:
    """The indices of the layers that have routed experts."""
    return tuple(
        index
        for index, name in enumerate(model.layer_names)
        if isinstance(model.layer_types[name].ffn, MoeFfn)
    )
