"""A row's shape columns -> ModelSpec; attention, and where the sizes agree all, from a preset."""

from __future__ import annotations

import re
from functools import cache

from optimizer.evaluating_training.cells import Row, number, text, whole
from optimizer.evaluating_training.names import family_of
from optimizer.spec.model import (
    DenseFfn,
    Ffn,
    GroupedQueryAttention,
    LayerRun,
    LayerType,
    ModelSpec,
    MoeFfn,
)
from optimizer.spec.reading import read_model

MOST_SHARED = 64
VOCABULARY = 51200  # GPT-2's, padded, where a row states none


def model_of(row: Row, tied: bool) -> ModelSpec | None:
    """The model of a row; None without layers or hidden size."""
    layers, hidden, heads = whole(row, "layers"), whole(row, "hidden"), whole(row, "heads")
    if layers is None or hidden is None:
        return None
    preset = family_of(text(row, "model")).preset
    known = _preset(preset) if preset else None
    if known and (known.num_layers, known.hidden_size) == (layers, hidden):
        return known
    alike = known is not None and _heads(known) == heads
    attention = known.layer_types[known.layer_names[-1]].attention if known and alike else None
    if attention is None:
        heads = heads or max(hidden // 128, 1)
        attention = GroupedQueryAttention(
            num_heads=heads,
            num_kv_heads=whole(row, "kv_heads") or heads,
            head_dim=whole(row, "head_dim") or max(hidden // heads, 1),
        )
    dense = LayerType(attention=attention, ffn=_dense(row, hidden))
    types, runs = {"dense": dense}, [LayerRun(types=("dense",), repeat=layers)]
    if whole(row, "experts"):
        leading = min(_leading_dense(row), layers - 1)
        types = {"moe": LayerType(attention=attention, ffn=_experts(row, hidden))}
        runs = [LayerRun(types=("moe",), repeat=layers - leading)]
        if leading:
            types["dense"] = LayerType(attention=attention, ffn=_gated(_dense(row, hidden)))
            runs.insert(0, LayerRun(types=("dense",), repeat=leading))
    return ModelSpec(
        name=text(row, "model")[:120] or "model",
        hidden_size=hidden,
        vocab_size=whole(row, "vocab") or VOCABULARY,
        tied_embeddings=tied,
        layer_types=types,
        layers=tuple(runs),
        mtp=known.mtp if known else None,
    )


@cache
def _preset(name: str) -> ModelSpec:
    return read_model(name).model


def _heads(model: ModelSpec) -> int | None:
    attention = model.layer_types[model.layer_names[-1]].attention
    return getattr(attention, "num_heads", None)


def _dense(row: Row, hidden: int) -> DenseFfn:
    """Four times the hidden size is the plain FFN of GPT; any other width is gated."""
    size = whole(row, "ffn_hidden") or whole(row, "moe_ffn_hidden") or 4 * hidden
    return DenseFfn(intermediate_size=size, gated=size != 4 * hidden)


def _gated(ffn: DenseFfn) -> DenseFfn:
    return ffn.model_copy(update={"gated": True})


def _experts(row: Row, hidden: int) -> Ffn:
    size = whole(row, "moe_ffn_hidden") or whole(row, "ffn_hidden") or 4 * hidden
    shared = text(row, "shared_experts")
    stated = re.search(r"intermediate\D*(\d+)", shared)
    many = number(row, "shared_experts") or 0.0
    if many > MOST_SHARED:  # a width, not a count
        many /= size
    experts = whole(row, "experts") or 1
    return MoeFfn(
        num_experts=experts,
        num_experts_per_token=min(whole(row, "topk") or 2, experts),
        intermediate_size=size,
        shared_intermediate_size=int(stated[1]) if stated else int(many * size),
    )


def _leading_dense(row: Row) -> int:
    """Dense layers before the first MoE layer: a count, or Megatron's "([0]*3+[1]*58)"."""
    pattern = re.search(r"\[0\]\*(\d+)", text(row, "dense_layers"))
    return int(pattern[1]) if pattern else int(number(row, "dense_layers") or 0)
