"""The names that a model's matrices have in its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from optimizer.spec.linears import Part, layer_linears, parameters
from optimizer.spec.model import LinearAttention, ModelSpec

_ATTENTION = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "o_proj": "o_proj",
    "q_a_proj": "q_a_proj",
    "q_b_proj": "q_b_proj",
    "kv_a_proj": "kv_a_proj_with_mqa",
    "kv_b_proj": "kv_b_proj",
    "indexer_q_proj": "indexer.wq_b",
    "indexer_k_proj": "indexer.wk",
}
_LINEAR_ATTENTION = {
    "qk_proj": "in_proj_qkvz",
    "v_proj": "in_proj_qkvz",
    "z_proj": "in_proj_qkvz",
    "o_proj": "out_proj",
}
_MLP = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}


class Matrix(NamedTuple):
    """One matrix that a quantiser may convert; `names` holds its spellings in checkpoints."""

    part: Part
    names: tuple[str, ...]
    parameters: int


def matrices(model: ModelSpec, model_type: str) -> Iterator[Matrix]:
    """Every matrix of attention and FFN, layer by layer; one expert's name stands for them all."""
    experts, kinds = (
        ("block_sparse_moe.experts.0", _MIXTRAL)
        if model_type in ("mixtral", "minimax_m2")
        else ("mlp.experts.0", _MLP)
    )
    for index, name in enumerate(model.layer_names):
        layer = model.layer_types[name]
        is_linear = isinstance(layer.attention, LinearAttention)
        owner, known = (
            ("linear_attn", _LINEAR_ATTENTION) if is_linear else ("self_attn", _ATTENTION)
        )
        for linear in layer_linears(layer, model.hidden_size):
            kind = linear.name.removeprefix("expert_").removeprefix("shared_")
            if linear.part == "attention" and kind in known:
                modules: tuple[str, ...] = (f"{owner}.{known[kind]}",)
            elif linear.part == "ffn":
                modules = (f"mlp.{_MLP[kind]}",)
            elif linear.part == "experts":
                modules = (f"{experts}.{kinds[kind]}",)
            elif linear.part == "shared_experts":
                modules = (f"mlp.shared_experts.{_MLP[kind]}", f"mlp.shared_expert.{_MLP[kind]}")
            else:
                continue
            names = tuple(f"model.layers.{index}.{module}" for module in modules)
            yield Matrix(linear.part, names, parameters(linear))
