"""KV cache of every stage, to the byte: all planned sequences at their full length."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, Unreadable, count, degrees, is_serving
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.matrices import up
from optimizer.verify.weights import stage_layers

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
STATE_BYTES = 4  # the recurrent state of linear attention is kept in fp32
CONVOLUTION_BYTES = 2  # the convolution's last inputs in 16 bits
INDEX_SCALE_BYTES = 4  # beside each 8-bit key of a sparse indexer


def sequence_bytes(attention: Json, tokens: int, layout: dict[str, int], element: int) -> int:
    """Bytes that one sequence of `tokens` tokens leaves in one layer on one rank."""
    kind, tp = attention["kind"], layout["tp"]
    if kind == "linear":
        value_heads = up(attention["num_value_heads"], tp)
        key_size = up(attention["num_key_heads"], tp) * attention["key_head_dim"]
        value_size = value_heads * attention["value_head_dim"]
        inputs = (attention["conv_kernel"] - 1) * (2 * key_size + value_size)
        state: int = STATE_BYTES * value_size * attention["key_head_dim"]
        window: int = CONVOLUTION_BYTES * inputs
        return state + window
    if kind == "mla":
        one: int = (attention["kv_lora_rank"] + attention["qk_rope_head_dim"]) * element
        if attention["indexer"] is not None:
            one += attention["indexer"]["head_dim"] + INDEX_SCALE_BYTES
        return one * up(tokens, layout["cp"])
    if kind != "gqa":
        raise Unreadable(f"{kind!r} is no attention that is known here")
    for reach in (attention["window"], attention["chunk"]):
        if reach is not None:
            tokens = min(tokens, reach)
            break
    key_and_value: int = 2 * attention["head_dim"] * element
    heads = up(attention["num_kv_heads"], tp)
    return heads * key_and_value * up(tokens, layout["cp"])


def cache(plan: Json) -> Iterator[Outcome]:
    """The KV cache holds every sequence of a rank with all its tokens; a forward pass has none."""
    model, workload = plan["model"], plan["workload"]
    tokens = workload["input_len"] + workload["output_len"] if is_serving(plan) else 0
    for deployment in plan["deployments"]:
        layout = degrees(deployment)
        element = ELEMENT_BYTES[deployment["precision"]["kv_cache"]]
        sequences = count(deployment["batch"]["sequences_per_rank"], 1) if tokens else 0
        for stage, (names, memory) in enumerate(
            zip(stage_layers(deployment, model), deployment["memory"]["stages"], strict=True)
        ):
            derived = 0
            for name in names:
                attention = model["layer_types"][name]["attention"]
                derived += sequences * sequence_bytes(attention, tokens, layout, element)
            yield equal(
                f"stage {stage} KV cache of {sequences} sequences, bytes",
                memory["components"]["KV cache"],
                derived,
            )
