"""Model x training layouts -> the work of one layer, the head and the embedding on one rank.

Forward, one micro-batch; prices of the backward follow from the same counts. Matrices come from
spec.linears, so that FLOPs, weights and shards have one source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from optimizer.cost.training.layouts import (
    CORE_ATTENTION,
    MLA_UP,
    MLP,
    MOE,
    MOE_ACTIVATION,
    NORMS,
    Column,
    Floats,
    TrainingLayouts,
)
from optimizer.layout import Ints
from optimizer.operators.operator import shards
from optimizer.spec.linears import (
    Linear,
    attention_linears,
    ffn_linears,
    head_linears,
    layer_linears,
    parameters,
)
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LatentAttention,
    LayerType,
    ModelSpec,
    MoeFfn,
)

Kind = Literal["gemm", "grouped", "core", "memory", "permute", "tp", "ep", "cp"]
TILE = 128 * 256  # outputs of one thread block
VOCAB_MULTIPLE = 128  # Megatron pads the vocabulary to this times tp
# Matrices that every framework multiplies as one, because they read the same input.
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv"),
    **dict.fromkeys(("q_a_proj", "kv_a_proj", "indexer_k_proj", "indexer_weights"), "latent_down"),
    **dict.fromkeys(("qk_proj", "z_proj", "ba_proj"), "qkv"),
    **dict.fromkeys(("gate", "up"), "fc1"),
    **dict.fromkeys(("expert_gate", "expert_up"), "expert_fc1"),
    **dict.fromkeys(("shared_gate", "shared_up"), "shared_fc1"),
}
UP_PROJECTIONS = frozenset(("q_b_proj", "kv_b_proj"))


@dataclass(frozen=True)
class Job:
    """What all layouts of one search share beside the model."""

    sequence_length: int
    flash: bool = True  # attention without stored scores
    mtp_layers: int = 0  # multi-token-prediction layers that are trained, on the last stage
    imbalance: float = 1.0  # rows of the hottest expert rank over the mean
    most_nodes: float = np.inf  # that hold a token's experts (DeepSeek-V3's routing: 4)
    trained: float = 1.0  # share of the parameters with gradients (LoRA: about 0.01)


@dataclass(frozen=True)
class Work:
    """One operator; arrays [n]. A collective's bytes are its payload."""

    name: str
    kind: Kind
    flops: Column
    bytes: Floats
    module: int = 0  # recompute bits that repeat it, FULL aside
    low: Column = 0.0  # 1 where inputs may have fewer than 16 bits
    weights: Column = 0.0  # parameters that the gradient accumulates
    tiles: Column = np.inf  # of one kernel
    aligned: Column = 1.0
    copies: Column = 1.0  # experts of a token, nodes that may hold them
    most_nodes: Column = np.inf


@dataclass(frozen=True)
class Layer:
    """One layer type; `count` layers of it; parameters and experts are one rank's."""

    works: tuple[Work, ...]
    count: Column
    dense_parameters: Floats
    expert_parameters: Floats
    local_experts: Floats  # 0: not an MoE layer


@dataclass(frozen=True)
class Lowered:
    """A model on one rank of each layout. table_parameters: of the embedding, and of the head."""

    layers: tuple[Layer, ...]
    last: int | None  # the layer type that MTP copies; None when rows of many models are stacked
    head: tuple[Work, ...]
    embedding: tuple[Work, ...]
    table_parameters: Floats
    stage_bytes: Floats
    tied: Column
    mtp_layers: Column
    trained: Column
    imbalance: Column

    def take(self, rows: Ints) -> Lowered:
        """The sizes of the chosen rows; the works, which are priced first, are left behind."""
        layers = tuple(
            Layer(
                (),
                layer.count,
                layer.dense_parameters[rows],
                layer.expert_parameters[rows],
                layer.local_experts[rows],
            )
            for layer in self.layers
        )
        return replace(
            self,
            layers=layers,
            head=(),
            embedding=(),
            table_parameters=self.table_parameters[rows],
            stage_bytes=self.stage_bytes[rows],
        )


def lower(model: ModelSpec, layouts: TrainingLayouts, job: Job) -> Lowered:
    """Each layer type once, the head with its loss, and the embedding."""
    hidden, tp = model.hidden_size, layouts.tp.astype(np.float64)
    tokens = layouts.micro_batch * job.sequence_length / layouts.cp
    names = tuple(model.layer_types)
    vocab = VOCAB_MULTIPLE * np.ceil(model.vocab_size / (VOCAB_MULTIPLE * tp))
    head = product("head", (head_linears(model)[0],), tokens, tp, MLP)
    logits = tokens * model.vocab_size / tp
    return Lowered(
        layers=tuple(
            _layer(layer, model, layouts, job, model.layer_names.count(name))
            for name, layer in model.layer_types.items()
        ),
        last=names.index(model.layer_names[-1]),
        head=(
            Work(**{**vars(head), "low": 0.0, "module": 0}),
            Work("loss", "memory", 0.0, 16.0 * logits),
        ),
        embedding=(Work("embedding", "memory", 0.0, 8.0 * own_tokens(layouts, job) * hidden),),
        table_parameters=vocab * hidden,
        stage_bytes=2.0 * tokens * hidden,
        tied=float(model.tied_embeddings),
        mtp_layers=float(job.mtp_layers),
        trained=job.trained,
        imbalance=job.imbalance,
    )


