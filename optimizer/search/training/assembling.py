"""A chosen training candidate as a plan: chunks, recomputation, memory and step by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optimizer.cost.training.accounting import mfu, model_flops
from optimizer.cost.training.layouts import (
    ONE_F_ONE_B,
    PARAMETERS,
    REPLICATED,
    TrainingLayouts,
)
from optimizer.layout import ParallelLayout
from optimizer.plan import (
    Balance,
    Batch,
    Deployment,
    Joint,
    Memory,
    Plan,
    Prediction,
    Provenance,
    StageMemory,
    Training,
)
from optimizer.search.assembling import EVEN_EXPERTS, limits_of, proof_of, skew, sources_of
from optimizer.search.choosing import Chosen, Ranked
from optimizer.search.degrees import shapes_of
from optimizer.search.placing import Share, place
from optimizer.search.training.candidates import TrainingCandidates, training_layouts
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.stages import Staged, staged
from optimizer.search.training.work import chunk_works, collectives_of, layer_works, send_of
from optimizer.spec.frozen import Assumption
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import MatrixFormat, Schedule, Sharding
from optimizer.units import exact
from optimizer.version import __version__

WORDS = {  # components of the cost model, for a reader
    "weights_and_gradients": "weights and gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "working_set": "working set",
    "logits": "logits",
    "gathered": "gathered parameters",
    "workspace": "workspace",
}
FORMATS: dict[int, MatrixFormat] = {16: "bf16", 8: "fp8", 4: "fp4"}


def assemble_training(
    job: TrainingJob, ranked: Ranked, rank: int, chosen: Chosen, space: Mapping[str, Any]
) -> Plan:
    """One ranked plan, whole but for the others beside it and its hash."""
    candidate, layout = ranked.candidate, ranked.layout
    assert isinstance(candidate, TrainingCandidates)
    rows = training_layouts(job, candidate)
    cut = staged(job, rows, candidate.mode[0], candidate.counts[0])
    ((shape,),) = shapes_of(candidate)
    packings = tuple(each for each in ranked.choice.packings if each[1].shape == shape)
    shares = (Share(job.pool, layout.pp, shape.span),)
    placement = place(
        job.cluster, job.model, layout, shares, packings, job.workload, cut.chunk_layers
    )
    memory = _memory(job, cut)
    model: ModelSpec = space["model"]
    workload = job.workload
    batch = workload.global_batch
    deployment = Deployment(
        role="training",
        pool=job.cluster.pools[job.pool].name,
        precision=job.model.precision,
        layout=layout,
        name=layout.name,
        gpus=layout.gpus,
        batch=Batch(
            sequences_per_rank=batch // layout.dp,
            prefill_chunk=0,
            micro_batches=int(rows.micro_batches[0]),
            concurrency_per_replica=float(batch),
            concurrency=float(batch),
        ),
        placement=placement,
        memory=memory,
        phases={},
        balance=_balance(cut, memory, len(placement.idle_gpus)),
        training=_training(job, rows, layout, cut, ranked, chosen),
    )
    calibration = job.calibration
    return Plan(
        name=layout.name,
        rank=rank,
        objective=chosen.objective,
        cluster=job.cluster,
        model=model,
        workload=workload,
        deployments=(deployment,),
        predictions=_predictions(job, ranked),
        limits=tuple(limits_of(candidate, layout.gpus)),
        proof=proof_of(ranked, chosen, space),
        others=(),
        assumptions=(
            *job.cluster.assumptions,
            *model.assumptions,
            *workload.assumptions,
            *cost_assumptions(job),
        ),
        sources=tuple(sources_of(job.cluster, model, workload)),
        provenance=Provenance(
            tool="parallel-strategy-optimizer",
            version=__version__,
            calibration=calibration.name,
            calibration_date=calibration.date,
            calibration_rows=calibration.rows,
        ),
    )


def _memory(job: TrainingJob, cut: Staged) -> Memory:
    stages = []
    for stage, held in enumerate(cut.stage_bytes):
        parts = {WORDS[name]: amount for name, amount in held.items()}
        parts["context"] = job.reserve_bytes
        stages.append(StageMemory(stage=stage, components=parts, total_bytes=sum(parts.values())))
    fullest = max(stages, key=lambda stage: (stage.total_bytes, -stage.stage))
    return Memory(
        gpu_bytes=job.cluster.pools[job.pool].gpu.memory_bytes,
        limit_bytes=job.memory_limit_bytes,
        fullest_stage=fullest.stage,
        fullest_bytes=fullest.total_bytes,
        stages=tuple(stages),
    )


def _balance(cut: Staged, memory: Memory, idle: int) -> Balance:
    """Largest over mean across stages; ranks of one stage hold the same."""
    weights = [stage.components["weights and gradients"] for stage in memory.stages]
    return Balance(
        weight_bytes=skew(weights),
        memory_bytes=skew([stage.total_bytes for stage in memory.stages]),
        layers=skew([int(many) for many in cut.counts.sum(axis=(1, 2))]),
        experts=1.0,
        idle_gpus=idle,
    )


def _training(
    job: TrainingJob,
    rows: TrainingLayouts,
    layout: ParallelLayout,
    cut: Staged,
    ranked: Ranked,
    chosen: Chosen,
) -> Training:
    workload, step_s = job.workload, float(ranked.candidate.latency_s[0])
    send_bytes, send_s = send_of(job, rows, cut)
    seconds = {name: float(column[0]) for name, column in cut.priced.step.parts.items()}
    seconds["other"] += step_s - sum(seconds.values())
    return Training(
        schedule=schedule_name(rows, layout.vp),
        micro_batch=int(rows.micro_batch[0]),
        micro_batches=int(rows.micro_batches[0]),
        sequence_parallel=bool(rows.sequence_parallel[0]),
        sharding=sharding_name(rows),
        shard_ranks=int(rows.shard[0]),
        optimizer=workload.optimizer,
        compute=FORMATS[job.bits],
        block_chunk=cut.block_chunk,
        recompute=cut.layer_modes,
        mtp_recompute=cut.mtp_mode,
        layers=layer_works(job, cut),
        chunks=chunk_works(job, cut),
        in_flight=cut.in_flight,
        send_bytes=send_bytes,
        send_s=send_s,
        collectives=collectives_of(job, rows, cut),
        step_seconds=seconds,
        model_flops=model_flops(job.model, job.step, workload.global_batch),
        joint=joint_of(chosen),
    )


def joint_of(chosen: Chosen) -> Joint:
    """What the joint model did, from the account of the run."""
    told = chosen.account.joint
    return Joint(
        status="FEASIBLE" if told["unproven"] else "OPTIMAL",
        **{name.replace(" ", "_"): many for name, many in told.items()},
    )


def schedule_name(rows: TrainingLayouts, vp: int) -> Schedule:
    """What the workload calls the schedule of a single row."""
    if int(rows.schedule[0]) != ONE_F_ONE_B:
        return "zero_bubble"
    return "interleaved" if vp > 1 else "1f1b"


def sharding_name(rows: TrainingLayouts) -> Sharding:
    """What the workload calls the sharding of a single row."""
    kind, ranks = int(rows.sharding[0]), int(rows.dp[0] * rows.cp[0])
    if kind == REPLICATED:
        return "none"
    if kind == PARAMETERS:
        return "parameters" if int(rows.shard[0]) == ranks else "hybrid"
    return "optimizer"


def _predictions(job: TrainingJob, ranked: Ranked) -> dict[str, Prediction]:
    candidate, widths = ranked.candidate, job.calibration.interval
    fitted = job.calibration
    source = f"operators, calibration {fitted.name} of {fitted.date}, {fitted.rows} rows"
    width = widths.dense_step if job.model.moe is None else widths.moe_step
    live, step_s = job.cluster.num_live_gpus, float(candidate.latency_s[0])

    def prediction(value: float, spread: float, origin: str = source) -> Prediction:
        low, high = value * float(np.exp(-spread)), value * float(np.exp(spread))
        return Prediction(value=value, low=low, high=high, source=origin)

    flops = model_flops(job.model, job.step, job.workload.global_batch)
    peak = float(np.max(job.rates.peak_flops_16))
    share = mfu(flops, candidate.latency_s, ranked.layout.gpus, peak)
    tokens = float(candidate.tokens_per_s[0])
    return {
        "step_s": prediction(step_s, width),
        "tokens_per_s": prediction(tokens, width),
        "tokens_per_s_per_gpu": prediction(tokens / live, width),
        "mfu": prediction(float(share[0]), width),
        "memory_bytes": prediction(
            float(candidate.memory_bytes[0]), widths.memory, f"tensors by stage, {source}"
        ),
    }


def cost_assumptions(job: TrainingJob) -> list[Assumption]:
    """What the cost model takes where the workload leaves it open."""
    found = []
    if job.workload.expert_imbalance is None:
        found.append(EVEN_EXPERTS)
    if job.workload.runtime_reserve_bytes is None:
        found.append(
            Assumption(
                key="workload.runtime_reserve",
                value=exact(job.reserve_bytes, "B"),
                why="context and communication libraries, fitted on measured peaks of training",
            )
        )
    return found
