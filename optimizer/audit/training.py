"""Bytes of a training step, for reports of training and those that leave the phase open."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from optimizer.audit.amounts import show
from optimizer.audit.better import said
from optimizer.audit.case import Case
from optimizer.audit.deriving import Derived
from optimizer.cost.training import (
    MODULES,
    SHARDINGS,
    Job,
    Software,
    TrainingLayouts,
    load_training_calibration,
    price,
    rates_of,
)
from optimizer.plan import Plan
from optimizer.spec.workload import TrainingWorkload

HELD = "every layer's activations kept"
SCORES = "every layer's activations and attention scores kept"
RECOMPUTED = "full recompute"
WHOLE_BATCH = "every GPU runs the whole batch"
KEPT = (HELD, SCORES, RECOMPUTED)
MEAN = "in the mean over the stages"
WEIGHT_BYTES, GRADIENT_BYTES = 2, 4  # a parameter: bf16; fp32, whole on each rank
STATES = ("weights_and_gradients", "optimizer")


def training_memory(case: Case) -> Iterator[Derived]:
    """Bytes of the fullest GPU: the batch shared by the attention ranks or whole on each, scores
    kept or not, everything recomputed or nothing. One micro-batch where there is no pipeline and
    the report states none."""
    shares, trains = _shares(case), isinstance(case.workload, TrainingWorkload)
    for where, sequences in shares:
        for kept in KEPT:
            parts = training_bytes(case, sequences, kept)
            total = sum(parts.values())
            labels = ("training", where, kept)
            departs = tuple(label for label in labels[1:] if label not in (shares[0][0], HELD))
            written = " + ".join(
                f"{name.replace('_', ' ')} {size / 1e9:,.2f} GB"
                for name, size in parts.items()
                if size
            )
            yield Derived(
                total,
                f"training, {where}, {kept}: {written} = {show(total, 'bytes')}",
                labels,
                departs if case.phase and not trains else labels,
            )


def _shares(case: Case) -> list[tuple[str, int]]:
    """Sequences of a rank in a step, and how they come about."""
    ranks = case.layout.dp * case.layout.replicas
    each = ceil(case.batch / ranks)
    if isinstance(case.workload, TrainingWorkload):
        micro = case.workload.micro_batch or 1
        return [(f"{each} sequences of a rank in micro-batches of {micro}", each)]
    shared = [(f"the batch shared by {ranks} ranks", each)] if ranks > 1 else []
    return [*shared, (WHOLE_BATCH, case.batch)]


def training_bytes(case: Case, sequences: int, kept: str) -> dict[str, float]:
    """Bytes by component with so many sequences of a rank in a step, Adam's state distributed over
    the data-parallel ranks of what they share."""
    layout, pool = case.layout, case.cluster.pools[0]
    calibration = load_training_calibration()
    micro_batch, sharding = 1 if layout.pp > 1 else sequences, "optimizer"
    if isinstance(case.workload, TrainingWorkload):
        micro_batch = min(case.workload.micro_batch or 1, sequences)
        stated = case.workload.sharding
        sharding = stated[0] if len(stated) == 1 and stated[0] in SHARDINGS else sharding
    columns = TrainingLayouts.of(
        pool.nvlink_domain or pool.gpus_per_node,
        tp=layout.tp,
        cp=layout.cp,
        dp=layout.dp * layout.replicas,
        pp=layout.pp,
        vp=layout.vp,
        ep=layout.ep,
        etp=layout.etp,
        micro_batch=micro_batch,
        micro_batches=sequences // micro_batch,
        sharding=SHARDINGS[sharding],
        recompute=MODULES["full"] if kept == RECOMPUTED else 0,
    )
    rates = rates_of(calibration.values(), pool, Software(flash=kept != SCORES))
    job = Job(sequence_length=case.seq_len)
    memory = price(case.model, columns, rates, job).memory
    parts = {name: float(size[0]) for name, size in memory.fullest.parts.items()}
    return {**parts, "context": float(memory.needed[0]) - sum(parts.values())}


def trained_bytes(case: Case, component: str) -> Iterator[Derived]:
    """A component on the fullest GPU of the strategy as planned, or, where it does not fit, as it
    would be. Sums that rest on what the framework keeps of its own have the interval of the
    prediction; states follow from counts."""
    found = case.plans.get("training")
    stages, head = _stages(case, found)
    parts = max(stages, key=lambda stage: sum(stage.values()))
    states, low, high = parts["weights and gradients"], None, None
    each = WEIGHT_BYTES + (WEIGHT_BYTES if _cut(case, found) else GRADIENT_BYTES)
    if component in ("weights", "gradients"):
        size = WEIGHT_BYTES if component == "weights" else each - WEIGHT_BYTES
        amount = states * size / each
        text = f"{size} of the {each} B a parameter in {show(states, 'bytes')}"
    elif component == "optimizer state":
        amount, text = parts[component], "32-bit weights and two moments, 12 B a parameter, shared"
    elif component in ("total", "activations") and found is not None:
        known = found.predictions["memory_bytes"]
        amount = known.value if component == "total" else parts[component]
        low, high = (amount * end / known.value for end in (known.low, known.high))
        text = "kept for the way back by the micro-batches in flight"
        if component == "total":
            text = " + ".join(f"{name} {size / 1e9:.4g} GB" for name, size in parts.items() if size)
    else:
        return
    text = f"{head}{text} = {show(amount, 'bytes')}"
    if low is not None and high is not None:
        text += f" ({show(low, 'bytes')} to {show(high, 'bytes')})"
    departs = () if case.phase else ("training",)
    yield Derived(amount, text, ("training", "as planned"), departs, True, low, high)
    if low is None and len(stages) > 1:  # states are often counted as parameters / GPUs
        name = "optimizer state" if component == "optimizer state" else "weights and gradients"
        held = [stage[name] for stage in stages]
        mean = amount * sum(held) / len(held) / parts[name]
        text = f"{head}in the mean over {len(held)} stages {show(mean, 'bytes')}"
        yield Derived(mean, text, ("training", MEAN), (*departs, MEAN))


def _stages(case: Case, plan: Plan | None) -> tuple[list[dict[str, float]], str]:
    """(bytes by component of each stage, how they come about)."""
    if plan is not None:
        stages = plan.deployment.memory.stages
        return [dict(stage.components) for stage in stages], f"training, planned as {said(plan)}: "
    sequences = _shares(case)[0][1]
    recompute = getattr(case.workload, "recompute", ())
    parts = training_bytes(case, sequences, RECOMPUTED if recompute == ("full",) else HELD)
    named = {name.replace("_", " "): size for name, size in parts.items()}
    named["optimizer state"] = named.pop("optimizer")
    return [named], "training, if it fitted: "


def _cut(case: Case, plan: Plan | None) -> bool:
    """Whether parameters and gradients are cut over the data-parallel ranks."""
    step = plan.deployment.training if plan is not None else None
    stated = getattr(case.workload, "sharding", ())
    kinds = (step.sharding,) if step is not None else stated
    return bool(kinds) and set(kinds) <= {"parameters", "hybrid"}
