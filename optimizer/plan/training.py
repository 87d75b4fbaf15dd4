"""What a training plan says beside its layout: schedule, chunks, recomputation, seconds."""

from __future__ import annotations

from typing import Literal

from optimizer.plan.numbers import Number
from optimizer.spec.frozen import Frozen
from optimizer.spec.workload import MatrixFormat, Schedule, Sharding


class LayerWork(Frozen):
    """One layer of a type under one way to recompute (or an end, without), one micro-batch, one
    rank: seconds with exposed collectives and what they go to, activations kept, parameters held.

    backward_s holds recomputation and weight_gradient_s, which zero bubble may put off.
    """

    part: str
    recompute: str
    forward_s: Number
    backward_s: Number
    weight_gradient_s: Number
    seconds: dict[str, Number]
    kept_bytes: Number
    dense_parameters: Number
    expert_parameters: Number


class ChunkWork(Frozen):
    """One chunk of a stage, one micro-batch: blocks are (first, one past the last)."""

    chunk: int
    stage: int
    blocks: tuple[int, int]
    forward_s: Number
    backward_s: Number
    weight_gradient_s: Number


class StepCollective(Frozen):
    """A collective that runs once a step over the parameters of the fullest stage: a rank's whole
    payload, and the seconds of the ring alone; what shows of all of them is the step's `dp`."""

    name: str
    kind: Literal["reduce_scatter", "all_gather", "all_reduce"]
    axis: Literal["dp", "edp"]
    group_size: int
    payload_bytes: Number
    seconds: Number


class Joint(Frozen):
    """What the joint model of layers on stages and recomputation by layer did for the best plan.

    within_reach: choices whose memory forbids to recompute nothing and whose bound is no more than
    the best step; of them `bounded` are beaten by a bound with fractions of layers, `solved` went
    to CP-SAT, `better` beat the best step so far; unproven were not solved to their end: with none
    no cut and no recomputation by layer beats the best plan (to 0.05 % of the pipeline's seconds).
    """

    status: Literal["OPTIMAL", "FEASIBLE"]
    within_reach: int
    bounded: int
    solved: int
    better: int
    unproven: int


class Training(Frozen):
    """How one step runs.

    Blocks are the embedding, the layers, MTP layers and the head; block_chunk[b] is the chunk of
    block b, whose stage is chunk % pp. recompute[l] names what layer l repeats. step_seconds are
    what a step's seconds go to on the slowest stage, and sum to step_s.
    """

    schedule: Schedule
    micro_batch: int
    micro_batches: int
    sequence_parallel: bool
    sharding: Sharding
    shard_ranks: int
    optimizer: str
    compute: MatrixFormat
    block_chunk: tuple[int, ...]
    recompute: tuple[str, ...]
    mtp_recompute: str
    layers: tuple[LayerWork, ...]
    chunks: tuple[ChunkWork, ...]
    in_flight: tuple[Number, ...]
    send_bytes: Number
    send_s: Number
    collectives: tuple[StepCollective, ...]
    step_seconds: dict[str, Number]
    model_flops: Number
    joint: Joint
