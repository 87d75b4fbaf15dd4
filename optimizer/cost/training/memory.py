"""Bytes of a rank in training: by stage and component, at the peak.

Static: weights, gradients and Adam's state, 6 + 12/n bytes a parameter with the distributed
optimizer (Megatron-LM); activations: tensors that the backward needs, after Korthikanti et al.,
2022 (tests hold every row of their table 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optimizer.cost.training.blocks import core_shape
from optimizer.cost.training.layouts import (
    CORE_ATTENTION,
    FULL,
    HALF,
    MLA_UP,
    MLP,
    MOE,
    MOE_ACTIVATION,
    NORMS,
    REPLICATED,
    Column,
    Floats,
    TrainingLayouts,
)
from optimizer.cost.training.rates import Rates
from optimizer.cost.training.step import optimizer_ranks
from optimizer.cost.training.work import Job, Lowered, own_tokens, rank_tokens
from optimizer.layout import Ints
from optimizer.operators.operator import shards
from optimizer.spec.linears import attention_linears
from optimizer.spec.model import DenseFfn, LatentAttention, LayerType, ModelSpec, MoeFfn

STATE_BYTES = 12.0  # fp32 master weights and two moments
SCORE_BYTES = 5.0  # softmax output, dropout's output and its mask (Korthikanti et al., 2022)
NORM_SHARE = 0.3  # of a block's inputs that recomputed norms spare
COMPONENTS = (
    "weights_and_gradients",
    "optimizer",
    "activations",
    "working_set",
    "logits",
    "gathered",
    "workspace",
)


@dataclass(frozen=True)
class LayerBytes:
    """One layer on one rank [n]. kept: activations of a micro-batch under the layout's recompute
    bits; working: those that are alive while the layer's own gradients are taken."""

    count: Column
    resident: Floats  # weights and gradients
    optimizer: Floats
    kept: Floats
    working: Floats
    gathered: Floats  # its whole 16-bit parameters, where they are sharded


@dataclass(frozen=True)
class Activations:
    """By layer type, one layer and micro-batch on one rank [n]: bytes kept until the backward, and
    alive within it; and the logits of the head, a count."""

    kept: tuple[Floats, ...]
    working: tuple[Floats, ...]
    logits: Floats

    def take(self, rows: Ints) -> Activations:
        return Activations(
            tuple(column[rows] for column in self.kept),
            tuple(column[rows] for column in self.working),
            self.logits[rows],
        )


@dataclass(frozen=True)
class MemoryPieces:
    """What a stage's memory is made of; bytes of one rank [n]."""

    layers: tuple[LayerBytes, ...]
    table_resident: Floats  # embedding, or head
    table_optimizer: Floats
    table_gathered: Floats
    logits: Floats
    tied: Column
    mtp_layers: Column
    last: int  # the layer type that MTP copies

    def take(self, rows: Ints) -> MemoryPieces:
        """The chosen rows."""
        names = ("resident", "optimizer", "kept", "working", "gathered")
        layers = tuple(
            replace(layer, **{name: getattr(layer, name)[rows] for name in names})
            for layer in self.layers
        )
        tables = ("table_resident", "table_optimizer", "table_gathered", "logits")
        columns = {name: getattr(self, name)[rows] for name in tables}
        return replace(self, layers=layers, **columns)


def memory_pieces(
    lowered: Lowered, activations: Activations, layouts: TrainingLayouts, rates: Rates
) -> MemoryPieces:
    """Bytes of one layer of each type, of a table and of the logits."""
    resident, adam = state_bytes(layouts, rates, lowered.trained)
    spared = layouts.recompute_share * (1.0 - np.asarray(rates.half))
    left = 1.0 - np.where((layouts.recompute & HALF) > 0, spared, 0.0)  # every other product
    found = []
    for shape, kept, working in zip(
        lowered.layers, activations.kept, activations.working, strict=True
    ):
        dense, experts = shape.dense_parameters, shape.expert_parameters
        found.append(
            LayerBytes(
                shape.count,
                dense * resident[0] + experts * resident[1],
                dense * adam[0] + experts * adam[1],
                kept * left,
                working * left,
                2.0 * (dense + experts),
            )
        )
    table = lowered.table_parameters
    return MemoryPieces(
        tuple(found),
        table * resident[0],
        table * adam[0],
        2.0 * table,
        activations.logits * rates.logit_bytes,
        lowered.tied,
        lowered.mtp_layers,
        lowered.last,
    )


def activations_of(
    model: ModelSpec, layouts: TrainingLayouts, rates: Rates, job: Job
) -> Activations:
    """One layer's activations by layer type, and the logits; torch's selective checkpointing
    aside."""
    both = [
        activation_bytes(layer, model.hidden_size, layouts, rates, job)
        for layer in model.layer_types.values()
    ]
    tokens = rank_tokens(layouts, job)
    return Activations(
        tuple(kept for kept, _ in both),
        tuple(working for _, working in both),
        tokens * model.vocab_size / layouts.tp,
    )


