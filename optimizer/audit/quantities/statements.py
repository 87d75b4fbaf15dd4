"""Statements without a figure: acyclicity, what is known, feasibility, readiness, optimality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from optimizer.audit.better import better_plans
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told
from optimizer.audit.readiness import readiness

TRUE = "true"


def acyclic(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Whether the modules of a replica sort so that each follows its inputs."""
    edges = list(module_edges(case))
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for before, after in edges:
        sorter.add(after, before)
    try:
        count = len(tuple(sorter.static_order()))
    except CycleError as error:
        return Answer((Derived("false", f"cycle: {' -> '.join(error.args[1])}"),))
    text = f"{count} modules and {len(edges)} edges sort topologically: none follows itself"
    return Answer((Derived(TRUE, text),))


def module_edges(case: Case) -> Iterator[tuple[str, str]]:
    """input -> attention -> router -> experts -> combine of each layer, then the next layer; the
    send between two stages where the pipeline is cut."""
    model, layout = case.model, case.layout
    last = "embedding"
    for index, name in enumerate(model.layer_names):
        stage = index * layout.pp // model.num_layers
        if index and stage != (index - 1) * layout.pp // model.num_layers:
            yield last, f"send to stage {stage}"
            last = f"send to stage {stage}"
        attention, combine = f"layer {index} attention", f"layer {index} combine"
        yield last, attention
        ffn = model.layer_types[name].ffn
        if ffn.kind == "moe":
            yield attention, f"layer {index} router"
            for expert in range(ffn.num_experts):
                yield f"layer {index} router", f"layer {index} expert {expert}"
                yield f"layer {index} expert {expert}", combine
        else:
            yield attention, combine
        last = combine
    yield last, "head"


DAG_NEEDS = {
    "moe.num_experts_per_token": "top-k: how many experts a token is sent to",
    "attention.num_heads": "heads: how attention is cut",
    "vocab_size": "vocabulary: the size of embedding and head",
    "moe.gated": "gating: two matrices an expert or three",
    "gpus_per_node": "GPUs of a node: which edges cross nodes",
    "hidden_size": "hidden size",
    "moe.intermediate_size": "hidden size of an expert",
    "seq_len": "sequence length",
}


def dag_information(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Layers, experts and degrees give the graph's shape; volumes and GPUs need what is listed."""
    unknown = {row.key for row in case.assumptions}
    lacking = [why for key, why in DAG_NEEDS.items() if key in unknown]
    edges = len(list(module_edges(case)))
    label = "which module follows which, without volumes and without GPUs"
    shape = f"layers and experts give {edges} dependencies of modules"
    if not lacking:
        return Answer((Derived(TRUE, f"{shape}; every size and every node is stated"),))
    text = (
        f"{shape}; communication volumes and the assignment of GPUs also need: {'; '.join(lacking)}"
    )
    return Answer((Derived("false", text, ("all of it",)), Derived(TRUE, text, (label,), (label,))))


def artefact(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """What the report names and does not hand over."""
    note = "the report names it and does not hand it over"
    return Answer(missing=(f"the thing itself: {claim.value or claim.claim}",), note=note)


def mapping(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Whether every expert and group can be given GPUs: the planner's own placement names them."""
    plan = next(iter(case.plans.values()), None)
    if plan is None:
        return Answer(missing=("a plan: the strategy cannot run",))
    groups = plan.deployment.placement.groups
    counts = ", ".join(
        f"{plan.deployment.layout.replicas * len(ranks)} {name.upper()} groups of {len(ranks[0])}"
        for name, ranks in groups.items()
        if ranks and len(ranks[0]) > 1
    )
    text = (
        f"{plan.name} places {counts}; whether the report lists the same ones, only its lists tell"
    )
    return Answer((), (f"the mapping itself: {claim.claim}",), text)


def fits(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Whether the strategy can run, in each phase; "false" claims that it cannot."""
    return Answer(tuple(_ready(case, (TRUE, "false"))))


def ready(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """READY or NOT READY, in each phase."""
    return Answer(tuple(_ready(case, ("READY", "NOT READY"))))


def _ready(case: Case, words: tuple[str, str]) -> Iterator[Derived]:
    for found in readiness(case):
        text = (
            f"{found.phase}: {found.arithmetic}"
            if found.ready
            else f"{found.phase}: {'; '.join(found.limits)}"
        )
        labels = (found.phase, found.reading) if found.reading else (found.phase,)
        departs = labels if case.phase is None else labels[1:]
        yield Derived(words[0] if found.ready else words[1], text, labels, departs)


def optimal(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """No better plan on the same GPUs, by planning without the strategy."""
    found = []
    for better in better_plans(case):
        best = better.plan == better.claimed_plan
        departs = () if case.phase else (better.phase,)
        text = f"{better.phase}: {better.comparison}"
        found.append(Derived(TRUE if best else "false", text, (better.phase,), departs))
    return Answer(tuple(found), () if found else ("a plan: nothing can run",))
