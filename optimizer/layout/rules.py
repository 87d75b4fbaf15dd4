"""What a degree must divide, and what engines can express: the rules of every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Layouts, ParallelLayout
from optimizer.spec.formats import FORMATS
from optimizer.spec.model import (
    GroupedQueryAttention,
    LatentAttention,
    ModelSpec,
    MoeFfn,
    Precision,
)
from optimizer.spec.workload import (
    Engine,
    ForwardWorkload,
    TrainingWorkload,
    Workload,
)

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


def cp_rules(workload: Workload) -> list[Rule]:
    if isinstance(workload, ForwardWorkload):
        return [_divides("sequence length", workload.seq_len)]
    if isinstance(workload, TrainingWorkload):
        # Megatron-LM deals each rank one slice from either end, so that causal work is even.
        length = workload.sequence_length
        return [
            (
                f"sequence length {length} in two slices a rank",
                lambda degree: degree == 1 or length % (2 * degree) == 0,
            )
        ]
    return []


def dp_rules(workload: TrainingWorkload) -> list[Rule]:
    """Whole micro-batches on every data-parallel rank."""
    batch, micro = workload.global_batch, workload.micro_batch or 1
    what = f"global batch {batch}" + (f" in micro-batches of {micro}" if micro > 1 else "")
    return [(what, lambda degree: batch % (degree * micro) == 0)]


def divisibility_problems(
    layout: ParallelLayout, model: ModelSpec, workload: Workload
) -> list[str]:
    """What does not divide in a given layout, each with its two numbers."""
    trains = isinstance(workload, TrainingWorkload)
    if trains:
        model = model.with_precision(Precision())  # it trains in 16 bits
    degrees: list[tuple[str, int, Iterable[Rule]]] = [
        ("tp", layout.tp, tp_rules(model)),
        ("etp", layout.etp, etp_rules(model)),
        ("ep", layout.ep, ep_rules(model, workload.engine, workload.redundant_experts)),
        ("cp", layout.cp, cp_rules(workload)),
    ]
    if isinstance(workload, TrainingWorkload):
        degrees.append(("dp", layout.dp, dp_rules(workload)))
    found = [
        f"{what} cannot be cut by {name} {degree}{_nearest(degree, holds) if trains else ''}"
        for name, degree, rules in degrees
        for what, holds in rules
        if not holds(degree)
    ]
    if isinstance(workload, TrainingWorkload):
        found += schedule_problems(layout, model, workload)
    if layout.pp > model.num_layers:
        found.append(
            f"pp {layout.pp} is more than the {model.num_layers} layers: "
            f"write pp {model.num_layers} or less"
        )
    found += layout.problems(model.moe is not None)
    found += _engine_problems(layout, workload.engine)
    return found


def _nearest(degree: int, holds: Callable[[int], bool]) -> str:
    """The degrees next to a wrong one that hold, as a hint."""
    below = next((each for each in range(degree - 1, 0, -1) if holds(each)), None)
    above = next((each for each in range(degree + 1, 2 * degree + 1) if holds(each)), None)
    found = [str(each) for each in (below, above) if each is not None]
    return f"; the nearest that can: {' and '.join(found)}" if found else ""


def schedule_problems(
    layout: ParallelLayout, model: ModelSpec, workload: TrainingWorkload
) -> list[str]:
    """Why the stages of a given layout cannot be interleaved vp times."""
    pp, vp, layers = layout.pp, layout.vp, model.num_layers
    if vp == 1:
        return []
    if "interleaved" not in workload.schedules:
        return [f"vp {vp}: the workload's schedules are {', '.join(workload.schedules)}"]
    if pp == 1:
        return [f"vp {vp}: one stage cannot interleave; write vp 1, or pp 2 or more"]
    found = []
    if pp * vp > layers + 2:
        found.append(
            f"pp {pp} x vp {vp} = {pp * vp} chunks for {layers} layers, embedding and head: "
            f"the nearest that fits is vp {max(1, (layers + 2) // pp)}"
        )
    micro = workload.micro_batch
    per_rank = workload.global_batch // layout.dp
    sizes = [micro] if micro else [size for size in range(1, per_rank + 1) if per_rank % size == 0]
    if workload.global_batch % layout.dp == 0 and not any(
        per_rank % (size * pp) == 0 for size in sizes
    ):
        near = [each for each in range(1, layers + 1) if per_rank % each == 0]
        close = min(near, key=lambda each: (abs(each - pp), each))
        found.append(
            f"interleaving needs micro-batches in multiples of pp {pp}, and {per_rank} sequences "
            f"of a rank give none: the nearest pp that does is {close}, or write vp 1"
        )
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
