"""Shards of the matrices in spec.linears, and the products that engines make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from optimizer.operators.operator import (
    ACTIVATION_BYTES,
    Floats,
    Operator,
    memory,
    shards,
)
from optimizer.spec.formats import FORMATS, Format
from optimizer.spec.linears import Linear
from optimizer.spec.model import Precision

# Kernels of a matrix product where they are not one: the latent's up-projection is absorbed into
# the queries and into the output (mla); a shard of the head is converted for the sampler.
PRODUCT_KERNELS = {"kv_b_proj": 2.0, "head": 2.0}


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


def fused(linears: Iterable[Linear]) -> tuple[tuple[Linear, ...], ...]:
    """Matrices that engines multiply as one: same format, same input, same split."""
    found: dict[tuple[object, ...], list[Linear]] = {}
    for linear in linears:
        if linear.gemm:
            key = (linear.part, linear.inputs, linear.split, linear.copies)
            found.setdefault(key, []).append(linear)
    return tuple(tuple(each) for each in found.values())


def fused_shape(linears: Sequence[Linear], degree: Floats) -> tuple[str, Floats, Floats]:
    """(name, inputs, outputs) of the product of one rank: outputs stand side by side."""
    shapes = [shard_shape(linear, degree) for linear in linears]
    name = "/".join(linear.name for linear in linears)
    return name, shapes[0][0], sum(outputs for _, outputs in shapes) + 0.0 * degree


def products(
    linears: Iterable[Linear], group: str, tokens: Floats, degree: Floats, precision: Precision
) -> tuple[Operator, ...]:
    """The matrix products of one shard with `tokens` rows, and what quantises their inputs.

    2 m n k operations; weights, inputs and outputs cross HBM once. Inputs of block-scaled 8- and
    4-bit products are rounded by a kernel of their own (16 bits in, 8 out), once an input.
    """
    found, rounded = [], {}
    for together in fused(linears):
        name, inputs, outputs = fused_shape(together, degree)
        kind = format_of(together[0], precision)
        weights = sum(shard_bytes(linear, degree, precision) for linear in together)
        found.append(
            Operator(
                name,
                group,
                "gemm",
                flops=2.0 * tokens * outputs * inputs,
                bytes=weights + ACTIVATION_BYTES * tokens * (inputs + outputs),
                format=kind,
                kernels=PRODUCT_KERNELS.get(name, 1.0),
                m=tokens,
                n=outputs,
                k=inputs,
            )
        )
        if is_rounded(kind):
            rounded[together[0].inputs, together[0].split == "inputs"] = inputs
    if rounded:
        moved = 3.0 * tokens * sum(rounded.values())
        name = f"{group.replace(' ', '_')}_rounding"
        found.append(memory(name, group, moved, kernels=float(len(rounded))))
    return tuple(found)


def is_rounded(kind: Format) -> bool:
    """Whether a product in this format takes inputs in block-scaled 8 or 4 bits."""
    return FORMATS[kind].compute in ("fp8", "fp4") and FORMATS[kind].block_in > 0
