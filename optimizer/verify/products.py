"""The arithmetic of a layer on one rank: matrix shapes and attention operations, from the specs."""

from __future__ import annotations

from optimizer.verify.document import Json, Unreadable, degrees, number
from optimizer.verify.matrices import Matrix, attention_matrices, ffn_matrices, up


def shapes(model: Json, part: str, layout: dict[str, int]) -> tuple[list[Matrix], list[Matrix]]:
    """Matrices that a part multiplies with: those every token crosses, and those of one expert."""
    hidden, tp = model["hidden_size"], layout["tp"]
    if part == "head":
        return [Matrix("head", hidden, up(model["vocab_size"], tp))], []
    if part not in model["layer_types"]:
        return [], []
    layer = model["layer_types"][part]
    found = [
        *attention_matrices(layer["attention"], hidden, tp),
        *ffn_matrices(layer["ffn"], hidden, tp, layout["ep"], layout["etp"]),
    ]
    products = [matrix for matrix in found if matrix.product]
    return (
        [matrix for matrix in products if matrix.part != "experts"],
        [matrix for matrix in products if matrix.part == "experts"],
    )


def attention_flops(attention: Json, point: Json, tp: int) -> float:
    """Operations of attention itself: a multiplication and an addition for each element of scores
    and of values (or of the recurrent state: decay, update, read)."""
    tokens, context = number(point["tokens"]), number(point["context"])
    if attention["kind"] == "linear":
        head = attention["key_head_dim"] * attention["value_head_dim"]
        update: float = tokens * up(attention["num_value_heads"], tp) * head * 3 * 2
        return update
    heads = up(attention["num_heads"], tp)
    if attention["kind"] == "gqa":
        if attention["window"] is not None:
            context = min(context, attention["window"])
        elif attention["chunk"] is not None and context > attention["chunk"]:
            context = attention["chunk"] / 2
        whole: float = tokens * context * heads * attention["head_dim"] * 2 * 2
        return whole
    if attention["kind"] != "mla":
        raise Unreadable(f"{attention['kind']!r} is no attention that is known here")
    rope, latent = attention["qk_rope_head_dim"], attention["kv_lora_rank"]
    if tokens > number(point["sequences"]):  # prefill: keys and values are expanded for each head
        pair: int = attention["qk_nope_head_dim"] + rope + attention["v_head_dim"]
    else:  # decode: scores and values are taken in the latent space
        pair = latent + rope + latent
    picking: float = 0.0
    if attention["indexer"] is not None:
        index = attention["indexer"]
        picking = tokens * context * index["num_heads"] * index["head_dim"] * 2
        context = min(context, index["top_k"])
    return tokens * context * heads * pair * 2 + picking


def own_point(plan: Json, deployment: Json, phase: str) -> dict[str, float]:
    """The step that a phase's first grid point must be: the plan's own operating point."""
    batch, workload = deployment["batch"], plan["workload"]
    cp = degrees(deployment)["cp"]
    micro = up(batch["sequences_per_rank"], batch["micro_batches"])
    if workload["kind"] == "forward":
        length = workload["seq_len"]
        tokens = up(micro * length, cp)
        return {"tokens": tokens, "sequences": micro, "context": (length + 1) / 2}
    if phase == "decode":
        middle = up(2 * workload["input_len"] + workload["output_len"], 2 * cp)
        return {"tokens": micro, "sequences": micro, "context": middle}
    fresh = workload["input_len"] - workload["prefix_len"]
    chunks = up(fresh, batch["prefill_chunk"])
    middle = workload["prefix_len"] + (fresh + 1) / 2
    return {"tokens": up(fresh, chunks * cp), "sequences": 1, "context": middle}
