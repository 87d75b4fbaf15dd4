"""Shards of the matrices in spec.linears: the shape and the bytes that one rank holds."""

from __future__ import annotations

import numpy as np

from optimizer.operators.operator import Columns, Floats, Operator, gemm, shards
from optimizer.spec.formats import FORMATS, Format
from optimizer.spec.linears import Linear
from optimizer.spec.model import Precision


def format_of(linear: Linear, precision: Precision) -> Format:
    kind: Format = getattr(precision, linear.part)
    return kind


def shard_shape(linear: Linear, degree: Floats) -> tuple[Floats, Floats]:
    """(inputs, outputs) of the fullest rank of `degree` ranks, one matrix of any copies."""
    whole = np.ones_like(degree)
    held = shards(linear.units, degree)
    inputs, outputs = linear.inputs * whole, linear.outputs * whole
    if linear.split == "inputs":
        inputs = inputs * held / linear.units  # multiplied first: whole numbers stay exact
    elif linear.split == "outputs":
        outputs = outputs * held / linear.units
    return inputs, outputs


def matrix_bytes(inputs: Floats, outputs: Floats, kind: Format) -> Floats:
    """Bytes of inputs x outputs with whole block scales; columns of spec.formats.matrix_bytes."""
    facts = FORMATS[kind]
    weights: Floats = np.ceil(inputs * outputs * facts.bits / 8)
    if not facts.block_in:
        return weights
    blocks: Floats = np.ceil(inputs / facts.block_in) * np.ceil(outputs / facts.block_out)
    return weights + blocks * facts.scale_bytes


def shard_bytes(linear: Linear, degree: Floats, precision: Precision) -> Floats:
    """Bytes of one copy of a matrix on the fullest of `degree` ranks, its bias included."""
    inputs, outputs = shard_shape(linear, degree)
    total = matrix_bytes(inputs, outputs, format_of(linear, precision))
    if linear.bias:
        total = total + matrix_bytes(np.ones_like(outputs), outputs, precision.norm)
    return total


# Matrices that every engine multiplies together with a neighbour that reads the same input.
FUSED = frozenset(
    [
        "k_proj",
        "v_proj",
        "kv_a_proj",
        "z_proj",
        "ba_proj",
        "indexer_k_proj",
        "indexer_weights",
        "gate",
        "shared_gate",
        "expert_gate",
    ]
)


def launches(name: str, kind: Format) -> float:
    """Kernels that one matrix product starts: none when fused, one more to quantise its input in
    blocks (Hopper and Blackwell kernels of vLLM, SGLang and TensorRT-LLM)."""
    if name in FUSED:
        return 0.0
    quantised = FORMATS[kind].compute in ("fp8", "fp4") and FORMATS[kind].block_in > 0
    return 2.0 if quantised else 1.0


def projection(
    linear: Linear, group: str, tokens: Floats, degree: Floats, precision: Precision
) -> Operator:
    """The matrix product of one shard with `tokens` rows."""
    inputs, outputs = shard_shape(linear, degree)
    kind = format_of(linear, precision)
    weights = shard_bytes(linear, degree, precision)
    compute, kernels = FORMATS[kind].compute, launches(linear.name, kind)
    return gemm(linear.name, group, tokens, outputs, inputs, weights, compute, kernels)


def tp_inside(columns: Columns) -> Floats:
    """Ranks of a tensor-parallel group in one domain: tp is the innermost axis of a stage."""
    return np.minimum(columns["tp"], columns["span"])
