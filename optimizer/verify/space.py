"""The searched space, counted again: no layout that divides and fits was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

from optimizer.verify.document import (
    Json,
    count,
    degrees,
    is_serving,
    layer_types,
    redundant_experts,
)
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.gpus import domains_of
from optimizer.verify.matrices import FORMATS, up

Rules = dict[tuple[Any, ...], Callable[[int], bool]]
Stages = dict[tuple[int, ...], tuple[int, int]]  # degrees: ways to lie, most on the pool's GPUs
MOST_SPANNING = 6000  # layouts that span pools
MOST_POOLS = 6  # more are not spanned
GRIDS, ENGINE = "both grids cover the same width", "what {} can express"


def space(plan: Json) -> Iterator[Outcome]:
    """Layouts of all pools, or of the one given layout, and what each rule of division removed."""
    told = plan["proof"]
    planned = {name: count(amount) for name, amount in told["divisibility"].items()}
    if not planned:
        layout = degrees(plan["deployments"][0])
        own = [
            num_spans(layout["width"], layout["tp"], layout["cp"], _sizes(plan, pool))
            for pool in plan["cluster"]["pools"]
        ]
        pairs = sum(one * other for one, other in _ordered_pairs(own))
        given = sum(own) + pairs * (layout["pp"] - 1)
        if told["layouts"] == given:
            yield True, f"layouts of the given strategy: {given}"
            return
    removed: dict[tuple[Any, ...], int] = {}
    stages = [_stages(plan, pool, removed) for pool in plan["cluster"]["pools"]]
    most = len(layer_types(plan["model"]))
    layouts = sum(spans * min(most, many) for each in stages for spans, many in each.values())
    layouts += _spanning_layouts(stages, most)
    yield equal("layouts", told["layouts"], layouts)
    derived: dict[str, list[int]] = {}
    for rule, amount in removed.items():
        derived.setdefault(rule[0], []).append(amount)
    listed: dict[str, list[int]] = {}
    for name, amount in planned.items():
        axis = name.partition(": ")[0] if ": " in name else name
        listed.setdefault(axis, []).append(amount)
    for axis in sorted({*derived, *listed}):
        yield equal(
            f"removed by {axis}", sorted(listed.get(axis, [])), sorted(derived.get(axis, []))
        )


def num_spans(width: int, tp: int, cp: int, sizes: list[int]) -> int:
    """How many cuts of a stage over domains are worth pricing: one where stages and domains fill
    each other; else every even cut and every domain's size that keeps tensor groups whole."""
    if not sizes:
        return 0
    largest = max(sizes)
    grain = tp * cp if tp * cp <= largest else min(tp, largest)
    if min(sizes) == largest and largest % width == 0:
        return 1
    if min(sizes) == largest and width % largest == 0 and largest % grain == 0:
        return 1
    offers = {size for size in sizes if size <= width}
    parts = 1
    while parts <= width:
        share = up(width, parts)
        offers.add(share)
        parts = width + 1 if share == 1 else up(width, share - 1)
    return sum(
        offer <= largest and offer % grain == 0 and width % offer % grain == 0 for offer in offers
    )


def _cut(size: int, kind: str | None = None) -> Callable[[int], bool]:
    """Whether a degree divides a size, in whole quantisation blocks where the size has them."""
    block = FORMATS[kind][1] if kind is not None else None
    unit = block[1] if block is not None and size % block[1] == 0 else 1
    return lambda degree: size % (degree * unit) == 0


def _head_rule(heads: int) -> Callable[[int], bool]:
    return lambda degree: heads % degree == 0 or degree % heads == 0


def _tp_rules(model: Json) -> Rules:
    rules: Rules = {}
    for layer in model["layer_types"].values():
        attention, ffn = layer["attention"], layer["ffn"]
        if attention["kind"] == "linear":
            rules["tp", "key heads", attention["num_key_heads"]] = _cut(attention["num_key_heads"])
        else:
            rules["tp", "heads", attention["num_heads"]] = _cut(attention["num_heads"])
        if attention["kind"] == "gqa":
            kv_heads = count(attention["num_kv_heads"], 1)
            rules["tp", "kv heads", kv_heads] = _head_rule(kv_heads)
        if ffn["kind"] == "dense":
            size, part = ffn["intermediate_size"], "ffn"
        else:
            size, part = ffn["shared_intermediate_size"], "shared_experts"
        if size:
            rules["tp", part, size] = _cut(size, model["precision"][part])
    return rules


