"""Every limit: the need is the predicted one, the bound the stated one, and something is left."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, is_serving, is_training, number, quantity
from optimizer.verify.finding import ROUNDING, Outcome, equal
from optimizer.verify.gpus import domains_of, shares_of
from optimizer.verify.robustness import share

TIMES = ("ttft", "tpot", "latency", "step time")
PREDICTIONS = {"step time": "step_s"}  # all others: the limit's name, in seconds
UNITS = {"memory": "B", "GPUs": "GPUs", "context": "tokens"}  # all others are in seconds


def limits(plan: Json) -> Iterator[Outcome]:
    """need <= limit, slack = limit - need, and both ends are found elsewhere in the plan."""
    workload, predicted = plan["workload"], plan["predictions"]
    stated = [name for name in TIMES if workload.get(name.replace(" ", "_")) is not None]
    longest = plan["model"]["max_context"]
    names = ["memory", "GPUs", *stated, *(["context"] if longest is not None else [])]
    yield equal("limits", sorted(each["name"] for each in plan["limits"]), sorted(names))
    for each in plan["limits"]:
        name, need, limit = each["name"], number(each["need"]), number(each["limit"])
        yield equal(f"{name} slack", each["slack"], limit - need)
        yield need <= limit, f"{name}: {need:.7g} needed, {limit:.7g} there"
        yield equal(f"{name} unit", each["unit"], UNITS.get(name, "s"))
        if name in TIMES:
            told = predicted[PREDICTIONS.get(name, f"{name}_s")]["value"]
            yield equal(f"{name} needed, s", need, told)
            wanted = workload[name.replace(" ", "_")]
            bound, statistic = quantity(wanted["value"], "s"), wanted["statistic"]
            if statistic == "mean":
                yield equal(f"{name} limit, s", limit, bound * share(plan, name), ROUNDING)
        elif name == "context":
            yield equal("tokens of a sequence", need, _sequence(plan))
            yield equal("context of the model, tokens", limit, count(longest, 1))
    held = {each["name"]: each for each in plan["limits"]}
    fullest = max(plan["deployments"], key=lambda one: number(one["memory"]["fullest_bytes"]))
    memory = fullest["memory"]
    yield equal("memory needed, bytes", held["memory"]["need"], memory["fullest_bytes"], ROUNDING)
    there = number(memory["limit_bytes"]) * share(plan, "memory")
    yield equal("memory there, bytes", held["memory"]["limit"], there, ROUNDING)
    used = sum(count(each["gpus"], 1) for each in plan["deployments"])
    yield equal("GPUs needed", held["GPUs"]["need"], used)
    shares = [share for each in plan["deployments"] for share in shares_of(plan, each)]
    pools = {share.pool["name"]: share.pool for share in shares}
    live = sum(len(domain) for pool in pools.values() for domain in domains_of(plan, pool))
    yield equal("GPUs there", held["GPUs"]["limit"], live)


def _sequence(plan: Json) -> int:
    """Tokens of a sequence at its end."""
    workload = plan["workload"]
    if is_training(plan):
        return count(workload["sequence_length"], 1)
    if is_serving(plan):
        return count(workload["input_len"] + workload["output_len"], 1)
    return count(workload["seq_len"], 1)
