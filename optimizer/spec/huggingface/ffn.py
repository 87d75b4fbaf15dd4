"""The FFN of each layer, from a config.json: dense, or routed and shared experts."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimizer.spec.huggingface.families import Family
from optimizer.spec.huggingface.fields import Fields

_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_topk", "moe_k")


class Ffns(NamedTuple):
    """The FFN kinds of a model ("dense", "moe"), and each layer's."""

    ffn: dict[str, dict[str, Any]]
    labels: tuple[str, ...]


def ffn_kinds(fields: Fields, family: Family, num_layers: int) -> Ffns:
    """Dense everywhere, or experts in the layers that the config's rules pick."""
    size = fields.whole("intermediate_size")
    bias = bool(fields.flag("mlp_bias"))
    dense: dict[str, Any] = {"kind": "dense", "intermediate_size": size, "bias": bias}
    num_experts = fields.whole(*_NUM_EXPERTS, least=0, most=1_000_000)
    rules = _moe_layers(fields, num_layers)
    if not num_experts:
        return Ffns({"dense": dense}, ("dense",) * num_layers)
    expert_size = fields.whole("moe_intermediate_size") or size
    dense_size = fields.whole("intermediate_size_mlp") or size
    top_k = fields.whole(*_TOP_K, most=1_000_000)
    if top_k is None:
        fields.problem(_TOP_K, "is missing; write how many experts a token takes")
    elif top_k > num_experts:
        fields.problem(_TOP_K, f"is {top_k}, more than the {num_experts} experts")
    labels = tuple("moe" if is_moe else "dense" for is_moe in rules)
    moe: dict[str, Any] = {
        "kind": "moe",
        "num_experts": num_experts,
        "num_experts_per_token": top_k,
        "intermediate_size": expert_size,
        "shared_intermediate_size": _shared_size(fields, family, expert_size or 0),
        "bias": family.expert_bias,
        "router_correction": family.router_correction
        or fields.text("topk_method") == "noaux_tc"
        or bool(fields.flag("use_routing_bias")),
    }
    moe["shared_gate"] = family.shared_gate and moe["shared_intermediate_size"] > 0
    kinds = {"dense": {**dense, "intermediate_size": dense_size}, "moe": moe}
    return Ffns({label: kinds[label] for label in dict.fromkeys(labels)}, labels)


def _shared_size(fields: Fields, family: Family, expert_size: int) -> int:
    """The hidden size of all shared experts together."""
    size = fields.whole("shared_expert_intermediate_size", "shared_intermediate_size", least=0)
    count = fields.whole("n_shared_experts", "num_shared_experts", least=0, most=10_000)
    if size is not None:
        return size * max(1, count or 1)
    if count is not None:
        return count * expert_size
    return expert_size if family.shared_expert else 0


def _moe_layers(fields: Fields, num_layers: int) -> list[bool]:
    """Which layers have experts: leading dense ones, every n-th, or listed ones."""
    leading = fields.whole("first_k_dense_replace", "moe_layer_start_index", least=0) or 0
    listed = fields.items("moe_layers")
    dense_only = fields.items("mlp_only_layers") or []
    frequency = fields.get("moe_layer_freq")
    if isinstance(frequency, list):
        listed = [layer for layer, is_moe in enumerate(frequency) if is_moe]
        frequency = None
    every = fields.whole("moe_layer_freq") if frequency is not None else None
    step = fields.whole("decoder_sparse_step", "interleave_moe_layer_step")
    if listed is not None:
        return [layer in listed for layer in range(num_layers)]
    return [
        layer >= leading
        and layer not in dense_only
        and layer % (every or 1) == 0
        and (layer + 1) % (step or 1) == 0
        for layer in range(num_layers)
    ]