def _expert_rules(plan: Json) -> tuple[Rules, Rules]:
    """(of ep, of etp)."""
    ep: Rules = {}
    etp: Rules = {}
    for layer in plan["model"]["layer_types"].values():
        ffn = layer["ffn"]
        if ffn["kind"] == "moe":
            experts, size = count(ffn["num_experts"], 1), ffn["intermediate_size"]
            redundant = redundant_experts(plan)
            uneven = plan["workload"]["engine"] == "vllm" and not redundant
            ep["ep", experts] = experts.__ge__ if uneven else _cut(experts + redundant)
            etp["etp", size] = _cut(size, plan["model"]["precision"]["experts"])
    return ep, etp


def _admitted(most: int, rules: Rules, removed: dict[tuple[Any, ...], int]) -> list[int]:
    found = []
    for degree in range(1, count(most) + 1):
        broken = [rule for rule, holds in rules.items() if not holds(degree)]
        for rule in broken:
            removed[rule] = removed.get(rule, 0) + 1
        if not broken:
            found.append(degree)
    return found


def _sizes(plan: Json, pool: Json) -> list[int]:
    """Live GPUs of each domain that has any."""
    return [len(domain) for domain in domains_of(plan, pool) if domain]


def _spanning_layouts(stages: list[Stages], num_layers: int) -> int:
    """Replicas of two pools: the same stage in both, at least one in either, in either order; where
    those are too many, the pipelines with most stages are not searched."""
    ways: dict[tuple[int, int], int] = {}  # most stages in either pool: ways of their stages to lie
    for one, other in _ordered_pairs(stages):
        for degrees_of_stage, (spans, many) in one.items():
            if degrees_of_stage in other:
                others, most = other[degrees_of_stage]
                ways[many, most] = ways.get((many, most), 0) + spans * others
    total = 0
    for pp in range(2, num_layers + 1):
        more = sum(
            count * max(0, min(here, pp - 1) - max(1, pp - there) + 1)
            for (here, there), count in ways.items()
        )
        if total + more > MOST_SPANNING:
            break
        total += more
    return total


def _ordered_pairs(pools: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Of pools, where there are few enough for replicas that span two."""
    return permutations(pools if len(pools) <= MOST_POOLS else [], 2)


def _stages(plan: Json, pool: Json, removed: dict[tuple[Any, ...], int]) -> Stages:
    model, workload = plan["model"], plan["workload"]
    sizes = _sizes(plan, pool)
    gpus = sum(sizes)
    kinds = model["layer_types"].values()
    heads = [
        kind["attention"].get("num_heads") or kind["attention"]["num_value_heads"] for kind in kinds
    ]
    tps = _admitted(min(gpus, max(heads)), _tp_rules(model), removed)
    length = {} if is_serving(plan) else {("cp",): _cut(workload["seq_len"])}
    cps = _admitted(min(gpus, workload["max_context_parallel"]), length, removed)
    routed = [kind["ffn"] for kind in kinds if kind["ffn"]["kind"] == "moe"]
    grids = [(1, 1)]
    if routed:
        largest = max(routed, key=lambda ffn: count(ffn["num_experts"]))
        ep_rules, etp_rules = _expert_rules(plan)
        slots = largest["num_experts"] + redundant_experts(plan)
        eps = _admitted(min(gpus, slots), ep_rules, removed)
        etps = _admitted(min(gpus, largest["intermediate_size"]), etp_rules, removed)
        grids = [(ep, etp) for ep in eps for etp in etps if ep * etp <= gpus]
    engine = workload["engine"]
    found: Stages = {}
    spans: dict[tuple[int, int, int], int] = {}
    for ep, etp in grids:
        for tp in tps:
            for cp in cps:
                width = ep * etp if routed else tp * cp
                why = None
                if width % (tp * cp) or width > gpus:
                    why = GRIDS
                elif not _expressible(engine, ep, etp, tp, cp, width):
                    why = ENGINE.format(engine)
                if why is not None:
                    removed[(why,)] = removed.get((why,), 0) + 1
                    continue
                if (width, tp, cp) not in spans:
                    spans[width, tp, cp] = num_spans(width, tp, cp, sizes)
                if spans[width, tp, cp]:
                    found[ep, etp, tp, cp] = spans[width, tp, cp], gpus // width
    return found


def _expressible(engine: str, ep: int, etp: int, tp: int, cp: int, width: int) -> bool:
    """What a named engine can run: vLLM cuts experts one way, TensorRT-LLM's attention is data
    parallel wholly or not at all, and these engines' plans keep cp 1."""
    if engine == "vllm" and ep > 1 and etp > 1:
        return False
    if engine == "trtllm" and 1 < width // (tp * cp) < width:
        return False
    return cp == 1 or engine not in ("vllm", "sglang", "trtllm")
