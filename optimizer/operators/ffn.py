"""FFN layers: dense matrices, routed and shared experts, and the collectives between the two
grids."""

from __future__ import annotations

import numpy as np

from optimizer.operators.experts import hottest_load, touched_experts
from optimizer.operators.matrices import (
    fused,
    fused_shape,
    is_rounded,
    products,
    shard_bytes,
)
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
from optimizer.spec.formats import FORMATS
from optimizer.spec.linears import Linear, ffn_linears
from optimizer.spec.model import DenseFfn, LayerType, ModelSpec, MoeFfn

# Kernels of a routed layer: norm, top-k and sort by expert; permute, activation, weighted sum; of
# each grouped product the offsets of its groups, its tiles, and itself; and what rounds the inputs
# of both products, with a layout of the scales and padded groups where these are 8-bit blocks.
ROUTING_KERNELS = 3.0
MOVING_KERNELS = 3.0
GROUPED_KERNELS = 3.0
ROUNDING_KERNELS = {"fp8": 6.0, "fp4": 2.0}
# SGLang's fused 8-bit experts round and move rows themselves, where every rank has all experts
# (moe-runner-backend flashinfer_trtllm and its like).
FUSING_ENGINE = "sglang"


def families(part: str, layer: LayerType, model: ModelSpec, engine: str) -> tuple[Family, ...]:
    """The operators of one FFN, dense or routed."""
    ffn = layer.ffn
    if isinstance(ffn, DenseFfn):
        return _dense(part, ffn, model)
    return _moe(part, ffn, model, engine)


def _dense(part: str, ffn: DenseFfn, model: ModelSpec) -> tuple[Family, ...]:
    hidden, precision = model.hidden_size, model.precision

    def matrices(columns: Columns) -> tuple[Operator, ...]:
        tokens, tp = columns["tokens"], columns["tp"]
        matmuls = products(ffn_linears(ffn, hidden), "ffn", tokens, tp, precision)
        size = shards(ffn.intermediate_size, tp)
        activation = memory("ffn_activation", "ffn", 3 * ACTIVATION_BYTES * tokens * size)
        norms = memory("ffn_norms", "norms", 4 * ACTIVATION_BYTES * tokens * hidden)
        return (*matmuls, activation, norms)

    return (
        Family(part, ("tp", "tokens"), matrices),
        Family(
            part,
            ("tp", "tokens", "tp_inside", "tp_leaf"),
            lambda columns: (_all_reduce(columns, hidden),),
        ),
    )


def _all_reduce(columns: Columns, hidden: int) -> Operator:
    payload = columns["tokens"] * hidden * ACTIVATION_BYTES
    inside, leaf = columns["tp_inside"], columns["tp_leaf"]
    return collective("ffn_all_reduce", "all_reduce", "tp", payload, columns["tp"], inside, leaf)


def _moe(part: str, ffn: MoeFfn, model: ModelSpec, engine: str) -> tuple[Family, ...]:
    hidden, precision = model.hidden_size, model.precision
    linears = tuple(ffn_linears(ffn, hidden))
    router = tuple(linear for linear in linears if linear.part == "router")
    shared = tuple(linear for linear in linears if linear.part == "shared_experts")

    def around(columns: Columns) -> tuple[Operator, ...]:
        tokens, tp = columns["tokens"], columns["tp"]
        routes = products(router, "router", tokens, tp, precision)
        moved = tokens * (4 * ACTIVATION_BYTES * hidden + 4.0 * ffn.num_experts)
        routing = memory("routing", "router", moved, ROUTING_KERNELS)
        if not shared:
            return (*routes, routing)
        matmuls = products(shared, "shared experts", tokens, tp, precision)
        size = shards(ffn.shared_intermediate_size, tp)
        activation = memory(
            "shared_activation", "shared experts", 3 * ACTIVATION_BYTES * tokens * size
        )
        return (*routes, routing, *matmuls, activation)

    def routed(columns: Columns) -> tuple[Operator, ...]:
        return _routed(linears, ffn, model, engine, columns)

    def exchange(columns: Columns) -> tuple[Operator, ...]:
        return _exchange(ffn, hidden, columns)

    return (
        Family(part, ("tp", "tokens"), around),
        Family(part, ("dp", "cp", "ep", "etp", "tokens", "imbalance"), routed),
        Family(
            part,
            ("tp", "dp", "cp", "ep", "etp", "tokens", "span", "leaf", "tp_inside", "tp_leaf"),
            exchange,
        ),
    )


