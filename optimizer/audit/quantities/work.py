"""FLOPs of one token: 2 an element of every matrix that it crosses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Axis, Derived, Option, products
from optimizer.audit.own_figures import Told
from optimizer.audit.quantities.memory import attention_kinds, elements_of, shapes
from optimizer.spec.linears import moe_layers

PARTS = ("attention", "experts", "total")


def flops_per_token(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Matrix products of one token in attention, in experts, or in both; attention's scores grow
    with the context and are left out."""
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
    model, moe = case.model, case.model.moe
    if part == "attention":
        kinds = attention_kinds(model)
        elements = sum(count * sum(map(elements_of, kind)) for kind, count in kinds.items())
        text = " + ".join(f"{count} layers x {shapes(kind)}" for kind, count in kinds.items())
        return Option("", elements, text), case.layout.tp
    if moe is None:
        return Option("", 0, "0"), 1
    layers, gates = len(moe_layers(model)), 3 if moe.gated else 2
    per_token = moe.num_experts_per_token
    elements = layers * gates * model.hidden_size * moe.intermediate_size * per_token
    shape = f"{gates} x {model.hidden_size} x {moe.intermediate_size}"
    return Option("", elements, f"{layers} layers x {shape} x top-{per_token}"), case.layout.etp
