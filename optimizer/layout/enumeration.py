"""Every layout that the model divides into and the cluster has GPUs for, as columns.

The expert grid bounds the space: a stage of a mixture-of-experts model is ep x etp GPUs wide, a
stage of a dense model tp x cp, so the number of layouts stops growing with the cluster. Any
integer is a candidate, not only powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Ints, Layouts, ParallelLayout
from optimizer.spec.cluster import Cluster
from optimizer.spec.formats import FORMATS
from optimizer.spec.model import (
    GroupedQueryAttention,
    LatentAttention,
    ModelSpec,
    MoeFfn,
)
from optimizer.spec.workload import Engine, ForwardWorkload, ServingWorkload

Rule = tuple[str, Callable[[int], bool]]  # (what must divide, whether a degree does)


@dataclass(frozen=True)
class Space:
    """The layouts of one pool, and how many raw combinations each divisibility rule removed."""

    layouts: Layouts
    enumerated: int
    removed: dict[str, int]


def _tp_rules(model: ModelSpec) -> list[Rule]:
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


def _etp_rules(model: ModelSpec) -> list[Rule]:
    block = FORMATS[model.precision.experts].block_out
    sizes = {
        layer.ffn.intermediate_size
        for layer in model.layer_types.values()
        if isinstance(layer.ffn, MoeFfn)
    }
    return [_divides("expert hidden size", size, block) for size in sorted(sizes)]


def _ep_rules(model: ModelSpec, engine: Engine) -> list[Rule]:
    counts = {
        layer.ffn.num_experts
        for layer in model.layer_types.values()
        if isinstance(layer.ffn, MoeFfn)
    }
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


def _cp_rules(workload: ForwardWorkload | ServingWorkload) -> list[Rule]:
    if isinstance(workload, ForwardWorkload):
        return [_divides("sequence length", workload.seq_len)]
    return []


def divisibility_problems(
    layout: ParallelLayout, model: ModelSpec, workload: ForwardWorkload | ServingWorkload
) -> list[str]:
    """What does not divide in a given layout, each with its two numbers."""
    degrees: list[tuple[str, int, Iterable[Rule]]] = [
        ("tp", layout.tp, _tp_rules(model)),
        ("etp", layout.etp, _etp_rules(model)),
        ("ep", layout.ep, _ep_rules(model, workload.engine)),
        ("cp", layout.cp, _cp_rules(workload)),
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


def _engine_problems(layout: ParallelLayout, engine: Engine) -> list[str]:
    """What a named engine cannot express (its rules: README, "Engines")."""
    has_experts = layout.ep * layout.etp > 1
    if engine == "vllm" and has_experts and min(layout.ep, layout.etp) > 1:
        return [f"vLLM cuts experts by ep or by etp, not ep {layout.ep} and etp {layout.etp}"]
    if engine == "trtllm" and 1 < layout.dp < layout.width:
        return [f"TensorRT-LLM's attention dp is 1 or the width {layout.width}, not {layout.dp}"]
    if engine in ("vllm", "sglang", "trtllm") and layout.cp > 1:
        return [f"{engine} plans here keep cp 1, not {layout.cp}"]
    return []


def _admitted(limit: int, rules: Iterable[Rule], removed: dict[str, int], axis: str) -> list[int]:
    admitted = []
    for degree in range(1, limit + 1):
        broken = [what for what, holds in rules if not holds(degree)]
        for what in broken:
            removed[f"{axis}: {what}"] = removed.get(f"{axis}: {what}", 0) + 1
        if not broken:
            admitted.append(degree)
    return admitted


def divides(layouts: Layouts, model: ModelSpec) -> NDArray[np.bool_]:
    """Which layouts cut the model's matrices in whole blocks of its number formats [n]."""
    fits = np.ones(len(layouts), dtype=bool)
    for column, rules in ((layouts.tp, _tp_rules(model)), (layouts.etp, _etp_rules(model))):
        for degree in np.unique(column):
            if not all(holds(int(degree)) for _, holds in rules):
                fits &= column != degree
    return fits


