"""Model x training layouts -> the work of one layer, the head and the embedding on one rank.

Forward, one micro-batch; prices of the backward follow from the same counts. Matrices come from
spec.linears, so that FLOPs, weights and shards have one source.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optimizer.cost.training.blocks import attention_works, dense_works, moe_works
from optimizer.cost.training.layouts import TrainingLayouts
from optimizer.cost.training.work import (
    Job,
    Layer,
    Lowered,
    Work,
    own_tokens,
    product,
    rank_tokens,
)
from optimizer.operators.operator import shards
from optimizer.spec.linears import head_linears, layer_linears, parameters
from optimizer.spec.model import DenseFfn, LayerType, ModelSpec, MoeFfn

__all__ = ["Job", "Layer", "Lowered", "Work", "lower"]

VOCAB_MULTIPLE = 128  # Megatron pads the vocabulary to this times tp


def lower(model: ModelSpec, layouts: TrainingLayouts, job: Job) -> Lowered:
    """Each layer type once, the head with its loss, and the embedding."""
    hidden, tp = model.hidden_size, layouts.tp.astype(np.float64)
    tokens = rank_tokens(layouts, job)
    names = tuple(model.layer_types)
    vocab = VOCAB_MULTIPLE * np.ceil(model.vocab_size / (VOCAB_MULTIPLE * tp))
    head = product("head", (head_linears(model)[0],), tokens, tp, 0)
    logits = tokens * model.vocab_size / tp
    return Lowered(
        layers=tuple(
            _layer(layer, model, layouts, job, model.layer_names.count(name))
            for name, layer in model.layer_types.items()
        ),
        last=names.index(model.layer_names[-1]),
        head=(
            replace(head, low=0.0),  # 16 bits whatever the layers run in
            Work("loss", "memory", 0.0, 16.0 * logits),
        ),
        embedding=(Work("embedding", "memory", 0.0, 8.0 * own_tokens(layouts, job) * hidden),),
        table_parameters=vocab * hidden,
        stage_bytes=2.0 * tokens * hidden,
        tied=float(model.tied_embeddings),
        mtp_layers=float(job.mtp_layers),
        trained=job.trained,
        imbalance=job.imbalance,
    )


def _layer(
    layer: LayerType, model: ModelSpec, layouts: TrainingLayouts, job: Job, count: int
) -> Layer:
    tp, hidden = layouts.tp.astype(np.float64), model.hidden_size
    experts = layer.ffn.num_experts if isinstance(layer.ffn, MoeFfn) else 0
    local = np.ceil(experts / layouts.ep)
    dense = np.zeros(len(layouts))
    routed = np.zeros(len(layouts))
    for linear in layer_linears(layer, hidden):
        if linear.part == "experts":
            one = parameters(linear) / linear.copies
            held = shards(linear.units, layouts.etp.astype(np.float64)) / linear.units
            routed += local * one * held
        else:
            degree = 1.0 if linear.split == "none" else shards(linear.units, tp) / linear.units
            dense += parameters(linear) * degree
    works = (
        *attention_works(layer, hidden, layouts, job),
        *(
            dense_works(layer.ffn, hidden, layouts, job)
            if isinstance(layer.ffn, DenseFfn)
            else moe_works(layer.ffn, hidden, layouts, job)
        ),
    )
    return Layer(works, float(count), dense, routed, local)
