"""The attention of each layer, from a config.json."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimizer.spec.huggingface.families import Family
from optimizer.spec.huggingface.fields import Fields

_KINDS = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
}


class Kinds(NamedTuple):
    """The attention kinds of a model by label, and each layer's label."""

    attention: dict[str, dict[str, Any]]
    labels: tuple[str, ...]


def attention_kinds(fields: Fields, family: Family, num_layers: int, hidden: int) -> Kinds:
    """Multi-head latent attention in every layer, or the kinds that the config mixes."""
    if fields.get("kv_lora_rank") is not None:
        return Kinds({"mla": _latent(fields)}, ("mla",) * num_layers)
    labels = _labels(fields, num_layers)
    base = _grouped(fields, family, hidden)
    kinds: dict[str, dict[str, Any]] = {}
    window = fields.whole("sliding_window")
    chunk = fields.whole("attention_chunk_size")
    for label in dict.fromkeys(labels):
        if label == "linear":
            kinds[label] = _linear(fields)
        elif label == "sliding":
            kinds[label] = {**base, "window": window}
            if window is None:
                fields.problem(("sliding_window",), "is missing, and layers slide over it")
        elif label == "chunked":
            kinds[label] = {**base, "chunk": chunk}
        else:
            kinds[label] = base
    return Kinds(kinds, labels)


def _grouped(fields: Fields, family: Family, hidden: int) -> dict[str, Any]:
    heads = fields.whole("num_attention_heads", most=100_000)
    kv_heads = fields.whole("num_key_value_heads", most=100_000)
    head_dim = fields.whole("head_dim", most=100_000)
    if heads and kv_heads and heads % kv_heads:
        fields.problem(("num_key_value_heads",), f"must divide the {heads} heads")
    stated_norm = fields.flag("use_qk_norm", "qk_norm")
    over_all_heads = fields.text("qk_norm_type") == "per_layer"
    weightless = "attention_chunk_size" in fields.data  # Llama 4's q and k norms have no weights
    normed = (family.qk_norm or bool(stated_norm)) and not weightless
    bias = bool(fields.flag("attention_bias"))
    return {
        "kind": "gqa",
        "num_heads": heads,
        "num_kv_heads": kv_heads or heads,
        "head_dim": head_dim or max(1, hidden // (heads or 1)),
        "bias": bias and family.output_bias,
        "qkv_bias": bool(fields.flag("qkv_bias"))
        or (family.qkv_bias and fields.data.get("qkv_bias") is None)
        or (bias and not family.output_bias),
        "qk_norm": normed and not over_all_heads,
        "qk_norm_full": normed and over_all_heads,
        "sinks": family.sinks,
        "output_gate": bool(fields.flag("attn_output_gate")),
    }


def _latent(fields: Fields) -> dict[str, Any]:
    fields.get("num_key_value_heads", "head_dim")  # MLA has none of its own
    if fields.flag("attention_bias"):
        fields.problem(
            ("attention_bias",), "biases on latent attention are not known to the planner"
        )
    latent: dict[str, Any] = {
        "kind": "mla",
        "num_heads": fields.whole("num_attention_heads", most=100_000),
        "q_lora_rank": fields.whole("q_lora_rank"),
        "kv_lora_rank": fields.whole("kv_lora_rank"),
        "qk_nope_head_dim": fields.whole("qk_nope_head_dim"),
        "qk_rope_head_dim": fields.whole("qk_rope_head_dim"),
        "v_head_dim": fields.whole("v_head_dim"),
    }
    if fields.get("index_topk") is not None:
        latent["indexer"] = {
            "num_heads": fields.whole("index_n_heads"),
            "head_dim": fields.whole("index_head_dim"),
            "top_k": fields.whole("index_topk"),
        }
    return latent


def _linear(fields: Fields) -> dict[str, Any]:
    return {
        "kind": "linear",
        "num_key_heads": fields.whole("linear_num_key_heads"),
        "num_value_heads": fields.whole("linear_num_value_heads"),
        "key_head_dim": fields.whole("linear_key_head_dim"),
        "value_head_dim": fields.whole("linear_value_head_dim"),
        "conv_kernel": fields.whole("linear_conv_kernel_dim") or 4,
    }


def _labels(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """Each layer's kind: listed one by one, every n-th, or by the rules of older configs."""
    listed = fields.items("layer_types")
    softmax = fields.items("attn_type_list")  # MiniMax: 1 softmax, 0 lightning attention
    if softmax is not None and any(kind != 1 for kind in softmax):
        fields.problem(("attn_type_list",), "holds lightning attention, which is not known here")
    interval = fields.whole("full_attention_interval")
    pattern = fields.whole("sliding_window_pattern")
    no_rope = fields.items("no_rope_layers")
    no_rope_every = fields.whole("no_rope_layer_interval") or 4  # Llama4TextConfig's default
    window = fields.whole("sliding_window")
    slides = fields.flag("use_sliding_window")
    from_layer = fields.whole("max_window_layers", least=0)
    if listed is not None:
        return _listed(fields, listed, num_layers)
    layers = range(num_layers)
    if interval is not None:
        return tuple("linear" if (layer + 1) % interval else "full" for layer in layers)
    if fields.whole("attention_chunk_size") is not None:
        if no_rope:  # 1: rotary positions, attends inside its chunk; 0: none, attends to all
            return tuple("chunked" if no_rope[layer % len(no_rope)] else "full" for layer in layers)
        return tuple("chunked" if (layer + 1) % no_rope_every else "full" for layer in layers)
    if window is None or slides is False:
        return ("full",) * num_layers
    if pattern is not None:
        return tuple("sliding" if (layer + 1) % pattern else "full" for layer in layers)
    if slides and from_layer is not None:
        return tuple("sliding" if layer >= from_layer else "full" for layer in layers)
    return ("sliding",) * num_layers


def _listed(fields: Fields, listed: list[Any], num_layers: int) -> tuple[str, ...]:
    unknown = sorted({str(kind)[:40] for kind in listed if kind not in _KINDS})
    if unknown:
        fields.problem(
            ("layer_types",), f"names {', '.join(unknown)}; known are {', '.join(_KINDS)}"
        )
    elif len(listed) != num_layers:
        fields.problem(
            ("layer_types",), f"lists {len(listed)} layers, num_hidden_layers says {num_layers}"
        )
    else:
        return tuple(_KINDS[kind] for kind in listed)
    return ("full",) * num_layers
