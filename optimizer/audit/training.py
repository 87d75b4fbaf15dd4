"""Training memory of a layout, for reports of training and those that leave the phase open."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.deriving import Derived
from optimizer.cost.training import (
    MODULES,
    Job,
    Software,
    TrainingLayouts,
    load_training_calibration,
    price,
    rates_of,
)

HELD = "every layer's activations kept"
SCORES = "every layer's activations and attention scores kept"
RECOMPUTED = "full recompute"
WHOLE_BATCH = "every GPU runs the whole batch"
KEPT = (HELD, SCORES, RECOMPUTED)
STATES = ("weights_and_gradients", "optimizer")


def training_memory(case: Case) -> Iterator[Derived]:
    """Bytes of the fullest GPU: the batch shared by the attention ranks or whole on each, scores
    kept or not, everything recomputed or nothing. One micro-batch where there is no pipeline."""
    layout = case.layout
    ranks = layout.dp * layout.replicas
    shares = [(WHOLE_BATCH, case.batch)]
    if ranks > 1:
        shares.insert(0, (f"the batch shared by {ranks} ranks", ceil(case.batch / ranks)))
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
                departs if case.phase else labels,
            )


def training_bytes(case: Case, sequences: int, kept: str) -> dict[str, float]:
    """Bytes by component with so many sequences of a rank in a step, Adam's state distributed over
    the data-parallel ranks of what they share."""
    layout, pool = case.layout, case.cluster.pools[0]
    calibration = load_training_calibration()
    pipelined = layout.pp > 1
    columns = TrainingLayouts.of(
        pool.nvlink_domain or pool.gpus_per_node,
        tp=layout.tp,
        cp=layout.cp,
        dp=layout.dp * layout.replicas,
        pp=layout.pp,
        vp=layout.vp,
        ep=layout.ep,
        etp=layout.etp,
        micro_batch=1 if pipelined else sequences,
        micro_batches=sequences if pipelined else 1,
        recompute=MODULES["full"] if kept == RECOMPUTED else 0,
    )
    rates = rates_of(calibration.values(), pool, Software(flash=kept != SCORES))
    job = Job(sequence_length=case.seq_len)
    memory = price(case.model, columns, rates, job).memory
    parts = {name: float(size[0]) for name, size in memory.fullest.parts.items()}
    return {**parts, "context": float(memory.needed[0]) - sum(parts.values())}