def own_tokens(layouts: TrainingLayouts, job: Job) -> Floats:
    """Tokens of a rank outside the tensor-parallel blocks."""
    tokens = layouts.micro_batch * job.sequence_length / layouts.cp
    return np.where(layouts.sequence_parallel > 0, tokens / layouts.tp, tokens)


def _layer(
    layer: LayerType, model: ModelSpec, layouts: TrainingLayouts, job: Job, count: int
) -> Layer:
    tp, hidden = layouts.tp.astype(np.float64), model.hidden_size
    experts = layer.ffn.num_experts if isinstance(layer.ffn, MoeFfn) else 0
    local = np.ceil(experts / layouts.ep)
    dense = np.zeros(len(layouts))
    routed = np.zeros(len(layouts))
    for linear in layer_linears(layer, hidden):
        if linear.part == "experts":
            one = parameters(linear) / linear.copies
            held = shards(linear.units, layouts.etp.astype(np.float64)) / linear.units
            routed += local * one * held
        else:
            degree = 1.0 if linear.split == "none" else shards(linear.units, tp) / linear.units
            dense += parameters(linear) * degree
    works = (
        *_attention(layer, hidden, layouts, job),
        *(
            _dense_ffn(layer.ffn, hidden, layouts, job)
            if isinstance(layer.ffn, DenseFfn)
            else _moe_ffn(layer.ffn, hidden, layouts, job)
        ),
    )
    return Layer(works, float(count), dense, routed, local)


def product(
    name: str,
    linears: tuple[Linear, ...],
    rows: Floats,
    degree: Floats,
    module: int,
    copies: Column = 1.0,
) -> Work:
    """rows x k by k x n, linears of one input side by side; each operand crosses HBM once. `copies`
    experts share the rows evenly."""
    n = sum(
        (x.outputs * (shards(x.units, degree) / x.units if x.split == "outputs" else 1.0))
        for x in linears
    )
    first = linears[0]
    k = first.inputs * (shards(first.units, degree) / first.units if first.split == "inputs" else 1)
    k, n = k * np.ones_like(degree), n * np.ones_like(degree)
    held = copies * k * n
    return Work(
        name,
        "gemm" if first.copies == 1 else "grouped",
        flops=2.0 * rows * n * k,
        bytes=2.0 * (rows * n + rows * k + held),
        module=module,
        low=0.0 if first.part == "router" else 1.0,
        weights=held,
        tiles=rows / copies * n / TILE,
        aligned=((n % 64 == 0) & (k % 64 == 0)) * 1.0,
    )


def _fused(linears: Iterator[Linear]) -> dict[str, tuple[Linear, ...]]:
    found: dict[str, tuple[Linear, ...]] = {}
    for linear in linears:
        if linear.gemm:
            name = FUSED.get(linear.name, linear.name)
            same = found.get(name, ())
            alike = not same or (same[0].inputs, same[0].part) == (linear.inputs, linear.part)
            key = name if alike else f"{linear.name}_{linear.part}"
            found[key] = (*found.get(key, ()), linear)
    return found


def _attention(layer: LayerType, hidden: int, layouts: TrainingLayouts, job: Job) -> Iterator[Work]:
    tp = layouts.tp.astype(np.float64)
    tokens = layouts.micro_batch * job.sequence_length / layouts.cp
    for name, linears in _fused(attention_linears(layer.attention, hidden)).items():
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


def _dense_ffn(ffn: DenseFfn, hidden: int, layouts: TrainingLayouts, job: Job) -> Iterator[Work]:
    tp = layouts.tp.astype(np.float64)
    tokens = layouts.micro_batch * job.sequence_length / layouts.cp
    for name, linears in _fused(ffn_linears(ffn, hidden)).items():
        yield product(name, linears, tokens, tp, MLP)
    size = shards(ffn.intermediate_size, tp)
    yield Work("activation", "memory", 0.0, 2.0 * tokens * (2 + ffn.gated) * size, module=MLP)
    norms = 10.0 * own_tokens(layouts, job) * hidden
    yield Work("ffn_norms", "memory", 0.0, norms, module=MLP | NORMS)
    yield Work("ffn_tp", "tp", 0.0, 2.0 * tokens * hidden, module=MLP)


def _moe_ffn(ffn: MoeFfn, hidden: int, layouts: TrainingLayouts, job: Job) -> Iterator[Work]:
    """Routed rows are spread evenly over the ep ranks; `imbalance` prices the hottest."""
    tp, ep = layouts.tp.astype(np.float64), layouts.ep
    etp = layouts.etp.astype(np.float64)
    tokens = layouts.micro_batch * job.sequence_length / layouts.cp
    own, top = tokens / tp, ffn.num_experts_per_token
    rows, local = own * top * etp, np.ceil(ffn.num_experts / ep)
    for name, linears in _fused(ffn_linears(ffn, hidden)).items():
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
