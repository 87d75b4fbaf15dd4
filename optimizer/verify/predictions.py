"""Predictions against each other and against the tables: identities that hold whatever the cost
model is."""

from __future__ import annotations

import math
from collections.abc import Iterator

from optimizer.verify.document import Json, count, is_serving, is_training, number
from optimizer.verify.finding import ROUNDING, Outcome, at_most, equal
from optimizer.verify.gpus import live_gpus
from optimizer.verify.matrices import up

COMMON = {"tokens_per_s", "tokens_per_s_per_gpu", "memory_bytes"}
SERVING = COMMON | {"ttft_s", "tpot_s", "request_s", "requests_per_s"}
FORWARD = COMMON | {"latency_s"}
TRAINING = COMMON | {"step_s", "mfu"}


def intervals(plan: Json) -> Iterator[Outcome]:
    """Every prediction is positive, lies in its interval, and is the interval's middle in logs."""
    due = TRAINING if is_training(plan) else SERVING if is_serving(plan) else FORWARD
    yield equal("predicted", sorted(plan["predictions"]), sorted(due))
    for name, predicted in plan["predictions"].items():
        value, low, high = (number(predicted[key]) for key in ("value", "low", "high"))
        yield 0 < low <= value <= high, f"{name}: {low:.7g} <= {value:.7g} <= {high:.7g}"
        yield equal(f"{name}, middle of its interval", value, math.sqrt(low * high), ROUNDING)
    origin = plan["provenance"]
    fitted = (
        f"calibration {origin['calibration']} of {origin['calibration_date']}, "
        f"{count(origin['calibration_rows'])} rows"
    )
    named = [name for name, told in plan["predictions"].items() if fitted in told["source"]]
    yield bool(named), f"predictions that name {fitted}: {', '.join(named) or 'none'}"


def identities(plan: Json) -> Iterator[Outcome]:
    """Little's law, sums and ratios: one number cannot change alone."""
    predicted = {name: number(told["value"]) for name, told in plan["predictions"].items()}
    workload, tokens_per_s = plan["workload"], predicted["tokens_per_s"]
    in_flight = sum(number(each["batch"]["concurrency"]) for each in plan["deployments"])
    per_gpu = predicted["tokens_per_s_per_gpu"] * len(live_gpus(plan))
    yield equal("tokens/s of all live GPUs", tokens_per_s, per_gpu, ROUNDING)
    fullest = max(number(each["memory"]["fullest_bytes"]) for each in plan["deployments"])
    yield equal("memory, bytes", predicted["memory_bytes"], fullest)
    if not is_serving(plan):
        tokens = tokens_per_s * predicted["latency_s"]
        yield equal(
            "tokens = tokens/s x latency", in_flight * workload["seq_len"], tokens, ROUNDING
        )
        return
    output, request_s = count(workload["output_len"], 1), predicted["request_s"]
    yield equal(
        "request = TTFT + (output - 1) x TPOT, s",
        request_s,
        predicted["ttft_s"] + (output - 1) * predicted["tpot_s"],
        ROUNDING,
    )
    requests_per_s = predicted["requests_per_s"]
    yield equal("tokens/s", tokens_per_s, requests_per_s * output, ROUNDING)
    yield equal("in flight = requests/s x s", in_flight, requests_per_s * request_s, ROUNDING)
    # The first token comes of the prefill, however quick that is.
    decoded = tokens_per_s * (output - 1) / output
    fastest = in_flight / predicted["tpot_s"]
    yield at_most("tokens/s, all requests decoding at TPOT", decoded, fastest)


def steps(plan: Json) -> Iterator[Outcome]:
    """No prediction is shorter than the steps of the operator table that it consists of."""
    predicted = {name: number(told["value"]) for name, told in plan["predictions"].items()}
    for deployment in plan["deployments"]:
        batch, phases = deployment["batch"], deployment["phases"]
        micro = count(batch["micro_batches"], 1)
        if "decode" in phases:
            table = phases["decode"]
            slowest = micro * number(table["slowest_stage_s"])
            yield at_most("a decode step, s", table["total_seconds"][0], predicted["tpot_s"])
            yield at_most("micro-batches on a stage, s", slowest, predicted["tpot_s"])
        if "prefill" in phases:
            table = phases["prefill"]
            if is_serving(plan):
                fresh = plan["workload"]["input_len"] - plan["workload"]["prefix_len"]
                passes, total_s = up(fresh, count(batch["prefill_chunk"], 1)), predicted["ttft_s"]
            else:
                passes, total_s = micro, predicted["latency_s"]
            pipeline = number(table["total_seconds"][0])
            pipeline += (passes - 1) * number(table["slowest_stage_s"])
            yield at_most(f"{passes} passes through all stages, s", pipeline, total_s)
