"""Memory of a training plan by stage, from parameter counts of its own and the layers' activations.

Weights, gradients and optimizer state follow from the matrices to within norms and biases that
planners round (STATIC). Activations are formulas after Korthikanti et al., 2022, written down anew:
a planner's fitted share may differ by ACTIVATIONS.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, degrees, layer_types, number, quantity
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.gpus import pool_of
from optimizer.verify.matrices import layer_matrices, up
from optimizer.verify.memory import expert_pairs
from optimizer.verify.training_stages import predicted_layers

STATIC = 0.01
ACTIVATIONS = 0.2
MASTER_BYTES = {"adam": 12}  # a parameter: fp32 weights and moments
WEIGHT_BYTES = 2
SLOWER = 3.0  # links reach at least a third of their rate
HOP_S = 1e-3  # starts of all hops together
MOST_RAILS = 1024  # links that one ring uses at once
PADDED = 128  # the vocabulary is padded to so many rows a rank


def layer_parameters(plan: Json, deployment: Json, name: str) -> tuple[float, float]:
    """(dense, expert) parameters that a rank holds of one layer."""
    dense, routed = 0.0, 0.0
    for matrix in layer_matrices(plan["model"], name, degrees(deployment)):
        many = matrix.copies * (matrix.inputs + matrix.bias) * matrix.outputs
        if matrix.part == "experts":
            routed += many
        else:
            dense += many
    return dense, routed


def state_bytes(deployment: Json, dense: float, routed: float) -> float:
    """Optimizer bytes of a rank: over the ranks that share them."""
    layout, told = degrees(deployment), deployment["training"]
    if told["sharding"] == "none":
        ranks, copies = 1, 1
    else:
        ranks = count(told["shard_ranks"], 1)
        copies = layout["edp"] if routed else 1
    return float(MASTER_BYTES[told["optimizer"]] * (dense / ranks + routed / copies))


def kept_bytes(plan: Json, deployment: Json, name: str, mode: str) -> float:
    """Activations that one layer keeps of a micro-batch until its backward."""
    layout, told, model = degrees(deployment), deployment["training"], plan["model"]
    tp, hidden = layout["tp"], model["hidden_size"]
    tokens = count(told["micro_batch"], 1) * plan["workload"]["sequence_length"] / layout["cp"]
    own = tokens / tp if told["sequence_parallel"] else tokens
    if mode == "full":
        return float(2.0 * own * hidden)
    modules = mode.split("+")
    layer = model["layer_types"][name]
    attention, ffn = layer["attention"], layer["ffn"]
    low = 0.55 if told["compute"] != "bf16" else 1.0
    masks = 0.0 if ffn.get("gated", True) else 1.0
    block = (2 + 2 * low + masks) * own * hidden * (0.7 if "layernorm" in modules else 1.0)
    total: float = 2 * block + _attention_kept(attention, tp, tokens, low, "mla_up_proj" in modules)
    if ffn["kind"] == "dense":
        inner = (1 + ffn["gated"] + low) * up(ffn["intermediate_size"], tp)
        return float(total + (0.0 if "mlp" in modules else 2.0 * tokens * inner))
    if "moe" in modules:
        return total
    rows = expert_rows(plan, ffn, layout, tokens)
    activated = 0.0 if "moe_act" in modules else low
    inner = (1 + ffn["gated"] + activated) * up(ffn["intermediate_size"], layout["etp"])
    shared = (2 + ffn["gated"]) * up(ffn["shared_intermediate_size"], tp)
    total += 2.0 * rows * (low * hidden + inner) + 2.0 * tokens * shared
    return total


def expert_rows(plan: Json, ffn: Json, layout: dict[str, int], tokens: float) -> float:
    """Token-expert pairs of a rank where experts are picked evenly."""
    even = {**plan, "workload": {**plan["workload"], "expert_imbalance": None}}
    pairs = expert_pairs(even, ffn, layout, tokens / layout["tp"]) * layout["tp"]
    return pairs / layout["edp"]


def _attention_kept(attention: Json, tp: int, tokens: float, low: float, again: bool) -> float:
    if attention["kind"] == "gqa":
        queries = up(attention["num_heads"], tp) * attention["head_dim"]
        keys = up(attention["num_kv_heads"], tp) * attention["head_dim"]
        return float(2.0 * tokens * (queries + 2 * keys + low * queries))
    if attention["kind"] == "mla":
        head = attention["qk_nope_head_dim"] + attention["qk_rope_head_dim"]
        heads = up(attention["num_heads"], tp)
        small = (attention["q_lora_rank"] or 0) + attention["kv_lora_rank"]
        small += attention["qk_rope_head_dim"]
        large = 0 if again else heads * (2 * head + attention["v_head_dim"])
        return float(2.0 * tokens * (small + large + low * heads * attention["v_head_dim"]))
    width = 2 * up(attention["num_key_heads"], tp) * attention["key_head_dim"]
    width += 3 * up(attention["num_value_heads"], tp) * attention["value_head_dim"]
    return float(2.0 * tokens * width)


def in_flight(layout: dict[str, int], micro_batches: int, stage: int) -> float:
    """Micro-batches that a stage keeps: pp - stage, no more than there are and one at least.
    Interleaved, passes of one chunk ahead of the first backward, that one's own included."""
    pp, vp = layout["pp"], layout["vp"]
    if vp == 1:
        return max(1.0, min(float(pp - stage), float(micro_batches)))
    ahead = 2 * (pp - stage - 1) + (vp - 1) * pp
    return max(1.0, min((ahead + 1) / vp, float(micro_batches)))


