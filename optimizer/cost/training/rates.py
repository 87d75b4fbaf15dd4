"""What a GPU and its training software reach, in SI units: the only door of fitted constants."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from optimizer.cost.training.layouts import Column


@dataclass(frozen=True)
class Rates:
    """Effective rates and shares of one GPU under one software; a column where rows differ.

    Shares named *_exposed are what of a collective's time nothing else hides. configs/calibration/
    training.yaml says what each constant means and how it was fitted.
    """

    memory_bytes: Column  # of the GPU
    peak_flops_16: Column  # datasheet, for MFU
    flops_16: Column  # of matrix products, reached, by the bits of their inputs
    flops_8: Column
    flops_4: Column
    misaligned: Column  # share reached where a dimension is no multiple of 64
    wave: Column  # SMs x the part of a last wave that is lost
    wave_grouped: Column
    attention_flops: Column  # flash attention
    unfused_flops: Column  # batched matrix products of attention without flash
    softmax: Column  # traffic over the counted bytes, without flash
    hbm_bytes_per_s: Column
    traffic: Column  # element-wise bytes over the counted ones
    permute_traffic: Column
    cast: Column  # extra bytes of inputs below 16 bits, over the plain ones
    nvlink_bytes_per_s: Column
    network_bytes_per_s: Column
    domain: Column  # GPUs that NVLink joins
    tp_exposed: Column
    tp_gradient_hidden: Column  # 1: inputs' gradients are reduced behind the weight gradients
    ep_exposed: Column
    etp_exposed: Column
    cp_exposed: Column
    pp_exposed: Column
    dp_exposed: Column
    dp_window: Column  # share of the slowest stage's micro-batch that hides data-parallel traffic
    fsdp_exposed: Column
    stage_cut: Column  # 1: hidden states cross stages cut over tp even without sequence parallelism
    gap_s: Column  # a layer's pass
    host_layer_s: Column  # launching one MoE layer's pass
    host_expert_s: Column  # and for each local expert
    host_low: Column  # times as long below 16 bits
    engine: Column  # whole pipeline, times
    optimizer: Column  # traffic over 30 B a parameter
    jitter: Column  # a doubling of the NVLink domains
    fixed_s: Column
    flash: Column  # 1: attention never stores its scores
    # memory
    state_bytes: Column  # weights and gradients a parameter, whole on each rank
    workspace_bytes: Column
    kept: Column  # activations over the counted ones
    working: Column  # working set over one layer's activations
    logit_bytes: Column  # a logit
    low_input: Column  # bytes kept of a matrix product's input below 16 bits, over 16-bit ones
    dropout: Column  # 1: ungated models keep dropout masks
    half: Column  # share that torch's selective checkpointing keeps
    slack: Column  # reserved over allocated
    context_bytes: Column


def gathered(parts: list[Rates], rows: np.ndarray) -> Rates:
    """Columns whose row i is parts[rows[i]]."""
    return Rates(
        **{
            field.name: np.array([float(getattr(part, field.name)) for part in parts])[rows]
            for field in fields(Rates)
        }
    )
