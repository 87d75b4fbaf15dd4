"""What runs at once, in which number formats, and how evenly it lies on the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from optimizer.verify.document import (
    Json,
    count,
    degrees,
    is_serving,
    layer_types,
    members,
    number,
    quantity,
    redundant_experts,
)
from optimizer.verify.finding import ROUNDING, Outcome, at_most, equal
from optimizer.verify.matrices import up
from optimizer.verify.placement import num_experts


def batch(plan: Json) -> Iterator[Outcome]:
    """Sequences, micro-batches and requests in flight are those of the workload."""
    workload = plan["workload"]
    for deployment in plan["deployments"]:
        layout, planned = degrees(deployment), deployment["batch"]
        ranks = layout["replicas"] * layout["dp"]
        sequences = count(planned["sequences_per_rank"], 1)
        micro, chunk = count(planned["micro_batches"], 1), count(planned["prefill_chunk"])
        whole = micro in (1, sequences) or (micro <= sequences and micro % layout["pp"] == 0)
        if layout["pp"] == 1:
            whole = micro == 1
        yield whole, f"{micro} micro-batches of {sequences} sequences over {layout['pp']} stages"
        total = workload["concurrency"] if is_serving(plan) else workload["batch"]
        if total is not None:
            yield equal("sequences of a rank", sequences, up(count(total, 1), ranks))
            in_flight: float = total
        elif workload["request_rate"] is not None:
            rate = quantity(workload["request_rate"], "/s")
            in_flight = rate * number(plan["predictions"]["request_s"]["value"])
            yield at_most("requests in flight at a peak", peak(in_flight), sequences * ranks)
        else:
            in_flight = sequences * ranks
        one = number(planned["concurrency_per_replica"])
        yield equal("requests in flight", planned["concurrency"], in_flight, ROUNDING)
        yield equal("of one replica", one, in_flight / layout["replicas"], ROUNDING)
        if is_serving(plan):
            power = chunk > 0 and chunk & (chunk - 1) == 0
            yield power, f"prefill chunk {chunk}: engines take powers of two"
        else:
            yield equal("prefill chunk of a forward pass", chunk, 0)


def peak(in_flight: float) -> float:
    """Two standard deviations beyond the mean of a Poisson number."""
    return in_flight + 2 * math.sqrt(in_flight)


def precision(plan: Json) -> Iterator[Outcome]:
    """Number formats are the model's own or a choice that the workload allows."""
    own = plan["model"]["precision"]
    allowed = [own]
    for choice in plan["workload"]["precisions"]:
        changed = dict(own)
        if choice["weights"] is not None:
            for part in ("attention", "ffn", "shared_experts", "experts"):
                changed[part] = choice["weights"]
        for part in ("experts", "kv_cache"):
            if choice[part] is not None:
                changed[part] = choice[part]
        allowed.append(changed)
    for deployment in plan["deployments"]:
        found = deployment["precision"]
        yield found in allowed, f"{found}: one of {len(allowed)} allowed"
        yield equal("role", deployment["role"] in (plan["workload"]["kind"], *ROLES), True)


ROLES = ("prefill", "decode")  # beside the workload's own kind, where they are kept apart


def balance(plan: Json) -> Iterator[Outcome]:
    """Largest over mean, recomputed from stages and ranks."""
    model = plan["model"]
    names = layer_types(model)
    routed = [model["layer_types"][name]["ffn"]["kind"] == "moe" for name in names]
    for deployment in plan["deployments"]:
        cut, stages = deployment["placement"]["stage_layers"], deployment["memory"]["stages"]
        weights = []
        for stage in stages:
            parts = stage["components"]
            kinds = ("dense weights", "expert weights", "embedding and head")
            weights.append(sum(number(parts[kind]) for kind in kinds))
        slots, experts = num_experts(model) + redundant_experts(plan), []
        for part in deployment["placement"]["ranks"]:
            first, stop = cut[part["stage"]]
            experts.append(len(members(part["experts"], slots)) * sum(routed[first:stop]))
        derived = {
            "weight_bytes": weights,
            "memory_bytes": [number(stage["total_bytes"]) for stage in stages],
            "layers": [stop - first for first, stop in cut],
            "experts": experts,
        }
        for name, values in derived.items():
            skew = max(values) * len(values) / sum(values) if sum(values) else 1.0
            yield equal(f"balance of {name}", deployment["balance"][name], skew, ROUNDING)