def layer_sizes(plan: Json) -> Iterator[Outcome]:
    """Parameters and activations of one layer of each sort, and what a stage hands on."""
    model = plan["model"]
    names, hidden = layer_types(model), count(model["hidden_size"], 1)
    for deployment in plan["deployments"]:
        told, tp = deployment["training"], degrees(deployment)["tp"]
        table = PADDED * up(model["vocab_size"], PADDED * tp) * hidden
        for work in told["layers"]:
            part, mode, many = work["part"], work["recompute"], 1
            if part in ("embedding", "head"):
                due = (float(table), 0.0, 0.0)
            else:
                name = names[-1] if part == "mtp" else part
                many = predicted_layers(plan) if part == "mtp" else 1
                due = (
                    *layer_parameters(plan, deployment, name),
                    kept_bytes(plan, deployment, name, mode),
                )
            what = f"{part} ({mode})"
            dense, routed, kept = (many * amount for amount in due)
            yield equal(f"{what} dense parameters", work["dense_parameters"], dense, STATIC)
            yield equal(f"{what} expert parameters", work["expert_parameters"], routed, STATIC)
            yield equal(f"{what} kept, bytes", work["kept_bytes"], kept, ACTIVATIONS)
        yield from _sent(plan, deployment)


def _sent(plan: Json, deployment: Json) -> Iterator[Outcome]:
    """Bytes of sends and of what runs once a step; a send is no faster than its link."""
    layout, told = degrees(deployment), deployment["training"]
    pool = pool_of(plan, deployment)
    tokens = told["micro_batch"] * plan["workload"]["sequence_length"] / layout["cp"]
    sent = 2.0 * tokens * plan["model"]["hidden_size"] if layout["pp"] > 1 else 0.0
    yield equal("bytes to the next stage", told["send_bytes"], sent)
    links = [quantity(pool[tier]["bandwidth"], "B/s") for tier in ("intra_node", "inter_node")]
    least, most = sent / layout["tp"] / max(links), sent / min(links) * SLOWER + HOP_S
    seconds = number(told["send_s"])
    yield least <= seconds <= most, f"a send takes {seconds:.4g} s of {least:.4g} to {most:.4g}"
    names, chunk_of = layer_types(plan["model"]), told["block_chunk"][1:]
    held = {"dp": [0.0] * layout["pp"], "edp": [0.0] * layout["pp"]}
    for name, chunk in zip(names, chunk_of, strict=False):
        dense, routed = layer_parameters(plan, deployment, name)
        held["dp"][chunk % layout["pp"]] += dense
        held["edp"][chunk % layout["pp"]] += routed
    sizes = {"dp": layout["dp"] * layout["cp"], "edp": layout["edp"]}
    for each in told["collectives"]:
        axis, width = each["axis"], {"reduce_scatter": 4.0, "all_gather": 2.0}[each["kind"]]
        yield equal(f"ranks of {each['name']}", each["group_size"], sizes[axis])
        payload = width * max(held[axis])
        yield equal(f"bytes of {each['name']}", each["payload_bytes"], payload, STATIC)
        share = (sizes[axis] - 1) / sizes[axis]
        least = share * payload / (max(links) * min(sizes[axis], MOST_RAILS))
        took = number(each["seconds"])
        slowest = share * payload / min(links) * SLOWER + HOP_S
        yield (
            least <= took <= slowest,
            f"{each['name']}: {took:.4g} s, {least:.4g} to {slowest:.4g}",
        )


