"""Effects: what a change does to bytes or seconds, as a share of what stood before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.claim import Change, Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told
from optimizer.audit.phases import TIMES, with_batch
from optimizer.audit.quantities.memory import planned_bytes
from optimizer.audit.training import HELD, RECOMPUTED, training_bytes, training_memory
from optimizer.spec.model import Precision

COMPONENTS = ("total", "weights", "activations", "KV cache", "latency", "token path")


def effect(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """(after - before) / before of a component, in each phase; a baseline is what stood before."""
    change, component = claim.change or Change(), claim.component or "total"
    if change.recompute:
        return Answer(tuple(_recomputed(case)))
    before, after = case.with_strategy(claim.baseline), changed(case, change)
    if component == "token path":
        return Answer((_path(before, after)._replace(departures=()),))
    if component == "latency":
        found = [*_of_plans(before, after, component), _path(before, after)]
    else:
        found = [*_of_plans(before, after, component), *_of_training(before, after, component)]
    return Answer(tuple(found))


def changed(case: Case, change: Change) -> Case:
    """The case with a change made."""
    workload, model = case.workload, case.model
    if change.batch is not None:
        workload = with_batch(workload, change.batch)
    if change.precision is not None:
        parts = ("attention", "ffn", "shared_experts", "experts")
        data = {**model.precision.model_dump(), **dict.fromkeys(parts, change.precision)}
        model = model.with_precision(Precision.model_validate(data))
    return replace(case, workload=workload, model=model).with_strategy(change.strategy)


def _effect(case: Case, phase: str, old: float, new: float, text: str) -> Derived:
    share = (new - old) / old
    departs = () if case.phase else (phase,)
    return Derived(share, f"{text} = {100 * share:+.4g} %", (phase,), departs)


def _of_plans(before: Case, after: Case, component: str) -> Iterator[Derived]:
    for phase in before.plans:
        if phase not in after.plans or (phase == "training" and component != "latency"):
            continue
        plans = before.plans[phase], after.plans[phase]
        if component == "latency":
            name = TIMES[phase][0]
            old, new = (plan.predictions[name].value for plan in plans)
            text = f"{phase}: {show(old, 'seconds')} -> {show(new, 'seconds')}"
        else:
            old, new = (sum(planned_bytes(plan, component).values()) for plan in plans)
            text = f"{phase}: {show(old, 'bytes')} -> {show(new, 'bytes')}"
        if old:
            yield _effect(before, phase, old, new, text)


def _of_training(before: Case, after: Case, component: str) -> Iterator[Derived]:
    if "training" not in before.phases or component not in ("total", "activations"):
        return
    old, new = (_shared(case, component) for case in (before, after))
    text = f"training, {HELD}: {show(old, 'bytes')} -> {show(new, 'bytes')}"
    yield _effect(before, "training", old, new, text)


def _shared(case: Case, component: str) -> float:
    """Training bytes with the batch shared by the ranks and nothing recomputed."""
    sequences = ceil(case.batch / (case.layout.dp * case.layout.replicas))
    parts = training_bytes(case, sequences, HELD)
    return parts["activations"] if component == "activations" else sum(parts.values())


def _path(before: Case, after: Case) -> Derived:
    """A token crosses every layer one after the other, whatever the pipeline."""
    old, new = before.model.num_layers, after.model.num_layers
    label = "of one token's path"
    text = f"{label}: {old} layers with pp {before.layout.pp}, {new} with pp {after.layout.pp}"
    return Derived((new - old) / old, f"{text}, none beside another = 0 %", (label,), (label,))


def _recomputed(case: Case) -> Iterator[Derived]:
    """Recompute drops what training keeps for the way back; inference keeps nothing for it."""
    for phase in case.phases:
        if phase != "training":
            text = f"{phase}: nothing is kept for a backward pass, nothing can be dropped"
            yield _effect(case, phase, 1.0, 1.0, text)
            continue
        found = {each.labels[1:]: float(each.value) for each in training_memory(case)}
        where = next(labels[0] for labels in found)
        old, new = found[where, HELD], found[where, RECOMPUTED]
        text = f"training, {where}: {show(old, 'bytes')} -> {show(new, 'bytes')}"
        yield _effect(case, phase, old, new, text)
