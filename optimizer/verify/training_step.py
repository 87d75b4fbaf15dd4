"""A training plan's step: FLOPs from the model, seconds from the chunks, the pipeline of both."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, degrees, layer_types, number, quantity
from optimizer.verify.finding import ROUNDING, Outcome, at_most, equal
from optimizer.verify.gpus import live_gpus, pool_of
from optimizer.verify.matrices import layer_matrices
from optimizer.verify.training_stages import predicted_layers

BUSY = ("forward", "backward", "recompute", "tp", "ep", "cp", "fsdp", "launch")
ONCE = ("bubble", "pp", "dp", "optimizer", "other")
SUMS = 1e-9  # share by which sums over all layers may differ in the order of additions
FLOPS = 1e-6
UNCUT = dict.fromkeys(("pp", "vp", "ep", "etp", "edp", "tp", "cp", "dp", "replicas", "width"), 1)


def token_flops(plan: Json, name: str) -> float:
    """Model FLOPs of one token in one layer, forward and backward: 6 a matrix parameter that it
    crosses, and 12 a score that a causal query reads; recomputation is none."""
    model, length = plan["model"], count(plan["workload"]["sequence_length"], 1)
    layer = model["layer_types"][name]
    crossed = 0.0
    for matrix in layer_matrices(model, name, UNCUT):
        copies = layer["ffn"]["num_experts_per_token"] if matrix.part == "experts" else 1
        crossed += copies * matrix.inputs * matrix.outputs if matrix.product else 0
    for matrix in layer_matrices(model, name, UNCUT):
        if matrix.part == "norm":
            crossed -= matrix.inputs * matrix.outputs if matrix.product else 0
    attention = layer["attention"]
    if attention["kind"] == "linear":
        return 6.0 * crossed
    read = length / 2
    for reach in (attention.get("window"), attention.get("chunk")):
        if reach is not None:
            read = min(read, float(reach))
    if attention["kind"] == "mla":
        width = attention["qk_nope_head_dim"] + attention["qk_rope_head_dim"]
        width += attention["v_head_dim"]
    else:
        width = 2 * attention["head_dim"]
    return float(6.0 * crossed + 6.0 * read * attention["num_heads"] * width)


def model_flops(plan: Json) -> float:
    """Model FLOPs of a step: all layers, the head for each token once, MTP layers with theirs."""
    model, workload = plan["model"], plan["workload"]
    names = layer_types(model)
    head = 6.0 * model["hidden_size"] * model["vocab_size"]
    ahead = token_flops(plan, names[-1]) + 12.0 * model["hidden_size"] ** 2 + head
    known = {name: token_flops(plan, name) for name in set(names)}
    one = sum(known[name] for name in names) + head + predicted_layers(plan) * ahead
    tokens = count(workload["global_batch"], 1) * count(workload["sequence_length"], 1)
    return float(one * tokens)


def training_flops(plan: Json) -> Iterator[Outcome]:
    """Model FLOPs, and the MFU that follows from them."""
    flops = model_flops(plan)
    for deployment in plan["deployments"]:
        told = deployment["training"]
        exact = all(
            layer["attention"]["kind"] != "linear"
            and all(layer["attention"].get(name) is None for name in ("window", "indexer"))
            for layer in plan["model"]["layer_types"].values()
        )
        off = FLOPS if exact else 0.05
        yield equal("model FLOPs of a step", told["model_flops"], flops, off)
        rates = pool_of(plan, deployment)["gpu"]["flops"]
        kind = next((name for name in ("bf16", "fp32", "fp8") if name in rates), "bf16")
        peak = quantity(rates[kind], "FLOP/s") * count(deployment["gpus"], 1)
        step_s = number(plan["predictions"]["step_s"]["value"])
        share = number(told["model_flops"]) / (peak * step_s)
        yield equal("MFU", plan["predictions"]["mfu"]["value"], share, ROUNDING)
        fastest = max(quantity(rate, "FLOP/s") for rate in rates.values())
        at_best = number(told["model_flops"]) / (fastest * count(deployment["gpus"], 1))
        yield at_most("a step at the highest rate of all GPUs, s", at_best, step_s)


def layer_seconds(plan: Json) -> Iterator[Outcome]:
    """Seconds of a layer are the sum of what they go to; full recomputation repeats the forward."""
    for deployment in plan["deployments"]:
        for work in deployment["training"]["layers"]:
            what = f"{work['part']} ({work['recompute']})"
            both = number(work["forward_s"]) + number(work["backward_s"])
            yield equal(f"{what}, s", both, sum(map(number, work["seconds"].values())), SUMS)
            weights = number(work["weight_gradient_s"])
            yield at_most(f"{what} weight gradient, s", weights, work["backward_s"])
            repeats = number(work["seconds"]["recompute"])
            mode = work["recompute"]
            due = repeats > 0 if mode == "full" else repeats >= 0 if mode != "none" else not repeats
            yield due, f"{what}: repeats {repeats:.4g} s"


def joint_counts(plan: Json) -> Iterator[Outcome]:
    """Every choice that memory binds was beaten by a bound, solved, or is said to be unproven."""
    for deployment in plan["deployments"]:
        told = deployment["training"]["joint"]
        names = ("within_reach", "bounded", "solved", "better", "unproven")
        reach, bounded, solved, better, unproven = (count(told[name]) for name in names)
        least, most = bounded + solved, bounded + solved + unproven
        yield least <= reach <= most, f"{reach} within reach, {least} to {most} told of"
        yield better <= solved, f"{better} better of {solved} solved"
        yield equal("status", told["status"], "FEASIBLE" if unproven else "OPTIMAL")


def pipeline(plan: Json) -> Iterator[Outcome]:
    """Micro-batches on the slowest stage, the wait of its schedule, and what happens once a step
    make up the step; tokens follow."""
    predicted = {name: number(told["value"]) for name, told in plan["predictions"].items()}
    for deployment in plan["deployments"]:
        layout, told = degrees(deployment), deployment["training"]
        many, pp = count(told["micro_batches"], 1), layout["pp"]
        both, weights = [0.0] * pp, [0.0] * pp
        for chunk in told["chunks"]:
            stage = count(chunk["stage"], 0, pp - 1)
            both[stage] += number(chunk["forward_s"]) + number(chunk["backward_s"])
            weights[stage] += number(chunk["weight_gradient_s"])
        spent = {name: number(value) for name, value in told["step_seconds"].items()}
        yield equal("what a step goes to", sorted(spent), sorted((*BUSY, *ONCE)))
        slowest = both.index(max(both))
        busy = sum(spent[name] for name in BUSY)
        yield equal("micro-batches on the slowest stage, s", busy, many * both[slowest], SUMS)
        send = spent["pp"] / many
        waiting = sum(both) - both[slowest] + (pp - 1) * send
        if told["schedule"] == "zero_bubble":
            waiting -= 2 * (sum(weights) - weights[slowest])
        bubble = max(0.0, waiting) / layout["vp"] if pp > 1 else 0.0
        yield equal("bubble, s", spent["bubble"], bubble, SUMS)
        yield at_most("sends, s", spent["pp"], 2 * layout["vp"] * many * number(told["send_s"]))
        whole = sum(number(each["seconds"]) for each in told["collectives"])
        if told["sharding"] in ("none", "optimizer"):
            yield at_most("gradients and parameters between ranks, s", spent["dp"], whole * 1.5)
        yield equal("the step, s", predicted["step_s"], sum(spent.values()), SUMS)
        yield min(spent.values()) >= 0, f"the smallest of them: {min(spent.values()):.4g} s"
    tokens = count(plan["workload"]["global_batch"], 1) * plan["workload"]["sequence_length"]
    rate = tokens / predicted["step_s"]
    yield equal("tokens/s", predicted["tokens_per_s"], rate, ROUNDING)
    per_gpu = predicted["tokens_per_s_per_gpu"] * len(live_gpus(plan))
    yield equal("tokens/s of all live GPUs", predicted["tokens_per_s"], per_gpu, ROUNDING)
    fullest = max(number(each["memory"]["fullest_bytes"]) for each in plan["deployments"])
    yield equal("memory, bytes", predicted["memory_bytes"], fullest, ROUNDING)
