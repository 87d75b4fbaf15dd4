"""Number formats of weights and caches: bits an element, block scales, what multiplies them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from optimizer.spec.cluster import ComputeType

Format = Literal[
    "fp32", "bf16", "fp16", "fp8", "fp8_block", "int8", "nvfp4", "mxfp4", "int4", "int4_g128"
]


class FormatFacts(NamedTuple):
    bits: int
    compute: ComputeType  # what the tensor cores multiply in
    block_in: int = 0  # 0: no scales
    block_out: int = 0
    scale_bytes: int = 0


FORMATS: dict[Format, FormatFacts] = {
    "fp32": FormatFacts(32, "fp32"),
    "bf16": FormatFacts(16, "bf16"),
    "fp16": FormatFacts(16, "bf16"),
    "fp8": FormatFacts(8, "fp8"),
    "fp8_block": FormatFacts(8, "fp8", 128, 128, 4),  # DeepSeek-V3: one fp32 scale a 128 x 128 tile
    "int8": FormatFacts(8, "int8"),
    "nvfp4": FormatFacts(4, "fp4", 16, 1, 1),  # one fp8 scale for 16 elements
    "mxfp4": FormatFacts(4, "bf16", 32, 1, 1),  # one e8m0 scale for 32 elements
    "int4": FormatFacts(4, "bf16", 32, 1, 2),  # Kimi-K2.5: groups of 32, bf16 scales
    "int4_g128": FormatFacts(4, "bf16", 128, 1, 2),
}


def matrix_bytes(inputs: int, outputs: int, kind: Format) -> int:
    """Bytes of one inputs x outputs matrix with its block scales, rounded up to whole blocks."""
    facts = FORMATS[kind]
    weights = -(-inputs * outputs * facts.bits // 8)
    if not facts.block_in:
        return weights
    return weights + -(-inputs // facts.block_in) * -(-outputs // facts.block_out) * (
        facts.scale_bytes
    )
