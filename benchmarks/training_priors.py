"""Priors of training's constants: mean, and sigma of the logarithm.

STEP's were set while reading the residuals of the very rows that they are fitted to; NEUTRAL puts
what was learned there back to what a datasheet or nobody knows, with wide sigmas. ASSUMED are not
fitted: the rows do not determine them. Frozen: no prior may follow another look at the rows.
"""

from __future__ import annotations


class Priors(dict[str, tuple[float, float]]):
    """{constant: (mean, sigma)}, and in words what each means."""

    def __init__(self, **entries: tuple[float, float, str]) -> None:
        super().__init__({name: (mean, sigma) for name, (mean, sigma, _) in entries.items()})
        self.meaning = {name: words for name, (_, _, words) in entries.items()}


ASSUMED = {
    "eager": (1.1, "torch without compilation over with"),
    "ep_overlapped": (0.2, "expert exchange left where the other micro-batch hides it"),
    "dp_exposed": (0.15, "of data-parallel reduction and gathering, at least"),
    "optimizer": (1, "traffic over 30 B a local parameter"),
    "imbalance": (1.5, "hottest expert rank over the mean where the data route"),
    "jitter": (0.01, "of the step, a doubling of NVLink domains"),
    "gap_megatron": (0.0001, "seconds between two layers' passes"),
    "cp_exposed": (0.3, "of context parallelism's ring"),
    "pp_exposed": (0.5, "of sends between stages"),
    "gap_torch": (0.00025, "as above, torch"),
    "gap_megatron_2021": (0.0002, "as above, Megatron of 2021"),
    "fixed": (0.04, "seconds a step"),
    "softmax": (1, "traffic over the counted bytes: attention without flash"),
    "cast": (1, "traffic of casting inputs below 16 bits, over reading them"),
}
STEP = Priors(
    gemm_16_ampere=(0.80, 0.1, "of the dense peak that 16-bit matrix products reach"),
    gemm_16_hopper=(0.75, 0.1, "as above"),
    gemm_16_blackwell=(0.75, 0.15, "as above"),
    gemm_8_hopper=(0.62, 0.15, "8-bit"),
    gemm_8_blackwell=(0.6, 0.15, "8-bit"),
    gemm_4=(0.35, 0.2, "4-bit"),
    attention_ampere=(0.55, 0.15, "of the 16-bit peak that flash attention reaches"),
    attention_hopper=(0.5, 0.2, "as above"),
    attention_blackwell=(0.45, 0.25, "as above"),
    attention_torch=(0.6, 0.3, "times, in torch's frameworks"),
    wave=(0.5, 0.3, "of the last, partly filled wave of thread blocks that is lost"),
    host_low=(1.3, 0.3, "host time of an MoE layer below 16 bits, times"),
    blackwell_ultra=(1.1, 0.1, "B300 and GB300, of the rates above, times"),
    unfused=(0.5, 0.3, "of matrix products' rate: attention without flash"),
    misaligned=(0.75, 0.3, "rate where a dimension is no multiple of 64"),
    traffic_megatron_2021=(1.6, 0.3, "element-wise traffic over the counted bytes, by software"),
    traffic_torch=(1.3, 0.3, "as above"),
    traffic_megatron=(1.1, 0.3, "as above"),
    permute_traffic=(1.5, 0.4, "traffic of permuting tokens over the counted bytes"),
    moe_graphed=(0.6, 0.4, "of permuting and exchange where MoE layers are captured as graphs"),
    graphs=(0.4, 0.4, "of the host's time where MoE layers are captured as graphs"),
    nvlink=(0.75, 0.15, "of NVLink's bandwidth"),
    network=(0.75, 0.2, "of the NIC's bandwidth"),
    tp_exposed=(0.5, 0.4, "of tensor-parallel collectives that nothing hides"),
    ep_exposed=(0.9, 0.3, "of expert exchange"),
    fsdp_exposed=(0.1, 0.5, "of the shorter of a layer's work and its gathering"),
    gap_deepspeed=(1.5e-3, 0.5, "seconds between two layers' passes, Megatron-DeepSpeed"),
    engine_deepspeed=(1.05, 0.05, "whole pipeline, times"),
    host_layer=(1.5e-3, 0.4, "seconds to launch an MoE layer's pass"),
    host_expert=(5e-5, 0.5, "and for each local expert"),
    wave_grouped=(1.0, 0.7, "of `wave`, for the experts' products"),
)
NEUTRAL_MEANS = {
    **dict.fromkeys(("gemm_16_ampere", "gemm_16_hopper", "gemm_16_blackwell"), 0.75),
    **dict.fromkeys(("gemm_8_hopper", "gemm_8_blackwell"), 0.7),
    **dict.fromkeys(("attention_ampere", "attention_hopper", "attention_blackwell"), 0.5),
    **dict.fromkeys(("traffic_megatron_2021", "traffic_torch", "traffic_megatron"), 1.0),
    **dict.fromkeys(("blackwell_ultra", "moe_graphed", "graphs", "engine_deepspeed"), 1.0),
    **dict.fromkeys(("host_low", "attention_torch", "permute_traffic", "misaligned"), 1.0),
    "wave_grouped": 1.0,
    "gap_deepspeed": 1e-4,
    "gemm_4": 0.5,
    "unfused": 0.5,
    "fsdp_exposed": 0.1,
    "host_layer": 5e-4,
    "host_expert": 2e-5,
}
NEUTRAL_SIGMA = 0.5  # at least, and twice the shipped one
NEUTRAL = Priors(
    **{
        name: (
            NEUTRAL_MEANS.get(name, mean),
            max(NEUTRAL_SIGMA, 2 * sigma) if name in NEUTRAL_MEANS else sigma,
            STEP.meaning[name],
        )
        for name, (mean, sigma) in STEP.items()
    }
)
MEMORY = Priors(
    workspace_gib=(0.3, 0.5, "GiB that frameworks hold beside tensors"),
    kept=(1.1, 0.2, "activations over the counted ones"),
    working=(1.2, 0.3, "a layer's working set over its activations"),
    logit_bytes_megatron=(10.0, 0.2, "bytes a logit"),
    logit_bytes_torch=(14.0, 0.2, "as above"),
    logit_bytes_fused=(4.0, 0.2, "as above, cross-entropy in place"),
    context_gib=(3.5, 0.3, "GiB of context, communication and libraries"),
    slack=(1.05, 0.05, "reserved over allocated"),
    flat_buffers=(1.0, 0.5, "DeepSpeed's flat copies, bytes a parameter"),
    half=(0.5, 0.2, "of the activations that torch's selective checkpointing keeps"),
)
