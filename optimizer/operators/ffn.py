"""FFN layers: dense matrices, routed and shared experts, and the collectives between the two
grids."""

from __future__ import annotations

import numpy as np

from optimizer.operators.matrices import launches, matrix_bytes, projection, shard_shape, tp_inside
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

ROUTING_KERNELS = 5.0  # top-k, counts, scatter, activation of the experts, weighted gather
ROW_TILE = 16.0  # rows of the smallest tile that a grouped GEMM computes for a touched expert


def families(part: str, layer: LayerType, model: ModelSpec) -> tuple[Family, ...]:
    """The operators of one FFN, dense or routed."""
    ffn = layer.ffn
    if isinstance(ffn, DenseFfn):
        return _dense(part, ffn, model)
    return _moe(part, ffn, model)


def _dense(part: str, ffn: DenseFfn, model: ModelSpec) -> tuple[Family, ...]:
    hidden, precision = model.hidden_size, model.precision

    def matrices(columns: Columns) -> tuple[Operator, ...]:
        tokens, tp = columns["tokens"], columns["tp"]
        products = tuple(
            projection(linear, "ffn", tokens, tp, precision) for linear in ffn_linears(ffn, hidden)
        )
        size = shards(ffn.intermediate_size, tp)
        activation = memory("ffn_activation", "ffn", 3 * ACTIVATION_BYTES * tokens * size)
        norms = memory("ffn_norms", "norms", 4 * ACTIVATION_BYTES * tokens * hidden)
        return (*products, activation, norms)

    return (
        Family(part, ("tp", "tokens"), matrices),
        Family(part, ("tp", "tokens", "span"), lambda columns: (_all_reduce(columns, hidden),)),
    )


def _all_reduce(columns: Columns, hidden: int) -> Operator:
    payload = columns["tokens"] * hidden * ACTIVATION_BYTES
    return collective(
        "ffn_all_reduce", "all_reduce", "tp", payload, columns["tp"], tp_inside(columns)
    )


def touched_experts(num_experts: float, per_token: int, total: int, tokens: Floats) -> Floats:
    """Experts of `num_experts` that at least one of `tokens` tokens picks, in the mean, when a
    token picks per_token of `total` uniformly."""
    return num_experts * (1.0 - (1.0 - per_token / total) ** tokens)


def _moe(part: str, ffn: MoeFfn, model: ModelSpec) -> tuple[Family, ...]:
    hidden, precision = model.hidden_size, model.precision
    linears = tuple(ffn_linears(ffn, hidden))
    dense = tuple(linear for linear in linears if linear.part != "experts" and linear.gemm)
    experts = tuple(linear for linear in linears if linear.part == "experts")

    def around(columns: Columns) -> tuple[Operator, ...]:
        tokens, tp = columns["tokens"], columns["tp"]
        names = {"router": "router", "shared_experts": "shared experts"}
        products = tuple(
            projection(linear, names[linear.part], tokens, tp, precision) for linear in dense
        )
        norms = memory("ffn_norms", "norms", 4 * ACTIVATION_BYTES * tokens * hidden)
        permute = ACTIVATION_BYTES * tokens / tp * hidden * 2 * ffn.num_experts_per_token
        return (*products, norms, memory("permute", "router", permute, ROUTING_KERNELS))

    def routed(columns: Columns) -> tuple[Operator, ...]:
        all_tokens = columns["tokens"] * columns["dp"] * columns["cp"]
        return tuple(_expert_gemms(experts, ffn, model, columns, all_tokens))

    def exchange(columns: Columns) -> tuple[Operator, ...]:
        return _exchange(ffn, hidden, columns)

    return (
        Family(part, ("tp", "tokens"), around),
        Family(part, ("dp", "cp", "ep", "etp", "tokens", "imbalance"), routed),
        Family(part, ("tp", "dp", "cp", "ep", "etp", "tokens", "span"), exchange),
    )


def _expert_gemms(
    experts: tuple[Linear, ...],
    ffn: MoeFfn,
    model: ModelSpec,
    columns: Columns,
    all_tokens: Floats,
) -> list[Operator]:
    ep, etp = columns["ep"], columns["etp"]
    local = np.ceil(ffn.num_experts / ep)
    hottest = np.where(ep > 1, columns["imbalance"], 1.0)
    per_token = ffn.num_experts_per_token
    pairs = np.minimum(all_tokens * per_token / ep * hottest, all_tokens * per_token)
    touched = touched_experts(1.0, per_token, ffn.num_experts, all_tokens) * local
    touched = np.maximum(np.minimum(touched, pairs), np.minimum(1.0, pairs))
    rows = np.maximum(pairs, touched * ROW_TILE / 2)
    kind = model.precision.experts
    found = []
    for linear in experts:
        inputs, outputs = shard_shape(linear, etp)
        weights = touched * matrix_bytes(inputs, outputs, kind)
        moved = weights + ACTIVATION_BYTES * pairs * (inputs + outputs)
        found.append(
            Operator(
                linear.name,
                "experts",
                "grouped_gemm",
                flops=2.0 * rows * inputs * outputs,
                bytes=moved,
                compute=FORMATS[kind].compute,
                kernels=launches(linear.name, kind),
                group_size=ep,
                m=pairs,
                n=outputs,
                k=inputs,
            )
        )
    return found


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
    stage, span = ep * etp, columns["span"]
    sent = np.where(apart, own * distinct * etp, 0.0)
    inside_tp = tp_inside(columns)
    return (
        collective("expert_dispatch", "all_to_all", "ep", sent, stage, span),
        collective("expert_combine", "all_to_all", "ep", sent, stage, span),
        collective(
            "expert_all_gather", "all_gather", "tp", np.where(apart, own, 0.0), tp, inside_tp
        ),
        collective(
            "expert_all_reduce", "all_reduce", "tp", np.where(apart, 0.0, whole), tp, inside_tp
        ),
    )