def spans_of(width: int, tp: int, cp: int, sizes: tuple[int, ...]) -> list[int]:
    """How many GPUs of a stage may lie in one domain: the span signatures worth pricing.

    Groups of tp x cp ranks are kept whole where they fit a domain, else those of tp. On domains
    that the width fills without rest one signature dominates all others; elsewhere every even cut
    and every cut at a live size of a domain is offered.
    """
    if not sizes:
        return []
    largest = max(sizes)
    grain = next((group for group in (tp * cp, tp) if group <= largest), largest)
    filled = width % largest == 0 and largest % grain == 0
    if len(set(sizes)) == 1 and (largest % width == 0 or filled):
        return [min(width, largest)]
    offers = {size for size in sizes if size <= width}
    offers |= {-(-width // count) for count in range(1, width + 1)}
    return sorted(
        offer
        for offer in offers
        if offer <= largest and offer % grain == 0 and (width % offer) % grain == 0
    )


def enumerate_layouts(
    cluster: Cluster, pool: int, model: ModelSpec, workload: ForwardWorkload | ServingWorkload
) -> Space:
    """All layouts of one replica in one pool, divisible and no larger than the pool."""
    sizes = tuple(len(domain.gpus) for domain in cluster.domains if domain.pool == pool)
    sizes = tuple(size for size in sizes if size)
    num_gpus = sum(sizes)
    removed: dict[str, int] = {}
    heads = max(
        (
            layer.attention.num_heads
            if isinstance(layer.attention, GroupedQueryAttention | LatentAttention)
            else layer.attention.num_value_heads
        )
        for layer in model.layer_types.values()
    )
    tps = _admitted(min(num_gpus, heads), _tp_rules(model), removed, "tp")
    cps = _admitted(
        min(num_gpus, workload.max_context_parallel), _cp_rules(workload), removed, "cp"
    )
    if model.moe is None:
        grids = [(1, 1)]
    else:
        experts = model.moe
        eps = _admitted(
            min(num_gpus, experts.num_experts), _ep_rules(model, workload.engine), removed, "ep"
        )
        etps = _admitted(
            min(num_gpus, experts.intermediate_size), _etp_rules(model), removed, "etp"
        )
        grids = [(ep, etp) for ep in eps for etp in etps if ep * etp <= num_gpus]
    rows: list[tuple[int, int, int, int, int, int]] = []
    enumerated = 0
    for ep, etp in grids:
        for tp in tps:
            for cp in cps:
                width = ep * etp if model.moe is not None else tp * cp
                enumerated += 1
                if width % (tp * cp) or width > num_gpus:
                    removed["both grids cover the same width"] = (
                        removed.get("both grids cover the same width", 0) + 1
                    )
                    continue
                dp = width // (tp * cp)
                layout = ParallelLayout(tp=tp, cp=cp, dp=dp, ep=ep, etp=etp)
                if _engine_problems(layout, workload.engine):
                    key = f"what {workload.engine} can express"
                    removed[key] = removed.get(key, 0) + 1
                    continue
                rows += [(tp, cp, dp, ep, etp, span) for span in spans_of(width, tp, cp, sizes)]
    grid = np.array(rows, dtype=np.int64).reshape(-1, 6)
    widths = grid[:, 0] * grid[:, 1] * grid[:, 2]
    stages = np.arange(1, min(model.num_layers, num_gpus) + 1, dtype=np.int64)
    fits = stages[:, None] * widths[None, :] <= num_gpus
    stage_index, row_index = np.nonzero(fits)
    columns: list[Ints] = [grid[row_index, column] for column in range(6)]
    layouts = Layouts(
        pp=stages[stage_index],
        tp=columns[0],
        cp=columns[1],
        dp=columns[2],
        ep=columns[3],
        etp=columns[4],
        span=columns[5],
    )
    return Space(layouts, enumerated * len(stages), removed)
