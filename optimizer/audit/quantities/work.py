"""FLOPs of one token: 2 an element of every matrix that it crosses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Axis, Derived, Option, products
from optimizer.audit.own_figures import Told
from optimizer.audit.quantities.memory import attention_kinds, elements_of, shapes
from optimizer.spec.model import DenseFfn, Ffn

PARTS = ("attention", "experts", "total")


def flops_per_token(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Matrix products of one token in attention's projections, in the FFN (dense, or the experts
    that it is sent to), or in both; left out: attention's scores, which grow with the context,
    router, head."""
    return Answer(tuple(token_work(case, claim.component or "total")))


def token_work(case: Case, part: str) -> Iterator[Derived]:
    """Every reading: FLOPs or multiply-adds, of the model or of one GPU's share."""
    counting: Axis = [
        Option("2 FLOP a multiply-add", 2, "x 2 FLOP"),
        Option("multiply-adds", 1, "multiply-adds"),
    ]
    if part != "total":
        matrices, degree = _matrices(case, part)
        yield from products([[matrices], counting, _share(degree)], "FLOP")
        return
    for attention in token_work(case, "attention"):
        for experts in token_work(case, "experts"):
            value = float(attention.value) + float(experts.value)
            yield Derived(
                value,
                f"attention {attention.arithmetic}; experts {experts.arithmetic}; "
                f"in all {show(value, 'FLOP')}",
                (),
                (
                    *(f"attention: {label}" for label in attention.departures),
                    *(f"experts: {label}" for label in experts.departures),
                ),
            )


def _share(degree: int) -> Axis:
    whole = Option("of the whole model", 1, "")
    if degree == 1:
        return [whole]
    return [whole, Option("of one GPU after the TP split", 1 / degree, f"/ {degree} (TP)")]


def _matrices(case: Case, part: str) -> tuple[Option, int]:
    """(elements that one token meets over all layers, the degree that cuts them)."""
    model, layout = case.model, case.layout
    if part == "attention":
        kinds = attention_kinds(model)
        elements = sum(count * sum(map(elements_of, kind)) for kind, count in kinds.items())
        text = " + ".join(f"{count} layers x {shapes(kind)}" for kind, count in kinds.items())
        return Option("", elements, text), layout.tp
    ffns = Counter(model.layer_types[name].ffn for name in model.layer_names)
    written = [(count, *_ffn(ffn, model.hidden_size)) for ffn, count in ffns.items()]
    elements = sum(count * each for count, each, _ in written)
    text = " + ".join(f"{count} layers x {shape}" for count, _, shape in written)
    return Option("", elements, text), layout.etp if model.moe else layout.tp


def _ffn(ffn: Ffn, hidden: int) -> tuple[int, str]:
    """(elements of one FFN that a token meets, as written): its top-k experts and shared ones."""
    gates = 3 if ffn.gated else 2
    if isinstance(ffn, DenseFfn):
        size = ffn.intermediate_size
        return gates * hidden * size, f"{gates} x {hidden} x {size}"
    routed = gates * hidden * ffn.intermediate_size * ffn.num_experts_per_token
    text = f"{gates} x {hidden} x {ffn.intermediate_size} x top-{ffn.num_experts_per_token}"
    if not ffn.shared_intermediate_size:
        return routed, text
    shared = gates * hidden * ffn.shared_intermediate_size
    return routed + shared, f"({text} + {gates} x {hidden} x {ffn.shared_intermediate_size})"
