"""Number formats from quantization_config, its ignore list matched against real module names."""

from __future__ import annotations

from typing import Any, NamedTuple

from optimizer.spec.formats import Format
from optimizer.spec.huggingface.fields import Fields
from optimizer.spec.huggingface.modules import matrices
from optimizer.spec.huggingface.patterns import Patterns
from optimizer.spec.model import ModelSpec
from optimizer.spec.wording import shown

_DTYPES: dict[str, Format] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
MAX_GROUPS = 16
_METHODS = "fp8, mxfp4, compressed-tensors, modelopt, gptq, awq"


class Group(NamedTuple):
    """Modules that share a format; `activations` is what they multiply with."""

    targets: Patterns | None  # None: every linear layer
    weights: Format
    activations: str


class Scheme(NamedTuple):
    groups: tuple[Group, ...]
    ignore: Patterns
    kv_cache: str | None


def base_format(fields: Fields) -> Format | None:
    """The format of what is not quantised, from dtype or torch_dtype."""
    name = fields.text("dtype", "torch_dtype")
    if name is None or name == "auto":
        return None
    known = _DTYPES.get(name.removeprefix("torch."))
    if known is None:
        fields.problem(("dtype", "torch_dtype"), f"must be one of {', '.join(_DTYPES)}")
    return known


def scheme_of(fields: Fields) -> Scheme | None:
    """What a quantization_config says; problems go to the draft."""
    method = fields.text("quant_method")
    config = fields.under("quantization") or fields  # hf_quant_config.json nests it once more
    algorithm = config.text("quant_algo")
    if method is None and algorithm is not None:
        method = "modelopt"
    ignore = Patterns(
        text
        for key in ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers")
        for text in config.items(key) or []
        if isinstance(text, str)
    )
    _judge(config, ignore)
    groups = _groups(config, method, algorithm)
    return Scheme(groups, ignore, _kv_cache(config)) if groups else None


def _groups(fields: Fields, method: str | None, algorithm: str | None) -> tuple[Group, ...]:
    if fields.get("config_groups") is not None:
        return _listed_groups(fields)
    if method == "fp8":
        block = fields.items("weight_block_size")
        fields.text("activation_scheme")
        if block is not None and block != [128, 128]:
            fields.problem(("weight_block_size",), f"must be [128, 128], not {str(block)[:40]}")
        return (Group(None, "fp8_block" if block else "fp8", "fp8"),)
    if method == "mxfp4":
        return (Group(None, "mxfp4", "bf16"),)
    if method in ("gptq", "awq", "gptq_marlin", "awq_marlin"):
        return _integers(fields, fields.whole("bits", "w_bit"), fields.get("group_size"))
    if method == "modelopt" and algorithm is not None:
        fields.get("group_size")
        if "FP4" in algorithm.upper():
            return (Group(None, "nvfp4", "bf16"),)
        if "FP8" in algorithm.upper():
            blocks = "BLOCK" in algorithm.upper() or "PB" in algorithm.upper()
            return (Group(None, "fp8_block" if blocks else "fp8", "fp8"),)
        fields.problem(("quant_algo",), f"must be FP8 or NVFP4, not {shown(algorithm)}")
        return ()
    fields.problem(
        ("quant_method",), f"must be one of {_METHODS}, not {shown(method or 'nothing')}"
    )
    return ()


def _listed_groups(fields: Fields) -> tuple[Group, ...]:
    """The groups of compressed-tensors (and of modelopt's newer files), in their order."""
    found: list[Group] = []
    listed = fields.under("config_groups")
    names = list(listed.data) if listed is not None else []
    if len(names) > MAX_GROUPS:
        fields.problem(("config_groups",), f"has more than {MAX_GROUPS} groups")
        return ()
    for name in names:
        group = listed.under(name) if listed is not None else None
        weights = group.under("weights") if group is not None else None
        if group is None or weights is None:
            continue
        inputs = group.under("input_activations")
        targets = [text for text in group.items("targets") or [] if isinstance(text, str)]
        wide = not targets or "Linear" in targets
        patterns = None if wide else Patterns(targets)
        if patterns is not None:
            _judge(group, patterns, "targets")
        size = weights.get("group_size")
        bits = weights.whole("num_bits", most=64)
        if weights.text("type") == "float" or weights.get("type") is None:
            if bits == 4:
                kind: Format = "mxfp4" if size == 32 else "nvfp4"
                found.append(Group(patterns, kind, "bf16"))
                continue
            if bits == 8:
                is_block = weights.text("strategy") == "block"
                activations = "fp8" if inputs is not None else "bf16"
                found.append(Group(patterns, "fp8_block" if is_block else "fp8", activations))
                continue
        for whole in _integers(weights, bits, size):
            both = whole.weights == "int8" and inputs is not None
            found.append(Group(patterns, whole.weights, "int8" if both else "bf16"))
    return tuple(found)


def _integers(fields: Fields, bits: int | None, size: Any) -> tuple[Group, ...]:
    if bits == 4:
        return (Group(None, "int4" if size == 32 else "int4_g128", "bf16"),)
    if bits == 8:
        return (Group(None, "int8", "bf16"),)
    fields.problem(("bits", "num_bits"), f"must be 4 or 8, not {shown(bits)}")
    return ()


def _kv_cache(fields: Fields) -> str | None:
    """The format of the KV cache where the checkpoint carries scales for it."""
    algorithm = fields.get("kv_cache_quant_algo", "kv_cache_scheme")
    if isinstance(algorithm, str):
        return "fp8" if "8" in algorithm else None
    if isinstance(algorithm, dict):
        is_float = algorithm.get("type", "float") == "float"
        return ("fp8" if is_float else "int8") if algorithm.get("num_bits") == 8 else None
    return None


def _judge(fields: Fields, patterns: Patterns, key: str = "ignore") -> None:
    if patterns.too_many:
        fields.problem((key,), "lists more patterns than any model needs")
    for expression in patterns.refused[:5]:
        fields.problem((key,), f"holds {shown(expression)}, which is no simple pattern")


def precision_of(
    model: ModelSpec, model_type: str, base: Format, scheme: Scheme | None
) -> tuple[dict[str, Any], list[str]]:
    """The format of each part, and notes on what one format a part cannot say.

    Embedding, head, router and norms stay as they are: no engine here runs them quantised.
    """
    parts: dict[str, Any] = dict.fromkeys(
        ("attention", "ffn", "shared_experts", "experts", "router", "embedding", "head", "norm"),
        base,
    )
    activations = str(base)
    notes: list[str] = []
    if scheme is None or scheme.ignore.too_many:
        return {**parts, "activations": activations}, notes
    weight: dict[str, dict[Format, int]] = {}
    for part, names, count in matrices(model, model_type):
        group = _group_of(names, scheme)
        kind = base if group is None else group.weights
        held = weight.setdefault(part, {})
        held[kind] = held.get(kind, 0) + count
        if group is not None and group.activations != "bf16":
            activations = group.activations
    for name, held in weight.items():
        kind = max(held, key=lambda kind: held[kind])
        parts[name] = kind
        others = sum(held.values()) - held[kind]
        if others:
            share = 100 * others / sum(held.values())
            notes.append(f"{name}: {share:.2g} % of the weights are not {kind}; counted as {kind}")
    return {**parts, "activations": activations}, notes


def _group_of(names: tuple[str, ...], scheme: Scheme) -> Group | None:
    if scheme.ignore.match(names):
        return None
    for group in scheme.groups:
        if group.targets is None or group.targets.match(names):
            return group
    return None
