"""What a degree must divide, and what engines can express: the rules of every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Layouts, ParallelLayout
from optimizer.spec.formats import FORMATS
from optimizer.spec.model import GroupedQueryAttention, LatentAttention, ModelSpec, MoeFfn
from optimizer.spec.workload import Engine, ForwardWorkload, ServingWorkload

Rule = tuple[str, Callable[[int], bool]]  # (what must divide, whether a degree does)


def tp_rules(model: ModelSpec) -> list[Rule]:
    rules: list[Rule] = []
    for layer in model.layer_types.values():
        attention, ffn = layer.attention, layer.ffn
        if isinstance(attention, GroupedQueryAttention | LatentAttention):
            rules.append(_divides("attention heads", attention.num_heads))
        if isinstance(attention, GroupedQueryAttention):
            rules.append(_divides_or_multiplies("KV heads", attention.num_kv_heads))
        elif not isinstance(attention, LatentAttention):
            rules.append(_divides("linear-attention key heads", attention.num_key_heads))
        if isinstance(ffn, MoeFfn):
            if ffn.shared_intermediate_size:
                block = FORMATS[model.precision.shared_experts].block_out
                rules.append(
                    _divides("shared-expert hidden size", ffn.shared_intermediate_size, block)
                )
        else:
            block = FORMATS[model.precision.ffn].block_out
            rules.append(_divides("FFN hidden size", ffn.intermediate_size, block))
    return list(dict(rules).items())


def etp_rules(model: ModelSpec) -> list[Rule]:
    block = FORMATS[model.precision.experts].block_out
    sizes = {
        layer.ffn.intermediate_size
        for layer in model.layer_types.values()
        if isinstance(layer.ffn, MoeFfn)
    }
    return [_divides("expert hidden size", size, block) for size in sorted(sizes)]


def ep_rules(model: ModelSpec, engine: Engine, redundant: int = 0) -> list[Rule]:
    counts = {
        layer.ffn.num_experts
        for layer in model.layer_types.values()
        if isinstance(layer.ffn, MoeFfn)
    }
    if redundant:
        return [_divides("expert slots", count + redundant) for count in sorted(counts)]
    if engine == "vllm":  # without its load balancer vLLM takes uneven experts
        return [(f"{count} experts at most", count.__ge__) for count in sorted(counts)]
    return [_divides("experts", count) for count in sorted(counts)]


def _divides(what: str, size: int, block: int = 0) -> Rule:
    if block > 1 and size % block == 0:
        return (
            f"{what} {size} in quantisation blocks of {block}",
            lambda degree: size % (degree * block) == 0,
        )
    return (f"{what} {size}", lambda degree: size % degree == 0)


def _divides_or_multiplies(what: str, size: int) -> Rule:
    return (f"{what} {size}", lambda degree: size % degree == 0 or degree % size == 0)


def cp_rules(workload: ForwardWorkload | ServingWorkload) -> list[Rule]:
    if isinstance(workload, ForwardWorkload):
        return [_divides("sequence length", workload.seq_len)]
    return []


def divisibility_problems(
    layout: ParallelLayout, model: ModelSpec, workload: ForwardWorkload | ServingWorkload
) -> list[str]:
    """What does not divide in a given layout, each with its two numbers."""
    degrees: list[tuple[str, int, Iterable[Rule]]] = [
        ("tp", layout.tp, tp_rules(model)),
        ("etp", layout.etp, etp_rules(model)),
        ("ep", layout.ep, ep_rules(model, workload.engine, workload.redundant_experts)),
        ("cp", layout.cp, cp_rules(workload)),
    ]
    found = [
        f"{what} cannot be cut by {name} {degree}"
        for name, degree, rules in degrees
        for what, holds in rules
        if not holds(degree)
    ]
    if layout.pp > model.num_layers:
        found.append(f"pp {layout.pp} is more than the {model.num_layers} layers")
    found += layout.problems(model.moe is not None)
    found += _engine_problems(layout, workload.engine)
    return found


class EngineRule(NamedTuple):
    """What some engines cannot express (README, "Engines"): of one layout or of columns of them."""

    engines: tuple[Engine, ...]
    breaks: Callable[[Any], Any]  # ParallelLayout -> bool, Layouts -> bool [n]
    problem: str


ENGINE_RULES = (
    EngineRule(
        ("vllm",),
        lambda layout: (layout.ep > 1) & (layout.etp > 1),
        "vLLM cuts experts by ep or by etp, not ep {0.ep} and etp {0.etp}",
    ),
    EngineRule(
        ("trtllm",),
        lambda layout: (layout.dp > 1) & (layout.dp < layout.width),
        "TensorRT-LLM's attention dp is 1 or the width {0.width}, not {0.dp}",
    ),
    EngineRule(
        ("vllm", "sglang", "trtllm"),
        lambda layout: layout.cp > 1,
        "engines here keep cp 1, not {0.cp}",
    ),
)


def _engine_problems(layout: ParallelLayout, engine: Engine) -> list[str]:
    rules = [rule for rule in ENGINE_RULES if engine in rule.engines and rule.breaks(layout)]
    return [rule.problem.format(layout) for rule in rules]


def divides(layouts: Layouts, model: ModelSpec) -> NDArray[np.bool_]:
    """Which layouts cut the model's matrices in whole blocks of its number formats [n]."""
    fits = np.ones(len(layouts), dtype=bool)
    for column, rules in ((layouts.tp, tp_rules(model)), (layouts.etp, etp_rules(model))):
        for degree in np.unique(column):
            if not all(holds(int(degree)) for _, holds in rules):
                fits &= column != degree
    return fits
