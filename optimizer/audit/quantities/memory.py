"""Bytes on the fullest GPU by component, under every reading that people give such a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil

from optimizer.audit.amounts import number, show
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Axis, Derived, Option, products
from optimizer.audit.own_figures import Told, ratios, sums
from optimizer.audit.quantities.census import counted, is_sharp, round_shares
from optimizer.audit.training import trained_bytes, training_memory
from optimizer.plan import Plan
from optimizer.spec.formats import FORMATS, Format
from optimizer.spec.linears import Linear, attention_linears, moe_layers
from optimizer.spec.model import ModelSpec, MoeFfn

COMPONENTS = (
    "total",
    "weights",
    "attention weights",
    "expert weights",
    "activations",
    "KV cache",
    "gradients",
    "optimizer state",
)
RESTS_ON = {
    "attention weights": ("hidden_size", "attention.*", "precision"),
    "expert weights": ("hidden_size", "moe.intermediate_size", "moe.gated", "precision"),
}


def memory_per_gpu(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """One component's bytes, or all; a total also follows from the report's own components."""
    component = claim.component or "total"
    build = {
        "attention weights": attention_weights,
        "expert weights": expert_weights,
        "activations": activations,
    }.get(component)
    found = _planned(case, component) if build is None else build(case)
    derived = (*found, *sums(claim, told, "bytes"))
    if component != "total" or not is_sharp(claim):
        return Answer(derived)
    return Answer((*derived, *round_shares(case)), note=counted(case, claim, derived))


def share_of_capacity(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Bytes needed over the GPU's memory: as planned, and as the report's own figures have it."""
    capacity = case.gpu.memory_bytes
    found = []
    for each in _planned(case, "total"):
        share = float(each.value) / capacity
        text = f"{each.arithmetic}; / {show(capacity, 'bytes')} of a GPU = {100 * share:.4g} %"
        found.append(each._replace(value=share, arithmetic=text))
    return Answer((*found, *ratios(claim, told)))


def _planned(case: Case, component: str) -> Iterator[Derived]:
    """The cost model's bytes in each phase, with and without the engine's own reserve."""
    for phase, plan in case.inference.items():
        departs = () if case.phase else (phase,)
        parts = planned_bytes(plan, component)
        text = " + ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in parts.items() if size)
        if not parts:
            continue
        total, reserve = sum(parts.values()), parts.get("runtime reserve", 0.0)
        label = "without the engine's own reserve"
        rest = f"{label} {show(total - reserve, 'bytes')}"
        text = f"{phase}: {text} = {show(total, 'bytes')}"
        yield Derived(total, f"{text}; {rest}" if reserve else text, (phase,), departs)
        if reserve:
            yield Derived(total - reserve, f"{phase}, {rest}", (phase, label), (*departs, label))
    if "training" in case.phases:
        yield from trained_bytes(case, component)
        if component == "total":
            yield from training_memory(case)


def planned_bytes(plan: Plan, component: str) -> dict[str, float]:
    """The planner's parts of a component on the fullest GPU."""
    memory = plan.deployment.memory
    parts = memory.stages[memory.fullest_stage].components
    wanted = {
        "total": tuple(parts),
        "weights": ("dense weights", "expert weights", "embedding and head"),
        "activations": ("activations",),
        "KV cache": ("KV cache",),
    }.get(component, ())
    return {name: parts[name] for name in wanted}


def _format(case: Case, part: str) -> Axis:
    """Bytes of an element, its share of block scales included: as stated; where nobody states a
    format, in 8 and in 16 bits."""
    kind: Format = getattr(case.model.precision, part)
    kind = "bf16" if case.phase == "training" else kind
    facts = FORMATS[kind]
    scales = facts.scale_bytes / (facts.block_in * facts.block_out) if facts.block_in else 0.0
    size = facts.bits / 8 + scales
    open_to_reading = bool(case.assumed("precision"))
    options = [Option(f"in {kind.upper()}", size, f"x {size:g} B")]
    for other, label in ((1.0, "in 8 bits"), (2.0, "in 16 bits")):
        if other != size:
            options.append(Option(label, other, f"x {other:g} B", open_to_reading))
    return options


def _layers(count: int, pp: int) -> Axis:
    """All layers of a stage, or one."""
    held = ceil(count / pp)
    options = [Option("all layers of the GPU", held, f"x {held} layers")]
    return [*options, Option("one layer", 1, "")] if held > 1 else options


def _split(degree: int) -> Axis:
    if degree == 1:
        return [Option("after the TP split", 1, "")]
    return [
        Option("after the TP split", 1 / degree, f"/ {degree} (TP)"),
        Option("before the TP split", 1, ""),
    ]


