"""Fitted constants and software facts of training, read from configs/calibration/training.yaml."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

import yaml
from pydantic import Field

from optimizer.cost.training.rates import Rates
from optimizer.spec.cluster import Pool
from optimizer.spec.data import configs_root
from optimizer.spec.frozen import Frozen, Name
from optimizer.units import GIB

HBM_EFFICIENCY = 0.8  # of the datasheet (AIConfigurator's system files)
SMS = {"ampere": 108.0, "hopper": 132.0, "blackwell": 148.0}
GRAPHED_SINCE = 2026.45  # Megatron-Bridge 26.06 captures dropless MoE layers on Blackwell

Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Constant(Frozen):
    """A fitted value, and the range that it takes when each family is left out in turn."""

    value: Positive
    low: Positive
    high: Positive


class Software(Frozen):
    """What a training framework does, as far as time and memory notice; facts, not fits."""

    family: Literal["megatron", "megatron_2021", "torch"] = "megatron"
    release: float = 2026.6  # year and month / 12
    flash: bool = True
    gradient_bytes: Positive = 4.0  # a parameter, whole on each rank, beside 2 of weights
    flat_buffers: bool = False  # Megatron-DeepSpeed's copies beside its states
    deepspeed: bool = False  # gradients leave after the backward
    fused_loss: bool = False  # cross-entropy in place of the logits
    overlap_tp: bool = True  # collectives of tensor parallelism behind matrix products
    overlap_tp_gradient: bool = False  # only the inputs' gradients (Megatron-LM from late 2021 on)
    overlap_ep: bool = False  # expert exchange behind the other micro-batch (DualPipe)
    static_shapes: bool = False  # MoE with a token capacity: captured as a graph
    compiled: bool = True
    dropout: bool = True


class TrainingInterval(Frozen):
    """Half-widths of 80 % intervals in log space: value x exp(+-width)."""

    dense_step: Positive
    moe_step: Positive
    memory: Positive


class TrainingCalibration(Frozen):
    """A named set of constants with where they come from."""

    name: Name
    source: str
    date: str
    rows: int
    error: dict[str, tuple[float, float]] = Field(default_factory=dict)
    interval: TrainingInterval
    constants: dict[Name, Constant]
    software: dict[Name, Software]

    def values(self) -> dict[str, float]:
        return {name: constant.value for name, constant in self.constants.items()}


@cache
def load_training_calibration(name: str = "training") -> TrainingCalibration:
    """The calibration that ships under this name."""
    path = configs_root() / "calibration" / f"{name}.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    constants = {
        key: dict(zip(("value", "low", "high"), numbers, strict=True))
        for key, numbers in document.pop("constants").items()
    }
    text = {**document, "date": str(document["date"]), "constants": constants}
    return TrainingCalibration.model_validate(text)


def rates_of(constants: dict[str, float], pool: Pool, software: Software) -> Rates:
    """What this pool's GPUs reach under this software; generations without measurements take
    Hopper's efficiencies."""
    k, gpu = constants, pool.gpu
    generation = gpu.generation if gpu.generation in SMS else "hopper"
    ultra = k["blackwell_ultra"] if "B300" in gpu.name else 1.0
    old, torch = software.family == "megatron_2021", software.family == "torch"
    megatron = software.family == "megatron"
    graphed = megatron and software.release > GRAPHED_SINCE and generation == "blackwell"
    moe = k["moe_graphed"] if graphed else 1.0
    peak = gpu.peak_flops_per_s
    matrix_16 = peak("bf16") * k[f"gemm_16_{generation}"]
    reached_8 = k.get(f"gemm_8_{generation}", k[f"gemm_16_{generation}"])
    has_4 = "fp4" in gpu.flops_per_s
    exposed_tp = k["tp_exposed"] if software.overlap_tp and not old else 1.0
    gap = "deepspeed" if software.deepspeed else software.family
    logits = "fused" if software.fused_loss else "torch" if torch else "megatron"
    return Rates(
        memory_bytes=float(gpu.memory_bytes),
        peak_flops_16=peak("bf16"),
        flops_16=matrix_16 * ultra,
        flops_8=peak("fp8") * reached_8 * ultra,
        flops_4=(peak("fp4") * k["gemm_4"] if has_4 else peak("fp8") * reached_8) * ultra,
        misaligned=k["misaligned"],
        wave=k["wave"] * SMS[generation],
        wave_grouped=k["wave"] * k["wave_grouped"] * SMS[generation],
        attention_flops=peak("bf16")
        * k[f"attention_{generation}"]
        * ultra
        * (k["attention_torch"] if torch else 1.0),
        unfused_flops=peak("bf16") * k[f"gemm_16_{generation}"] * k["unfused"],
        softmax=k["softmax"],
        hbm_bytes_per_s=gpu.memory_bandwidth_bytes_per_s * HBM_EFFICIENCY,
        traffic=k[f"traffic_{software.family}"],
        permute_traffic=k["permute_traffic"] * moe,
        cast=k["cast"],
        nvlink_bytes_per_s=pool.intra_node.bandwidth_bytes_per_s * k["nvlink"],
        # Leaves are not told apart here: every byte between domains counts as crossing the spine.
        network_bytes_per_s=pool.spine_bytes_per_s * k["network"],
        domain=float(pool.nvlink_domain or pool.gpus_per_node),
        tp_exposed=exposed_tp,
        tp_gradient_hidden=float(software.overlap_tp_gradient),
        ep_exposed=k["ep_exposed"] * (k["ep_overlapped"] if software.overlap_ep else 1.0) * moe,
        etp_exposed=k["ep_exposed"],
        cp_exposed=k["cp_exposed"],
        pp_exposed=k["pp_exposed"],
        dp_exposed=1.0 if old else k["dp_exposed"],
        dp_window=0.0 if old else 0.3,
        fsdp_exposed=k["fsdp_exposed"],
        stage_cut=float(old),
        gap_s=k[f"gap_{gap}"],
        host_layer_s=k["host_layer"] * (k["graphs"] if graphed or software.static_shapes else 1.0),
        host_expert_s=k["host_expert"]
        * (k["graphs"] if graphed or software.static_shapes else 1.0),
        host_low=k["host_low"],
        engine=(k["engine_deepspeed"] if software.deepspeed else 1.0)
        * (1.0 if software.compiled else k["eager"]),
        optimizer=k["optimizer"],
        jitter=k["jitter"],
        fixed_s=k["fixed"],
        flash=float(software.flash),
        state_bytes=2.0
        + software.gradient_bytes
        + (k["flat_buffers"] if software.flat_buffers else 0.0),
        workspace_bytes=k["workspace_gib"] * GIB,
        kept=k["kept"],
        working=k["working"],
        logit_bytes=k[f"logit_bytes_{logits}"],
        low_input=1.0 if torch else 0.55,
        dropout=float(software.dropout and not torch),
        half=k["half"],
        slack=k["slack"],
        context_bytes=k["context_gib"] * GIB,
    )
