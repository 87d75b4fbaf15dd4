"""Expert slots of a plan whose workload states loads: coverage, and the hottest rank's load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import fsum

from optimizer.verify.document import Json, degrees, layer_types, number, redundant_experts
from optimizer.verify.finding import Outcome, all_hold, at_most, equal


def stated_loads(plan: Json) -> list[list[float]] | None:
    """The load of each expert in each MoE layer, one row where it is the same in all; a skew is
    Zipf's exponent, with no expert picked by more than every token."""
    workload = plan["workload"]
    if workload.get("expert_loads") is not None:
        return [[number(load) for load in row] for row in workload["expert_loads"]]
    if workload.get("expert_skew") is None or not _routed(plan):
        return None
    ffn = _routed(plan)[0]
    skew = number(workload["expert_skew"])
    picked = [place**-skew for place in range(1, ffn["num_experts"] + 1)]
    total = fsum(picked)
    return [[min(each / total, 1 / ffn["num_experts_per_token"]) for each in picked]]


def _routed(plan: Json) -> list[Json]:
    types = plan["model"]["layer_types"]
    ffns = [types[name]["ffn"] for name in layer_types(plan["model"])]
    return [ffn for ffn in ffns if ffn["kind"] == "moe"]


def rank_loads(loads: list[float], slots: list[int], ep: int) -> list[float]:
    """Load of each expert rank; the copies of an expert share its load evenly."""
    held = len(slots) // ep
    copies = Counter(slots)
    return [
        fsum(loads[expert] / copies[expert] for expert in slots[rank * held : (rank + 1) * held])
        for rank in range(ep)
    ]


def imbalance(plan: Json) -> float:
    """The hottest rank's load over the mean, averaged over layers; 1 where no loads are stated."""
    loads, slots = stated_loads(plan), plan["deployments"][0]["placement"]["expert_slots"]
    if loads is None or slots is None:
        return 1.0
    ep = degrees(plan["deployments"][0])["ep"]
    skews = []
    for row, held in zip(loads, slots, strict=True):
        ranks = rank_loads(row, held, ep)
        skews.append(max(ranks) * ep / fsum(ranks))
    return fsum(skews) / len(skews)


def expert_slots(plan: Json) -> Iterator[Outcome]:
    """Every expert of every layer has a slot; slots are stated where loads are, one map a row."""
    loads = stated_loads(plan)
    for deployment in plan["deployments"]:
        slots = deployment["placement"]["expert_slots"]
        ep = degrees(deployment)["ep"]
        wanted = loads is not None and ep > 1
        yield equal("expert slots are named", slots is not None, wanted)
        if slots is None or loads is None:
            continue
        experts = _routed(plan)[0]["num_experts"]
        yield equal("layers with loads and with slots", len(slots), len(loads))
        whole = experts + redundant_experts(plan)
        yield all_hold("slots", (equal("slots of a layer", len(row), whole) for row in slots))
        every = set(range(experts))
        outcomes = (equal("experts without a slot", sorted(every - set(row)), []) for row in slots)
        yield all_hold("experts", outcomes)
        known = (equal("unknown experts", sorted(set(row) - every), []) for row in slots)
        yield all_hold("known experts", known)
        yield at_most("mean over the hottest rank's load", 1.0, imbalance(plan))
