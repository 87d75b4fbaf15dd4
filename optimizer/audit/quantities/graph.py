"""The graph of a model's modules: whether it has a cycle, and what must be stated to draw it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told

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


# What each part of the graph follows from beside layers, experts and degrees: key -> what it says.
DAG_NEEDS: dict[str, dict[str, str]] = {
    "module dependencies": {},
    "communication patterns": {
        "moe.num_experts_per_token": "top-k: how many experts a token is sent to",
        "hidden_size": "hidden size: the bytes of a token",
        "seq_len": "sequence length: the tokens of an edge",
        "gpus_per_node": "GPUs of a node: which edges cross nodes",
    },
    "GPU assignment": {
        "gpus_per_node": "GPUs of a node: which GPUs lie together",
        "attention.num_heads": "heads: whether TP cuts attention",
    },
}


def dag_information(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """Whether a part of the graph follows from what the report states, nothing assumed."""
    unknown = {row.key for row in case.assumptions}
    needs = DAG_NEEDS[claim.component or "module dependencies"]
    lacking = [why for key, why in needs.items() if key in unknown]
    edges = len(list(module_edges(case)))
    shape = f"layers, experts and degrees give {edges} dependencies of modules"
    if lacking:
        return Answer((Derived("false", f"{shape}; not stated: {'; '.join(lacking)}"),))
    return Answer((Derived(TRUE, shape),))
