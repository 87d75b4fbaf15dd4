"""A model as families of operators, by part: each layer type, the embedding, the head, the boundary
between two stages."""

from __future__ import annotations

import numpy as np

from optimizer.operators import attention, ffn
from optimizer.operators.matrices import products
from optimizer.operators.operator import (
    ACTIVATION_BYTES,
    Columns,
    Family,
    Operator,
    collective,
    memory,
)
from optimizer.spec.linears import head_linears
from optimizer.spec.model import ModelSpec

EMBEDDING, HEAD, BOUNDARY = "embedding", "head", "boundary"
EMBEDDING_KERNELS = 3.0  # inputs of the step, positions, the table itself
SAMPLING_KERNELS = 6.0  # penalties, temperature, top-k and top-p, softmax, draw, copy to the host
SAMPLED_BYTES = 12.0  # a logit: 16 bits read, 32 written, read again and its probability kept


def lower(model: ModelSpec, engine: str = "any") -> tuple[Family, ...]:
    """All operators of one forward step, as the engine's kernels cut it.

    Columns that families read, all float64 [n]: tp, cp, dp, ep, etp, span of the layout; tp_inside
    and cp_inside (ranks of a group in one domain); leaf (GPUs of a stage under one leaf switch,
    inf: all), tp_leaf and cp_leaf (ranks of a group there); pp_inside and pp_leaf (2 where
    neighbouring stages share a domain, a leaf switch);
    tokens (new tokens of one attention rank), sequences (of one attention rank), context (cached
    tokens that a new token attends to, in the mean), logits (tokens that the head computes),
    imbalance (load of the hottest expert rank over the mean).
    """
    hidden = model.hidden_size

    def embedding(columns: Columns) -> tuple[Operator, ...]:
        moved = 2 * ACTIVATION_BYTES * columns["tokens"] * hidden
        payload = columns["tokens"] * hidden * ACTIVATION_BYTES
        return (
            memory("embedding", "embedding", moved, EMBEDDING_KERNELS),
            collective(
                "embedding_all_reduce",
                "all_reduce",
                "tp",
                payload,
                columns["tp"],
                columns["tp_inside"],
                columns["tp_leaf"],
            ),
        )

    def head(columns: Columns) -> tuple[Operator, ...]:
        matrix = head_linears(model)[:1]
        logits, tp = columns["logits"], columns["tp"]
        payload = logits * model.vocab_size / tp * ACTIVATION_BYTES
        sampled = SAMPLED_BYTES * logits * model.vocab_size
        inside, leaf = columns["tp_inside"], columns["tp_leaf"]
        return (
            *products(matrix, "head", logits, tp, model.precision),
            memory("sampling", "head", sampled, SAMPLING_KERNELS),
            collective("logits_all_gather", "all_gather", "tp", payload, tp, inside, leaf),
        )

    def boundary(columns: Columns) -> tuple[Operator, ...]:
        payload = columns["tokens"] * hidden * ACTIVATION_BYTES / columns["tp"]
        two = 0.0 * payload + 2.0
        inside = columns["pp_inside"]
        leaf = np.maximum(inside, columns["pp_leaf"])  # who shares a domain shares its leaf
        return (collective("stage_send", "send_recv", "pp", payload, two, inside, leaf),)

    layers = tuple(
        family
        for name, layer in model.layer_types.items()
        for family in (
            *attention.families(name, layer, model),
            *ffn.families(name, layer, model, engine),
        )
    )
    return (
        *layers,
        Family(EMBEDDING, ("tp", "tokens", "tp_inside", "tp_leaf"), embedding),
        Family(HEAD, ("tp", "logits", "tp_inside", "tp_leaf"), head),
        Family(BOUNDARY, ("tp", "tokens", "pp_inside", "pp_leaf"), boundary),
    )
