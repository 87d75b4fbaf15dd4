"""GPUs, experts, modules and layers: what the degrees alone decide."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told
from optimizer.layout import ParallelLayout
from optimizer.layout.names import degrees_of

EXPERTS = ("ep", "etp", "edp")


def gpus(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """replicas x pp x width, by each reading of the strategy."""
    if claim.component == "available":
        return Answer((Derived(case.cluster.num_live_gpus, _there(case)),))
    found = []
    degrees = degrees_of(case.strategy.rpartition(":")[2])
    folded = EXPERTS if case.phase == "training" else ()  # EP is a part of a training run's width
    written = prod(many for name, many in degrees.items() if name not in folded)
    for reading in case.readings:
        layout = reading.layout
        at_word = reading.rule == "canonical" or layout.gpus == written
        label = f"{case.strategy} as {layout.name} ({reading.rule})"
        found.append(
            Derived(
                layout.gpus,
                f"{_spelled(layout)} = {layout.gpus} GPUs, {_there(case)}",
                (label,),
                () if at_word else (label,),
            )
        )
    return Answer(tuple(found))


def _there(case: Case) -> str:
    return f"{case.cluster.num_live_gpus} there"


def _spelled(layout: ParallelLayout) -> str:
    return (
        f"replicas {layout.replicas} x pp {layout.pp} x width {layout.width} "
        f"(tp {layout.tp} x cp {layout.cp} x dp {layout.dp}; "
        f"etp {layout.etp} x ep {layout.ep} x edp {layout.edp})"
    )


def experts_per_gpu(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Experts of one layer on one GPU; all layers, or parts counted as parts, are readings."""
    moe = case.model.moe
    if moe is None:
        return Answer(missing=("experts: the model has none",))
    layout, count = case.layout, moe.num_experts
    local = -(-count // layout.ep)
    layers = -(-case.model.num_layers // layout.pp)
    a_layer, whole = "of one layer", "a part counts as one"
    found = [
        Derived(local, f"{count} experts / ep {layout.ep} = {local} a layer", (a_layer, whole))
    ]
    if layout.etp > 1:
        share = count / (layout.ep * layout.etp)
        label = f"an expert cut in {layout.etp} by tensor parallelism counts as 1/{layout.etp}"
        found.append(
            Derived(
                share,
                f"{count} experts / (ep {layout.ep} x etp {layout.etp}) = {share:g} of a layer's",
                (a_layer, label),
                (label,),
            )
        )
    label = "over all layers of the GPU"
    text = f"{count} experts / ep {layout.ep} x {layers} layers = {local * layers}"
    found.append(Derived(local * layers, text, (label, whole), (label,)))
    return Answer(tuple(found))


MODULES = ("experts", "expert parts", "layers", "experts and attention blocks")


def modules(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Modules of a kind: of one layer and of all, where it makes a difference."""
    model, layout = case.model, case.layout
    layers, experts = model.num_layers, model.moe.num_experts if model.moe else 0
    if claim.component == "layers":
        return Answer((Derived(layers, f"{layers} layers"),))
    if claim.component == "experts and attention blocks":
        value = layers * (experts + 1)
        text = f"{layers} layers x {experts} experts + {layers} attention blocks = {value}"
        return Answer((Derived(value, text),))
    parts = layout.etp if claim.component == "expert parts" else 1
    each = f"{experts} experts" + (f" x {parts} parts (etp {layout.etp})" if parts > 1 else "")
    one, every = experts * parts, experts * parts * layers
    label = "of all layers"
    return Answer(
        (
            Derived(one, f"{each} = {one} a layer", ("of one layer",)),
            Derived(every, f"{each} x {layers} layers = {every}", (label,), (label,)),
        )
    )


def gpus_per_module(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """GPUs that one module lies on."""
    layout = case.layout
    if claim.component == "expert parts":
        return Answer((Derived(1, "a part of an expert lies on one GPU"),))
    if claim.component == "experts":
        text = f"one expert is cut over etp {layout.etp} = {layout.etp} GPUs of a replica"
        return Answer((Derived(layout.etp, text),))
    text = (
        f"a layer lies on all {layout.width} GPUs of its stage "
        f"(ep {layout.ep} x etp {layout.etp}; tp {layout.tp} x dp {layout.dp})"
    )
    if layout.pp == 1:
        text += "; PP = 1 is one stage: every GPU holds a part of every layer, none has its own"
    return Answer((Derived(layout.width, text),))


def modules_per_gpu(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Experts and attention blocks on the fullest GPU: whole ones cannot be shared out evenly
    unless the count divides; tensor parallelism gives each GPU 1/tp of an attention block."""
    model, layout = case.model, case.layout
    experts, layers = (model.moe.num_experts if model.moe else 0), model.num_layers
    total, count = layers * (experts + 1), layout.gpus_per_replica
    whole = f"{total} whole modules over {count} GPUs"
    even = total % count == 0
    fullest = -(-total // count)
    text = (
        f"{whole} = {fullest} each"
        if even
        else (
            f"{whole} = {total / count:g}, no whole number: {total % count} GPUs hold {fullest}, "
            f"{count - total % count} hold {fullest - 1}"
        )
    )
    found = [Derived(fullest, text, ("whole modules",))]
    if layout.tp > 1 or layout.etp > 1:
        share, text = cut_share(case)
        label = f"tensor parallelism cuts each attention block in {layout.tp}"
        found.append(Derived(share, text, (label,), (label,)))
    label = "in the mean over the GPUs"
    found.append(Derived(total / count, f"{total} / {count}", (label,), (label,)))
    return Answer(tuple(found))


def cut_share(case: Case) -> tuple[float, str]:
    """Modules on the fullest GPU when tp cuts attention and etp experts, with the arithmetic."""
    model, layout = case.model, case.layout
    experts = model.moe.num_experts if model.moe else 0
    layers = -(-model.num_layers // layout.pp)
    held = layers * -(-experts // layout.ep)
    value = held / layout.etp + layers / layout.tp
    text = (
        f"{layers} layers a stage x {experts} experts / ep {layout.ep} = {held} experts"
        f"{f' / etp {layout.etp}' if layout.etp > 1 else ''} + {layers} attention blocks "
        f"/ tp {layout.tp} = {value:g}"
    )
    return value, text


def sequential_layers(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Layers that one token crosses, one after the other, whatever the pipeline."""
    layers, pp = case.model.num_layers, case.layout.pp
    text = f"one token crosses pp {pp} stages of {layers / pp:g} layers = {layers} layers"
    label = "layers of one stage, which is no token's path"
    found = [Derived(layers, text, ("one token's path",))]
    found.append(Derived(layers / pp, f"{layers} / pp {pp}", (label,), (label,), holds=pp == 1))
    return Answer(tuple(found))