def training_memory(plan: Json) -> Iterator[Outcome]:
    """Every stage's weights, optimizer state and activations, derived again."""
    names = layer_types(plan["model"])
    for deployment in plan["deployments"]:
        layout, told = degrees(deployment), deployment["training"]
        pp, chunk_of = layout["pp"], told["block_chunk"]
        many = count(told["micro_batches"], 1)
        flights = [in_flight(layout, many, stage) for stage in range(pp)]
        yield equal("micro-batches in flight", told["in_flight"], flights)
        rows = PADDED * up(plan["model"]["vocab_size"], PADDED * layout["tp"])
        table = float(rows * plan["model"]["hidden_size"])
        for stage, held in enumerate(deployment["memory"]["stages"]):
            own = [
                (name, mode)
                for name, mode, chunk in zip(names, told["recompute"], chunk_of[1:], strict=False)
                if chunk % pp == stage
            ]
            if stage == pp - 1:
                own += [(names[-1], told["mtp_recompute"])] * predicted_layers(plan)
            dense, routed, kept = 0.0, 0.0, 0.0
            for name, mode in own:
                one = layer_parameters(plan, deployment, name)
                dense, routed = dense + one[0], routed + one[1]
                kept += kept_bytes(plan, deployment, name, mode)
            dense += table * (stage == 0)
            if stage == pp - 1:
                dense += table * (0 if pp == 1 and plan["model"]["tied_embeddings"] else 1)
            parts = held["components"]
            yield from _static(deployment, stage, parts, dense, routed)
            derived = kept * flights[stage]
            yield equal(
                f"stage {stage} activations, bytes", parts["activations"], derived, ACTIVATIONS
            )
            yield equal(f"stage {stage} logits", number(parts["logits"]) > 0, stage == pp - 1)


def _static(
    deployment: Json, stage: int, parts: Json, dense: float, routed: float
) -> Iterator[Outcome]:
    layout, told = degrees(deployment), deployment["training"]
    whole = told["sharding"] in ("parameters", "hybrid")
    gathered = number(parts["gathered parameters"])
    yield equal(f"stage {stage} gathers parameters", gathered > 0, whole)
    if whole:
        shared = dense / count(told["shard_ranks"], 1) + routed / layout["edp"]
        derived = 2 * WEIGHT_BYTES * shared
    else:
        derived = (WEIGHT_BYTES + 4) * (dense + routed)  # gradients are summed in 32 bits
    yield equal(
        f"stage {stage} weights and gradients, bytes",
        parts["weights and gradients"],
        derived,
        STATIC,
    )
    state = state_bytes(deployment, dense, routed)
    yield equal(f"stage {stage} optimizer state, bytes", parts["optimizer state"], state, STATIC)