def state_bytes(
    layouts: TrainingLayouts, rates: Rates, trained: Column
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Bytes a parameter, (dense, expert) each: weights with gradients, and Adam's state. Frozen
    weights (LoRA) keep their 16 bits."""
    ranks, expert_ranks = optimizer_ranks(layouts)
    found = []
    for shared in (ranks, expert_ranks):
        sharded = layouts.fully_sharded
        whole = np.where(sharded, 4.0 / shared, rates.state_bytes)
        adam = STATE_BYTES / np.where(layouts.sharding == REPLICATED, 1.0, shared)
        frozen = np.asarray(trained) < 1.0
        whole, adam = np.where(frozen, 2.0, whole), np.where(frozen, 0.0, adam)
        found.append((whole, adam))
    return (found[0][0], found[1][0]), (found[0][1], found[1][1])


def activation_bytes(
    layer: LayerType, hidden: int, layouts: TrainingLayouts, rates: Rates, job: Job
) -> tuple[Floats, Floats]:
    """(kept, working) of one micro-batch under the layout's recompute bits: recomputed whole, a
    layer keeps its input alone, and has all its tensors while its gradients are taken."""
    bits, share = layouts.recompute, layouts.recompute_share
    working = _tensors(layer, hidden, layouts, rates, job, bits)
    entry = 2.0 * own_tokens(layouts, job) * hidden
    kept = np.where((bits & FULL) > 0, entry, working)
    if np.any(share < 1):
        everything = _tensors(layer, hidden, layouts, rates, job, np.zeros_like(bits))
        kept = share * kept + (1 - share) * everything
    return kept, working


def _tensors(
    layer: LayerType,
    hidden: int,
    layouts: TrainingLayouts,
    rates: Rates,
    job: Job,
    bits: Ints,
) -> Floats:
    def left(module: int) -> Floats:
        return np.where((bits & module) > 0, 0.0, 1.0)

    tp = layouts.tp.astype(np.float64)
    tokens = rank_tokens(layouts, job)
    own = own_tokens(layouts, job)
    low = np.where(layouts.bits < 16, rates.low_input, 1.0)
    masks = np.asarray(rates.dropout) * (not getattr(layer.ffn, "gated", True))
    norms = np.where((bits & NORMS) > 0, 1 - NORM_SHARE, 1.0)
    block = (2 + 2 * low + masks) * own * hidden * norms  # norm's input, matrix's input, mask
    heads, kv_heads, qk_dim, v_dim, _ = core_shape(layer, tp, job)
    latent = isinstance(layer.attention, LatentAttention)
    inputs = 2.0 * tokens * (heads * qk_dim + kv_heads * (qk_dim + v_dim))
    if latent:
        down = sum(
            linear.outputs
            for linear in attention_linears(layer.attention, hidden)
            if linear.name in ("q_a_proj", "kv_a_proj")
        )
        inputs = inputs * left(MLA_UP) + 2.0 * tokens * down
    scores = SCORE_BYTES * heads * job.sequence_length * tokens * left(CORE_ATTENTION)
    scores = np.where(np.asarray(rates.flash) > 0, 0.0, scores)
    attention = block + inputs + 2.0 * tokens * heads * v_dim * low + scores
    if isinstance(layer.ffn, DenseFfn):
        size = shards(layer.ffn.intermediate_size, tp)
        middle = 2.0 * tokens * (1 + layer.ffn.gated + low) * size * left(MLP)
    else:
        routed = _routed_tensors(layer.ffn, hidden, layouts, low, tokens, left(MOE_ACTIVATION))
        middle, block = routed * left(MOE), (2 + 2 * low) * own * hidden
    found: Floats = attention + block + middle
    return found


def _routed_tensors(
    ffn: MoeFfn,
    hidden: int,
    layouts: TrainingLayouts,
    low: Floats,
    tokens: Floats,
    activation: Floats,
) -> Floats:
    etp = layouts.etp.astype(np.float64)
    rows = tokens * ffn.num_experts_per_token * etp / layouts.tp
    size = shards(ffn.intermediate_size, etp)
    shared = shards(ffn.shared_intermediate_size, layouts.tp.astype(np.float64))
    routed = 2.0 * low * rows * hidden + 2.0 * rows * (1 + ffn.gated + low * activation) * size
    return routed + 2.0 * tokens * (2 + ffn.gated) * shared


def in_flight(layouts: TrainingLayouts, stage: Column = 0.0) -> Floats:
    """Micro-batches whose activations stage `stage` keeps at once: min(m, pp - stage). Interleaved,
    a stage runs 2 (pp - stage - 1) + (vp - 1) pp forward passes ahead, of one chunk in vp each
    (Megatron-LM's warm-up), and one more: pp (1 + (pp - 1)/(pp vp)) on stage 0 (Korthikanti et al.,
    2022), 2/vp less on each that follows."""
    pp, vp = layouts.pp, layouts.vp
    found = np.where(vp > 1, pp + (pp - 1 - 2 * stage) / vp, pp - stage)
    held: Floats = np.maximum(np.minimum(found, layouts.micro_batches), 1.0)
    return held