def attention_weights(case: Case) -> Iterator[Derived]:
    """The projections of attention: all of a layer's, or the first alone."""
    kinds = attention_kinds(case.model)
    pp, tp = case.layout.pp, case.layout.tp
    if len(kinds) > 1:  # layers differ: they are summed before anything is cut
        elements = sum(count * sum(map(elements_of, kind)) for kind, count in kinds.items())
        text = " + ".join(f"{count} layers x {shapes(kind)}" for kind, count in kinds.items())
        axes: list[Axis] = [[Option("all layers of the GPU", elements / pp, f"({text}) / pp {pp}")]]
    else:
        kind, count = next(iter(kinds.items()))
        whole = Option("all projections", sum(map(elements_of, kind)), shapes(kind))
        first = Option("one projection", elements_of(kind[0]), shapes(kind[:1]), holds=False)
        axes = [[whole, first], _layers(count, pp)]
    return products([*axes, _split(tp), _format(case, "attention")], "bytes")


def attention_kinds(model: ModelSpec) -> dict[tuple[Linear, ...], int]:
    """The distinct projections of attention, and how many layers have them."""
    found: dict[tuple[Linear, ...], int] = {}
    for name in model.layer_names:
        every = attention_linears(model.layer_types[name].attention, model.hidden_size)
        kind = tuple(linear for linear in every if linear.part == "attention")
        found[kind] = found.get(kind, 0) + 1
    return found


def expert_weights(case: Case) -> Iterator[Derived]:
    """The routed experts of one GPU: gated or plain, before or after tensor parallelism."""
    model, layout = case.model, case.layout
    ffn = model.moe
    if ffn is None:
        return iter(())
    local = ceil(ffn.num_experts / layout.ep)
    axes: list[Axis] = [
        _gates(case, ffn),
        [Option("", local, f"x {local} experts a layer")],
        _layers(len(moe_layers(model)), layout.pp),
        _split(layout.etp),
        _format(case, "experts"),
    ]
    return products(axes, "bytes")


def _gates(case: Case, ffn: MoeFfn) -> Axis:
    """Two matrices or three; which is in question only where the report does not say."""
    hidden, size = case.model.hidden_size, ffn.intermediate_size

    def option(gated: bool, holds: bool) -> Option:
        count = 3 if gated else 2
        label = f"{'gated' if gated else 'plain'} FFN of {count} matrices"
        return Option(label, count * hidden * size, f"{count} x {hidden} x {size}", holds)

    return [option(ffn.gated, True), option(not ffn.gated, bool(case.assumed("moe.gated")))]


def activations(case: Case) -> Iterator[Derived]:
    """What the planner keeps alive at the peak, then hidden states counted in the usual ways."""
    for phase, plan in case.inference.items():
        peak = planned_bytes(plan, "activations")["activations"]
        text = (
            f"{phase}: hidden states and the widest intermediate results of one layer, 2 B each, "
            f"for {number(_new_tokens(plan))} new tokens of a rank = {show(peak, 'bytes')}"
        )
        departs = () if case.phase else (phase,)
        yield Derived(peak, text, (phase, "alive at the peak"), departs)
    if "training" in case.phases:
        yield from trained_bytes(case, "activations")
    layout, hidden = case.layout, case.model.hidden_size
    whole, ranks = case.batch * case.seq_len, layout.dp * layout.cp * layout.replicas
    layers = ceil(case.model.num_layers / layout.pp)
    batch = f"x {case.batch} x {case.seq_len} tokens"
    axes: list[Axis] = [
        [
            Option("four hidden states a token", 4 * hidden, f"4 x {hidden}"),
            Option("two hidden states a token", 2 * hidden, f"2 x {hidden}"),
            Option("one hidden state a token", hidden, f"{hidden}"),
        ],
        [
            Option("tokens of one attention rank", whole / ranks, f"{batch} / {ranks} ranks"),
            Option("tokens shared by all GPUs", whole / layout.gpus, f"{batch} / {layout.gpus}"),
            Option("the whole batch", whole, batch),
        ],
        [
            Option("one layer alive", 1, ""),
            Option(
                "kept for every layer, as only training does",
                layers,
                f"x {layers} layers",
                "training" in case.phases,
            ),
        ],
        [Option("in 16 bits", 2, "x 2 B"), Option("in 8 bits", 1, "x 1 B")],
    ]
    for found in products(axes, "bytes"):
        yield found._replace(departures=found.labels)


def _new_tokens(plan: Plan) -> float:
    table = next(
        (table for name, table in plan.deployment.phases.items() if name == "prefill"), None
    )
    return max(plan.deployment.batch.prefill_chunk, table.grid[0].tokens if table else 0.0)


def elements_of(linear: Linear) -> int:
    return linear.copies * linear.inputs * linear.outputs


def shapes(linears: Sequence[Linear]) -> str:
    """The shapes, equal ones once: "(4 x 1024 x 1024)"."""
    shapes: dict[tuple[int, int], int] = {}
    for linear in linears:
        shape = (linear.inputs, linear.outputs)
        shapes[shape] = shapes.get(shape, 0) + linear.copies
    parts = [
        f"{f'{count} x ' if count > 1 else ''}{inputs} x {outputs}"
        for (inputs, outputs), count in shapes.items()
    ]
    return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"
