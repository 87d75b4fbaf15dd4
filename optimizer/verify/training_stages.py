"""A training plan's batch, blocks and schedule: whole micro-batches, each block once."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, Unreadable, count, degrees, layer_types, number
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal
from optimizer.verify.placement import has_experts

MODULES = ("layernorm", "core_attn", "moe_act", "mla_up_proj", "mlp", "moe")


def training_batch(plan: Json) -> Iterator[Outcome]:
    """dp x micro-batch x micro-batches is the global batch, and sequences are cut evenly."""
    workload = plan["workload"]
    for deployment in plan["deployments"]:
        layout, told, batch = degrees(deployment), deployment["training"], deployment["batch"]
        micro, many = count(told["micro_batch"], 1), count(told["micro_batches"], 1)
        total = layout["dp"] * layout["replicas"] * micro * many
        yield equal("dp x micro-batch x micro-batches", total, workload["global_batch"])
        yield equal("sequences of a rank", batch["sequences_per_rank"], micro * many)
        yield equal("micro-batches", batch["micro_batches"], many)
        yield equal("sequences at once", batch["concurrency"], workload["global_batch"])
        yield equal("of one replica", batch["concurrency_per_replica"], workload["global_batch"])
        yield equal("prefill chunk", batch["prefill_chunk"], 0)
        yield equal("replicas (training folds them into dp)", layout["replicas"], 1)
        if workload["micro_batch"] is not None:
            yield equal("stated micro-batch", micro, workload["micro_batch"])
        length, cp = count(workload["sequence_length"], 1), layout["cp"]
        yield cp == 1 or length % (2 * cp) == 0, f"{length} tokens in 2 x cp {cp} slices"
        yield cp <= workload["max_context_parallel"], f"cp {cp} within what is allowed"


def schedule_rules(plan: Json) -> Iterator[Outcome]:
    """What Megatron-LM asks of schedules, sequence parallelism and sharding."""
    workload = plan["workload"]
    for deployment in plan["deployments"]:
        layout, told = degrees(deployment), deployment["training"]
        pp, vp, tp = layout["pp"], layout["vp"], layout["tp"]
        schedule, many = told["schedule"], count(told["micro_batches"], 1)
        allowed = schedule in workload["schedules"] or (schedule == "1f1b" and pp == 1)
        yield allowed, f"schedule {schedule} of {', '.join(workload['schedules'])}"
        yield equal("interleaved where vp > 1", schedule == "interleaved", vp > 1)
        if vp > 1:
            yield pp > 1 and many % pp == 0, f"{many} micro-batches in rounds of {pp} stages"
        if schedule == "zero_bubble":
            yield pp > 1 and vp == 1, f"zero bubble over {pp} stages, vp {vp}"
        parallel = told["sequence_parallel"]
        length = count(workload["sequence_length"], 1) // layout["cp"]
        whole = not parallel or (tp > 1 and length % tp == 0)
        yield whole, f"sequence parallelism {parallel}: {length} tokens over tp {tp}"
        if has_experts(plan["model"]) and tp > 1:
            yield parallel is True, "experts under tp are trained with sequence parallelism"
        if workload["sequence_parallel"] is not None and tp > 1:
            yield equal("stated sequence parallelism", parallel, workload["sequence_parallel"])
        ranks, shard = layout["dp"] * layout["cp"], count(told["shard_ranks"], 1)
        sharding = told["sharding"]
        yield sharding in workload["sharding"], f"sharding {sharding}"
        yield equal("optimizer", told["optimizer"], workload["optimizer"])
        yield told["compute"] in workload["precision"], f"products in {told['compute']}"
        due = {"none": shard == 1, "hybrid": 1 < shard < ranks and ranks % shard == 0}
        yield due.get(sharding, shard == ranks), f"{sharding} over {shard} of {ranks} ranks"
        if sharding in ("parameters", "hybrid"):
            yield equal("stages of sharded parameters", pp, 1)


def blocks(plan: Json) -> Iterator[Outcome]:
    """Every block lies in one chunk, in order; chunks and stages agree with the placement."""
    model = plan["model"]
    names = layer_types(model)
    for deployment in plan["deployments"]:
        layout, told = degrees(deployment), deployment["training"]
        chunks = layout["pp"] * layout["vp"]
        predicted = predicted_layers(plan)
        placed = [count(chunk, 0, chunks - 1) for chunk in told["block_chunk"]]
        yield equal("blocks", len(placed), len(names) + 2 + predicted)
        yield placed == sorted(placed), "blocks lie in the order of the chunks"
        yield equal("chunks with a block", sorted(set(placed)), list(range(chunks)))
        yield equal("embedding and head", [placed[0], placed[-1]], [0, chunks - 1])
        yield equal("MTP with the head", placed[-1 - predicted :], [chunks - 1] * (1 + predicted))
        cut = deployment["placement"]["stage_layers"]
        held = [placed[1 : 1 + len(names)].count(chunk) for chunk in range(chunks)]
        yield equal("layers of the chunks", [stop - first for first, stop in cut], held)
        yield equal("layers with a recomputation", len(told["recompute"]), len(names))
        kinds = set(plan["workload"]["recompute"])
        for mode in sorted({*told["recompute"], told["mtp_recompute"]}):
            yield mode_kind(mode) in kinds or mode == told["mtp_recompute"], f"recompute {mode}"
        yield all_hold("chunks", _chunks(told, names, placed, layout["pp"], predicted))


def predicted_layers(plan: Json) -> int:
    """Multi-token-prediction layers that are trained."""
    mtp = plan["model"]["mtp"]
    return count(mtp["num_layers"]) if mtp is not None and plan["workload"]["mtp"] else 0


def mode_kind(mode: str) -> str:
    """Which allowed way to recompute a mode is."""
    if mode in ("none", "full"):
        return mode
    if not mode or not set(mode.split("+")) <= set(MODULES):
        raise Unreadable(f"{mode!r} is no recomputation that is known here")
    return "selective"


def _chunks(
    told: Json, names: list[str], placed: list[int], pp: int, predicted: int
) -> Iterator[Outcome]:
    known = {(work["part"], work["recompute"]): work for work in told["layers"]}
    parts = [("embedding", "none"), *zip(names, told["recompute"], strict=True)]
    parts += [("mtp", told["mtp_recompute"])] * min(predicted, 1) + [("head", "none")]
    where = [*placed[: 1 + len(names)], *placed[len(placed) - 1 - min(predicted, 1) :]]
    yield equal("chunks listed", [each["chunk"] for each in told["chunks"]], sorted(set(placed)))
    for chunk in told["chunks"]:
        at = chunk["chunk"]
        yield equal("its stage", chunk["stage"], at % pp)
        yield equal(
            "its blocks", chunk["blocks"], [placed.index(at), placed.index(at) + placed.count(at)]
        )
        own = [known[part] for part, place in zip(parts, where, strict=True) if place == at]
        for name in ("forward_s", "backward_s", "weight_gradient_s"):
            total = sum(number(work[name]) for work in own)
            yield equal(f"{name} of chunk {at}", chunk[name], total, ROUNDING * 100)
