"""Model FLOPs and MFU by one stated convention.

Model FLOPs of a step: 6 for each token and parameter of a matrix product that the token crosses
(routed experts: those it picks; the head once, the embedding not), and for attention 12 x heads x
width x tokens read in forward and backward, causal queries reading half the sequence, at most
their window. Recomputation is no model FLOP. MFU is over the GPU's dense 16-bit peak whatever the
products ran in. `full_attention` counts the whole square, as Megatron-LM and the PaLM report do.
"""

from __future__ import annotations

import numpy as np

from optimizer.cost.training.blocks import core_shape
from optimizer.cost.training.layouts import Column, Floats
from optimizer.cost.training.work import Job
from optimizer.spec.linears import Linear, head_linears, layer_linears
from optimizer.spec.model import LayerType, ModelSpec, MoeFfn


def token_parameters(layer: LayerType, hidden: int) -> float:
    """Matrix parameters that one token crosses in a layer."""

    def crossed(linear: Linear) -> float:
        picked = layer.ffn.num_experts_per_token if isinstance(layer.ffn, MoeFfn) else 0
        copies = picked if linear.part == "experts" else 1
        return copies * linear.inputs * linear.outputs * float(linear.gemm)

    return sum(crossed(linear) for linear in layer_linears(layer, hidden))


def model_flops(
    model: ModelSpec, job: Job, global_batch: int, full_attention: bool = False
) -> float:
    """Model FLOPs of one step, forward and backward."""
    hidden, length = model.hidden_size, job.sequence_length
    read = Job(length, flash=not full_attention)
    one = np.ones(1)

    def layer_flops(layer: LayerType) -> float:
        attention = float(core_shape(layer, one, read)[4][0])
        return 6 * token_parameters(layer, hidden) + 3 * attention

    head = 6.0 * head_linears(model)[0].inputs * model.vocab_size
    last = model.layer_types[model.layer_names[-1]]
    ahead = layer_flops(last) + 6.0 * 2 * hidden * hidden + head
    a_token = sum(layer_flops(model.layer_types[name]) for name in model.layer_names)
    return global_batch * length * (a_token + head + job.mtp_layers * ahead)


def mfu(flops: float, step_s: Floats, gpus: Column, peak_flops_per_s: Column) -> Floats:
    """Share of the GPUs' dense 16-bit peak that model FLOPs make up."""
    return np.asarray(flops / (step_s * gpus * peak_flops_per_s), dtype=np.float64)
