"""The model that the flags of Megatron-LM's own training script describe."""

from __future__ import annotations

import ast
from typing import Any

from optimizer.audit.launch.flags import Settings
from optimizer.errors import Problem, SpecError
from optimizer.spec.document import Document
from optimizer.spec.model import ModelSpec
from optimizer.spec.model_file import model_of

KV_RANK, HEAD, ROTARY, VALUE = 32, 128, 64, 128  # of latent attention where nothing is said
MOST_LAYERS = 10_000


def model_of_flags(settings: Settings) -> ModelSpec:
    """The shape that a command states; raises SpecError where it lacks a size."""
    values = settings.values
    needed = {"num_layers": "--num-layers", "hidden_size": "--hidden-size"}
    needed |= {"num_heads": "--num-attention-heads"}
    absent = [flag for key, flag in needed.items() if key not in values]
    if absent:
        message = f"the command has no {', '.join(absent)}; state it, or add --model with a preset"
        raise SpecError(Problem(message))
    hidden, layers = values["hidden_size"], values["num_layers"]
    gated = bool(values.get("gated"))
    inner = values.get("ffn_hidden_size", 4 * hidden)
    attention = _latent(settings) if values.get("latent_attention") else _grouped(settings)
    ffn = {"intermediate_size": inner, "gated": gated}
    data: dict[str, Any] = {
        "name": "the command's model",
        "num_layers": layers,
        "hidden_size": hidden,
        "attention": attention,
        "tied_embeddings": not values.get("untied"),
        "precision": "bf16",
    }
    if values.get("mtp_layers"):
        data["mtp"] = values["mtp_layers"]
    if "vocab_size" in values:
        data["vocab_size"] = values["vocab_size"]
    if "num_experts" not in values:
        return model_of(Document("the command", {**data, "ffn": ffn}))
    moe = {
        "num_experts": values["num_experts"],
        "num_experts_per_token": values.get("experts_per_token", 2),
        "intermediate_size": values.get("expert_hidden_size", inner),
        "shared_intermediate_size": values.get("shared_hidden_size", 0),
        "gated": gated,
    }
    pattern = moe_pattern(values.get("moe_layers", "1"), layers)
    if all(pattern):
        return model_of(Document("the command", {**data, "moe": moe}))
    del data["attention"], data["num_layers"]
    data["layer_types"] = {
        "dense": {"attention": attention, "ffn": {"kind": "dense", **ffn}},
        "moe": {"attention": attention, "ffn": {"kind": "moe", **moe}},
    }
    data["layers"] = [{"types": ["moe" if each else "dense"], "repeat": 1} for each in pattern]
    return model_of(Document("the command", data))


def _grouped(settings: Settings) -> dict[str, Any]:
    """Without its switch Megatron-LM takes no notice of the number of query groups."""
    values = settings.values
    hidden, heads = values["hidden_size"], values["num_heads"]
    kv_heads = values.get("num_query_groups", 1) if values.get("grouped_query") else heads
    head_dim = values.get("head_dim", max(1, hidden // heads))
    return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}


def _latent(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "num_heads": settings.count("num_heads"),
        "kv_lora_rank": settings.count("kv_rank", KV_RANK),
        "qk_nope_head_dim": settings.count("latent_head", HEAD),
        "qk_rope_head_dim": settings.count("rotary_head", ROTARY),
        "v_head_dim": settings.count("value_head", VALUE),
    }
    if settings.values.get("q_rank"):
        found["q_lora_rank"] = settings.count("q_rank")
    return found


def moe_pattern(text: str, layers: int) -> list[bool]:
    """--moe-layer-freq: every n-th layer from the first on, or a list such as [0]*3+[1]*58."""
    try:
        found = _listed(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        message = f"'--moe-layer-freq {text[:40]}' must be a whole number or [0]*3+[1]*58"
        raise SpecError(Problem(message)) from None
    if isinstance(found, int):
        return [layer % max(1, found) == 0 for layer in range(layers)]
    if len(found) != layers:
        message = f"'--moe-layer-freq {text[:40]}' names {len(found)} layers of {layers}"
        raise SpecError(Problem(message))
    return [bool(each) for each in found]


def _listed(node: ast.expr) -> int | list[int]:
    """Lists of 0 and 1, joined by + and repeated by *."""
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value < MOST_LAYERS:
        return node.value
    if isinstance(node, ast.List):
        return [each for part in node.elts if isinstance(each := _listed(part), int)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _listed(node.left), _listed(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right
        if isinstance(node.op, ast.Mult) and isinstance(left, list) and isinstance(right, int):
            return left * right
    raise ValueError("no pattern")
