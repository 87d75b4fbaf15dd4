"""One load in each phase: a batch as one forward pass, as requests in flight, as a step's batch."""

from __future__ import annotations

from typing import Final, NamedTuple

from optimizer.audit.finding import Phase
from optimizer.spec.frozen import Assumption
from optimizer.spec.workload import ForwardWorkload, ServingWorkload, TrainingWorkload

Load = ForwardWorkload | ServingWorkload | TrainingWorkload

OUTPUT = Assumption(
    key="output_len",
    value="128",
    why="the report leaves the phase open; serving is judged with so many output tokens a request",
)
SOFTWARE = Assumption(
    key="software",
    value="Megatron-LM core of mid 2026, flash attention, mixed precision, adam",
    why="steps are priced by what this software reached; older or other frameworks are slower",
)
PHASES: tuple[Phase, ...] = ("forward", "serving", "training")
# A plan's prediction that a phase waits for, and what is done in that time.
TIMES: Final[dict[str, tuple[str, str]]] = {
    "forward": ("latency_s", "a pass"),
    "serving": ("tpot_s", "a token"),
    "training": ("step_s", "a step"),
}

CHOICES = (  # what a training workload may say of how it is run
    "micro_batch",
    "sequence_parallel",
    "max_context_parallel",
    "recompute",
    "sharding",
    "schedules",
)


class Batch(NamedTuple):
    """Sequences of one pass or step, or requests in flight, and the tokens of one of them."""

    sequences: int
    tokens: int


def batch_of(workload: Load) -> Batch:
    if isinstance(workload, ForwardWorkload):
        return Batch(workload.batch, workload.seq_len)
    if isinstance(workload, TrainingWorkload):
        return Batch(workload.global_batch, workload.sequence_length)
    return Batch(workload.concurrency or 1, workload.input_len)


def with_batch(workload: Load, sequences: int) -> Load:
    """The workload with another batch."""
    key = {"forward": "batch", "serving": "concurrency", "training": "global_batch"}[workload.kind]
    return workload.model_copy(update={key: sequences})


def workload_in(phase: Phase, workload: Load) -> Load:
    """The workload as a phase has it, itself where it is of that phase."""
    if workload.kind == phase:
        return workload
    sequences, tokens = batch_of(workload)
    engine, margin = workload.engine, workload.memory_margin
    if phase == "forward":
        return ForwardWorkload(engine=engine, memory_margin=margin, batch=sequences, seq_len=tokens)
    if phase == "training":
        return TrainingWorkload(
            engine=engine, memory_margin=margin, global_batch=sequences, sequence_length=tokens
        )
    return ServingWorkload(
        engine=engine,
        memory_margin=margin,
        input_len=tokens,
        output_len=int(OUTPUT.value),
        concurrency=sequences,
    )


def freed(workload: Load) -> Load:
    """The job alone: how a step is run is left to the planner."""
    if not isinstance(workload, TrainingWorkload):
        return workload
    fields = TrainingWorkload.model_fields
    return workload.model_copy(update={name: fields[name].default for name in CHOICES})
