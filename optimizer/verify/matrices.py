"""The matrices that the fullest rank holds, one by one, and their bytes to the last scale.

Derived from the models' published code, not from the planner: what a tensor-parallel rank holds of
a layer is counted in heads and in columns, and each matrix is written down as this rank stores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from optimizer.verify.document import Json, Unreadable

FORMATS: dict[str, tuple[int, tuple[int, int, int] | None]] = {
    # name: (bits an element, (inputs, outputs, bytes of the scale) of one block)
    "fp32": (32, None),
    "bf16": (16, None),
    "fp16": (16, None),
    "fp8": (8, None),
    "fp8_block": (8, (128, 128, 4)),
    "int8": (8, None),
    "nvfp4": (4, (16, 1, 1)),
    "mxfp4": (4, (32, 1, 1)),
    "int4": (4, (32, 1, 2)),
    "int4_g128": (4, (128, 1, 2)),
}


class Matrix(NamedTuple):
    """inputs x outputs on one rank; `part` names its format, `copies` counts routed experts."""

    part: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    product: bool = True  # whether a matrix product reads it (norms and tables: no)


def up(amount: int, parts: int) -> int:
    """The largest share when `amount` is dealt out to `parts`."""
    return -(-amount // parts)


def stored_bytes(inputs: int, outputs: int, kind: str) -> int:
    """Bytes of a matrix and the scales of its blocks, the last ones perhaps not full."""
    if kind not in FORMATS:
        raise Unreadable(f"{kind!r} is no number format that is known here")
    bits, block = FORMATS[kind]
    total = up(inputs * outputs * bits, 8)
    if block is not None:
        total += up(inputs, block[0]) * up(outputs, block[1]) * block[2]
    return total


def matrix_bytes(matrix: Matrix, precision: Json) -> int:
    """Bytes of all copies of a matrix; a bias is kept in the norms' format."""
    one = stored_bytes(matrix.inputs, matrix.outputs, precision[matrix.part])
    if matrix.bias:
        one += stored_bytes(1, matrix.outputs, precision["norm"])
    return one * matrix.copies


def attention_matrices(attention: Json, hidden: int, tp: int) -> Iterator[Matrix]:
    """Projections, gates, norms and sinks of one attention layer."""
    kind = attention["kind"]
    if kind == "gqa":
        queries = up(attention["num_heads"], tp) * attention["head_dim"]
        keys = up(attention["num_kv_heads"], tp) * attention["head_dim"]
        bias = attention["bias"] or attention["qkv_bias"]
        gated = 2 if attention["output_gate"] else 1
        yield Matrix("attention", hidden, gated * queries, bias)
        yield Matrix("attention", hidden, keys, bias)
        yield Matrix("attention", hidden, keys, bias)
        yield Matrix("attention", queries, hidden, attention["bias"])
        if attention["qk_norm"]:
            yield Matrix("norm", 2, attention["head_dim"], product=False)
        if attention["qk_norm_full"]:
            yield Matrix("norm", 1, queries, product=False)
            yield Matrix("norm", 1, keys, product=False)
        if attention["sinks"]:
            yield Matrix("norm", 1, up(attention["num_heads"], tp), product=False)
    elif kind == "mla":
        yield from _latent(attention, hidden, tp)
    elif kind == "linear":
        keys = 2 * attention["num_key_heads"] * attention["key_head_dim"]
        values = attention["num_value_heads"] * attention["value_head_dim"]
        value_heads = up(attention["num_value_heads"], tp)
        own_values = value_heads * attention["value_head_dim"]
        key_heads = up(attention["num_key_heads"], tp)
        yield Matrix("attention", hidden, 2 * key_heads * attention["key_head_dim"])
        yield Matrix("attention", hidden, own_values)
        yield Matrix("attention", hidden, own_values)
        yield Matrix("router", hidden, 2 * value_heads)
        yield Matrix("attention", own_values, hidden)
        channels = (keys + values) // attention["num_key_heads"] * key_heads
        yield Matrix("norm", attention["conv_kernel"], channels, product=False)
        yield Matrix("norm", 2, value_heads, product=False)
        yield Matrix("norm", 1, attention["value_head_dim"], product=False)
    else:
        raise Unreadable(f"{kind!r} is no attention that is known here")


def _latent(attention: Json, hidden: int, tp: int) -> Iterator[Matrix]:
    heads, rank = up(attention["num_heads"], tp), attention["q_lora_rank"]
    nope, rope = attention["qk_nope_head_dim"], attention["qk_rope_head_dim"]
    latent, values = attention["kv_lora_rank"], attention["v_head_dim"]
    if rank is not None:
        yield Matrix("attention", hidden, rank)
    yield Matrix("attention", rank or hidden, heads * (nope + rope))
    yield Matrix("attention", hidden, latent + rope)
    yield Matrix("attention", latent, heads * (nope + values))
    yield Matrix("attention", heads * values, hidden)
    yield Matrix("norm", 1, (rank or 0) + latent, product=False)
    indexer = attention["indexer"]
    if indexer is not None:
        size = indexer["head_dim"]
        yield Matrix("attention", rank or hidden, indexer["num_heads"] * size)
        yield Matrix("attention", hidden, size)
        yield Matrix("router", hidden, indexer["num_heads"])
        yield Matrix("norm", 2, size, product=False)


def _mlp(part: str, ffn: Json, hidden: int, size: int, bias: bool, copies: int) -> Iterator[Matrix]:
    for _ in range(2 if ffn["gated"] else 1):
        yield Matrix(part, hidden, size, bias, copies)
    yield Matrix(part, size, hidden, bias, copies)


def ffn_matrices(
    ffn: Json, hidden: int, tp: int, ep: int, etp: int, redundant: int = 0
) -> Iterator[Matrix]:
    """The feed-forward network of one layer, dense or routed, with second copies of experts."""
    if ffn["kind"] == "dense":
        size = up(ffn["intermediate_size"], tp)
        yield from _mlp("ffn", ffn, hidden, size, ffn["bias"], 1)
        return
    if ffn["kind"] != "moe":
        raise Unreadable(f"{ffn['kind']!r} is no feed-forward network that is known here")
    experts = ffn["num_experts"]
    yield Matrix("router", hidden, experts, ffn["bias"])
    if ffn["router_correction"]:
        yield Matrix("norm", 1, experts, product=False)
    size = up(ffn["intermediate_size"], etp)
    yield from _mlp("experts", ffn, hidden, size, ffn["bias"], up(experts + redundant, ep))
    if ffn["shared_intermediate_size"]:
        shared = up(ffn["shared_intermediate_size"], tp)
        yield from _mlp("shared_experts", ffn, hidden, shared, False, 1)
        if ffn["shared_gate"]:
            yield Matrix("router", hidden, 1)


def layer_matrices(
    model: Json, name: str, layout: dict[str, int], redundant: int = 0
) -> list[Matrix]:
    """All that the fullest rank holds of one layer of the named type."""
    layer, hidden = model["layer_types"][name], model["hidden_size"]
    tp, ep, etp = layout["tp"], layout["ep"], layout["etp"]
    return [
        *attention_matrices(layer["attention"], hidden, layout["tp"]),
        *ffn_matrices(layer["ffn"], hidden, tp, ep, etp, redundant),
        Matrix("norm", 2, hidden, product=False),  # before attention, before the FFN
    ]