def _routed(
    linears: tuple[Linear, ...], ffn: MoeFfn, model: ModelSpec, engine: str, columns: Columns
) -> tuple[Operator, ...]:
    """Products of the hottest expert rank over the experts that it touches, and what moves rows to
    and from them: 16-bit rows of all its pairs, whole on each of an expert's etp parts."""
    ep, etp = columns["ep"], columns["etp"]
    tokens = columns["tokens"] * columns["dp"] * columns["cp"]
    every = tokens * ffn.num_experts_per_token
    pairs = np.minimum(every / ep * np.where(ep > 1, columns["imbalance"], 1.0), every)
    rows = np.minimum(pairs * hottest_load(pairs, ep), every)
    touched = touched_experts(ffn, tokens, ep)
    kind = model.precision.experts
    found = []
    for together in fused(linear for linear in linears if linear.part == "experts"):
        name, inputs, outputs = fused_shape(together, etp)
        weights = sum(shard_bytes(linear, etp, model.precision) for linear in together)
        found.append(
            Operator(
                name,
                "experts",
                "grouped_gemm",
                flops=2.0 * rows * inputs * outputs,
                bytes=touched * weights + ACTIVATION_BYTES * rows * (inputs + outputs),
                format=kind,
                kernels=GROUPED_KERNELS,
                group_size=ep,
                m=pairs,
                n=outputs,
                k=inputs,
            )
        )
    size = shards(ffn.intermediate_size, etp)
    moved = ACTIVATION_BYTES * pairs * (4 * model.hidden_size + 3 * size)
    kernels: Floats | float = MOVING_KERNELS
    if is_rounded(kind):
        kernels += ROUNDING_KERNELS[FORMATS[kind].compute]
    if engine == FUSING_ENGINE and FORMATS[kind].compute == "fp8":
        kernels = np.where(ep > 1, kernels, 1.0)
    return (*found, memory("expert_rows", "experts", moved, kernels))


def _exchange(ffn: MoeFfn, hidden: int, columns: Columns) -> tuple[Operator, ...]:
    """How tokens reach their experts and come back.

    With dp x cp = 1 every rank already has every token and one all-reduce over the stage closes the
    block. Otherwise each rank holds tokens / tp of its own: all-to-all over the whole stage to the
    distinct expert ranks of the token (each of their etp parts needs it), all-to-all back, and an
    all-gather that restores tp.
    """
    tokens, tp, ep, etp = columns["tokens"], columns["tp"], columns["ep"], columns["etp"]
    apart = columns["dp"] * columns["cp"] > 1
    whole = tokens * hidden * ACTIVATION_BYTES
    own = whole / tp
    distinct = ep * (1.0 - (1.0 - 1.0 / ep) ** ffn.num_experts_per_token)
    stage, span, leaf = ep * etp, columns["span"], columns["leaf"]
    sent = np.where(apart, own * distinct * etp, 0.0)
    inside_tp, leaf_tp = columns["tp_inside"], columns["tp_leaf"]
    gathered, reduced = np.where(apart, own, 0.0), np.where(apart, 0.0, whole)
    return (
        collective("expert_dispatch", "all_to_all", "ep", sent, stage, span, leaf),
        collective("expert_combine", "all_to_all", "ep", sent, stage, span, leaf),
        collective("expert_all_gather", "all_gather", "tp", gathered, tp, inside_tp, leaf_tp),
        collective("expert_all_reduce", "all_reduce", "tp", reduced, tp, inside_tp, leaf_tp),
    )
