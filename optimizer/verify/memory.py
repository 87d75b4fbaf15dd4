"""What fills a GPU beside weights and cache, and the sums over all of it.

Activations and buffers are estimates of what an engine keeps alive at its peak: another formula
than the planner's may differ by TOLERANCE. Sums, the reserve and the limit are exact.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import (
    Json,
    count,
    degrees,
    is_serving,
    is_training,
    number,
    quantity,
)
from optimizer.verify.finding import ROUNDING, Outcome, at_most, equal
from optimizer.verify.gpus import stage_pools
from optimizer.verify.matrices import up
from optimizer.verify.slots import imbalance

TOLERANCE = 0.35  # of activations and buffers, by formulas of our own
HIDDEN_BYTES = 2  # hidden states are 16 bits wide
LOGIT_BYTES = 6  # 16 bits from the head and 32 for the sampler
RESERVE_BYTES = 7 * 2**29  # 3.5 GiB where the workload states none
COMPONENTS = {
    "dense weights",
    "expert weights",
    "embedding and head",
    "KV cache",
    "activations",
    "logits",
    "communication buffers",
    "runtime reserve",
}

TRAINING_COMPONENTS = {
    "weights and gradients",
    "optimizer state",
    "activations",
    "working set",
    "logits",
    "gathered parameters",
    "workspace",
    "context",
}


def micro_sequences(deployment: Json) -> int:
    """Sequences of one attention rank in one micro-batch."""
    batch = deployment["batch"]
    return up(count(batch["sequences_per_rank"], 1), count(batch["micro_batches"], 1))


def largest_step(plan: Json, deployment: Json) -> int:
    """New tokens of one attention rank in its largest step."""
    cp, micro = degrees(deployment)["cp"], micro_sequences(deployment)
    if is_serving(plan):
        return max(up(count(deployment["batch"]["prefill_chunk"], 1), cp), micro)
    return up(micro * count(plan["workload"]["seq_len"], 1), cp)


def expert_pairs(
    plan: Json, ffn: Json, layout: dict[str, int], tokens: float, skew: float | None = None
) -> float:
    """Token-expert pairs that the hottest expert rank computes when each rank brings `tokens`;
    skew: imbalance(plan), where it is known."""
    pairs = tokens * layout["dp"] * layout["cp"] * ffn["num_experts_per_token"]
    hottest = (plan["workload"]["expert_imbalance"] or 1.0) * (
        imbalance(plan) if skew is None else skew
    )
    return float(min(pairs, pairs / layout["ep"] * hottest) if layout["ep"] > 1 else pairs)


def activation_bytes(plan: Json, deployment: Json) -> float:
    """Alive at once in the largest layer: the residual, its norm and the block's output; the wider
    of q, k, v with the attention's output and the FFN's inner layers; rows of the routed experts,
    which a caching allocator keeps beside the others."""
    layout, tokens = degrees(deployment), largest_step(plan, deployment)
    hidden = plan["model"]["hidden_size"]
    most = 0.0
    for layer in plan["model"]["layer_types"].values():
        ffn = layer["ffn"]
        widths = 3 if ffn["gated"] else 2
        routed = 0.0
        if ffn["kind"] == "moe":
            inner = widths * up(ffn["shared_intermediate_size"], layout["tp"])
            row = 2 * hidden + widths * up(ffn["intermediate_size"], layout["etp"])
            routed = expert_pairs(plan, ffn, layout, tokens) * row
        else:
            inner = widths * up(ffn["intermediate_size"], layout["tp"])
        wider = max(inner, _attention_width(layer["attention"], layout["tp"]))
        most = max(most, tokens * (3 * hidden + wider) + routed)
    return HIDDEN_BYTES * most


def _attention_width(attention: Json, tp: int) -> int:
    """Elements of q (and its gate), k, v and the output of one token on one rank."""
    width: int
    if attention["kind"] == "gqa":
        queries = up(attention["num_heads"], tp) * (3 if attention["output_gate"] else 2)
        width = (queries + 2 * up(attention["num_kv_heads"], tp)) * attention["head_dim"]
    elif attention["kind"] == "mla":
        head = attention["qk_nope_head_dim"] + attention["qk_rope_head_dim"]
        width = up(attention["num_heads"], tp) * 2 * (head + attention["v_head_dim"])
    else:
        width = 2 * up(attention["num_key_heads"], tp) * attention["key_head_dim"]
        width += 3 * up(attention["num_value_heads"], tp) * attention["value_head_dim"]
    return width


def buffer_bytes(plan: Json, deployment: Json) -> float:
    """One buffer to send from and one to receive into: hidden states, and where attention ranks
    hold different tokens also the copies that go to the experts."""
    layout = degrees(deployment)
    states = largest_step(plan, deployment) * plan["model"]["hidden_size"] * HIDDEN_BYTES
    if layout["width"] == 1:
        return 0.0
    total: float = 2.0 * states
    routed = [
        layer["ffn"]
        for layer in plan["model"]["layer_types"].values()
        if layer["ffn"]["kind"] == "moe"
    ]
    if routed and layout["dp"] * layout["cp"] > 1:
        largest = max(routed, key=lambda ffn: int(ffn["num_experts"]))
        copies = min(largest["num_experts_per_token"], layout["ep"]) * layout["etp"]
        total += 2.0 * copies * states / layout["tp"]
    return total


def activations(plan: Json) -> Iterator[Outcome]:
    """Activations, logits, buffers and the reserve, by formulas of our own."""
    stated = plan["workload"]["runtime_reserve"]
    reserve = RESERVE_BYTES if stated is None else quantity(stated, "B")
    for deployment in plan["deployments"]:
        stages = deployment["memory"]["stages"]
        own_vocabulary = up(plan["model"]["vocab_size"], degrees(deployment)["tp"])
        logits = LOGIT_BYTES * micro_sequences(deployment) * own_vocabulary
        for stage, held in enumerate(stages):
            parts = held["components"]
            last = logits if stage == len(stages) - 1 else 0
            yield equal(f"stage {stage} reserve, bytes", parts["runtime reserve"], reserve)
            yield equal(f"stage {stage} logits, bytes", parts["logits"], last, TOLERANCE)
            for name, derived in (
                ("activations", activation_bytes(plan, deployment)),
                ("communication buffers", buffer_bytes(plan, deployment)),
            ):
                yield equal(f"stage {stage} {name}, bytes", parts[name], derived, TOLERANCE)


def memory_sums(plan: Json) -> Iterator[Outcome]:
    """Components add up, the fullest stage is the fullest, and it stays below the limit."""
    for deployment in plan["deployments"]:
        memory = deployment["memory"]
        stages = memory["stages"]
        yield equal(
            "stages", [held["stage"] for held in stages], list(range(degrees(deployment)["pp"]))
        )
        for held in stages:
            names = set(held["components"])
            due = TRAINING_COMPONENTS if is_training(plan) else COMPONENTS
            yield names == due, f"components: {', '.join(sorted(names))}"
            amounts = [number(amount) for amount in held["components"].values()]
            yield min(amounts) >= 0, f"the smallest component: {min(amounts):,.0f} bytes"
            yield equal(
                f"stage {held['stage']} total, bytes",
                held["total_bytes"],
                sum(amounts),
                ROUNDING,
            )
        totals = [number(held["total_bytes"]) for held in stages]
        yield from _limits(plan, deployment, totals)


def _limits(plan: Json, deployment: Json, totals: list[float]) -> Iterator[Outcome]:
    """The fullest stage is the one that fills most of what its own GPU may hold."""
    memory, margin = deployment["memory"], number(plan["workload"]["memory_margin"])
    gpus = [quantity(pool["gpu"]["memory"], "B") for pool in stage_pools(plan, deployment)]
    limits = [gpu * (1.0 - margin) for gpu in gpus]
    for stage, (held, limit) in enumerate(zip(memory["stages"], limits, strict=True)):
        if "shares" in deployment:
            yield equal(f"stage {stage} limit, bytes", held["limit_bytes"], limit, ROUNDING)
            yield at_most(f"stage {stage}, bytes", totals[stage], limit)
        else:
            yield "limit_bytes" not in held, f"stage {stage}: one limit for all"
    filled = [total / limit for total, limit in zip(totals, limits, strict=True)]
    fullest = filled.index(max(filled))
    yield equal("the fullest stage", memory["fullest_stage"], fullest)
    yield equal("the fullest stage, bytes", memory["fullest_bytes"], totals[fullest])
    yield equal("memory of the GPU, bytes", memory["gpu_bytes"], gpus[fullest])
    yield equal("limit, bytes", memory["limit_bytes"], limits[fullest], ROUNDING)
    yield at_most("the fullest stage, bytes", memory["fullest_bytes"], memory["limit_bytes"])
