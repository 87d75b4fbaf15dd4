"""config.json -> ModelSpec: the decoder layer by layer, what stands beside it, number formats."""

from __future__ import annotations

from typing import Any

from optimizer.errors import Problem, SpecError
from optimizer.spec.assumptions import table
from optimizer.spec.document import Document
from optimizer.spec.draft import Draft
from optimizer.spec.huggingface.attention import attention_kinds
from optimizer.spec.huggingface.encoders import vision_encoder
from optimizer.spec.huggingface.families import FAMILIES, FREE, FREE_ENDINGS, Family
from optimizer.spec.huggingface.ffn import ffn_kinds
from optimizer.spec.huggingface.fields import Fields
from optimizer.spec.huggingface.quantization import base_format, precision_of, scheme_of
from optimizer.spec.layer_runs import runs_of
from optimizer.spec.model import ModelSpec

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_ENCODERS = ("vision_config", "vision_tower_config", "audio_config")
_NEEDED = {
    "num_hidden_layers": "num_layers: 32",
    "hidden_size": "hidden_size: 4096",
    "vocab_size": "vocab_size: 128256",
    "num_attention_heads": "attention: {num_heads: 32, num_kv_heads: 8, head_dim: 128}",
    "intermediate_size": "ffn: {intermediate_size: 14336}",
}


def is_config(data: dict[str, Any]) -> bool:
    """Whether a mapping is a Hugging Face config.json rather than a model file of ours."""
    return any(key in data for key in ("architectures", "model_type", "num_hidden_layers")) or any(
        isinstance(data.get(key), dict) for key in _NESTED
    )


def model_of_config(document: Document, name: str, quantization: Document | None) -> ModelSpec:
    """The model of a config.json; `quantization` is a separate hf_quant_config.json."""
    draft = Draft(document)
    outer = Fields(draft, document.data)
    text = outer.under(*_NESTED) or outer
    model_type = text.text("model_type") or outer.text("model_type") or "unknown"
    family = FAMILIES.get(model_type, Family())
    notes = [] if model_type in FAMILIES else [_unknown_architecture(model_type)]
    _require(document, text, model_type)

    num_layers = text.whole("num_hidden_layers", most=10_000) or 1
    hidden = text.whole("hidden_size", most=10**7) or 1
    attention = attention_kinds(text, family, num_layers, hidden)
    ffn = ffn_kinds(text, family, num_layers)
    several = len(attention.attention) > 1
    names = [
        f"{kind}_{shape}" if several else shape
        for kind, shape in zip(attention.labels, ffn.labels, strict=True)
    ]
    layer_types = {
        name: {"attention": attention.attention[kind], "ffn": ffn.ffn[shape]}
        for name, kind, shape in zip(names, attention.labels, ffn.labels, strict=True)
    }
    tied = [found for found in (text.flag(_TIED), outer.flag(_TIED)) if found is not None]
    data: dict[str, Any] = {
        "name": name,
        "hidden_size": hidden,
        "vocab_size": text.whole("vocab_size", most=10**9),
        "tied_embeddings": tied[0] if tied else family.tied,
        "layer_types": layer_types,
        "layers": runs_of(names),
        "mtp": _mtp(text),
        "max_context": text.whole("max_position_embeddings"),
    }
    stated = base_format(text) or base_format(outer)
    if stated is None:
        row = table("model")["precision"]
        draft.assume("dtype", row.value, row.why)
    base = stated or "bf16"
    data["extra_weights"] = _encoders(draft, outer, hidden, base)
    config = text.under("quantization_config") or outer.under("quantization_config")
    if config is None and quantization is not None:
        config = Fields(Draft(quantization), quantization.data)
    scheme = scheme_of(config) if config is not None else None
    if config is not None and config.draft is not draft:
        draft.problems += config.draft.problems
    kv_cache = scheme.kv_cache if scheme is not None else None
    if kv_cache is None:
        row = table("model")["precision.kv_cache"]
        kv_cache = row.value
        draft.assume("precision.kv_cache", kv_cache, row.why)
    notes += _unread(text)
    if text is not outer:
        notes += _unread(outer)

    if draft.problems:
        raise SpecError(*draft.problems)
    plain: ModelSpec = draft.finish(ModelSpec, data)
    precision, left = precision_of(plain, model_type, base, scheme)
    whole = {
        **plain.model_dump(mode="json", by_alias=True),
        "precision": {**precision, "kv_cache": kv_cache},
        "assumptions": [found.model_dump() for found in draft.assumptions],
        "notes": [*notes, *left],
    }
    model: ModelSpec = draft.finish(ModelSpec, whole)
    return model


_TIED = "tie_word_embeddings"


def _mtp(fields: Fields) -> dict[str, int] | None:
    """Multi-token-prediction layers under the three names in use."""
    modules = fields.whole("num_mtp_modules", least=0, most=1000)
    each = fields.whole("mtp_transformer_layers", least=0, most=1000)
    count = fields.whole("num_nextn_predict_layers", "mtp_num_hidden_layers", least=0, most=1000)
    if fields.flag("use_mtp") is False:
        modules = None
    total = count or (modules or 0) * (1 if each is None else each)
    return {"num_layers": total} if total else None


def _encoders(draft: Draft, outer: Fields, hidden: int, base: str) -> list[dict[str, Any]]:
    found = []
    for key in _ENCODERS:
        fields = outer.under(key)
        if fields is None:
            continue
        encoder = vision_encoder(fields, hidden)
        if encoder is None:
            fields.problem((), "needs a depth and a hidden_size, to count its weights")
            continue
        found.append({"name": key, "parameters": encoder.parameters, "format": base})
        draft.assume(f"extra_weights.{key}", f"{encoder.parameters} parameters", encoder.how)
    return found


def _unread(fields: Fields) -> list[str]:
    """A note on each key that the reader does not know."""
    unknown = sorted(
        key
        for key, value in fields.data.items()
        if key not in fields.used
        and key not in FREE
        and not key.endswith(FREE_ENDINGS)
        and value is not None
    )
    shown = ", ".join(key[:60] for key in unknown[:40])
    return [f"keys not read (taken to cost nothing): {shown}"] if unknown else []


def _unknown_architecture(model_type: str) -> str:
    return (
        f"model_type '{model_type[:60]}' is not known: read by its fields alone; biases and norms "
        f"that only its code states are not counted"
    )


def _require(document: Document, fields: Fields, model_type: str) -> None:
    """Refuses a config that lacks what every decoder has, and prints the YAML that would do."""
    has_moe_size = fields.data.get("moe_intermediate_size") is not None
    lacking = [
        key
        for key in _NEEDED
        if fields.data.get(key) is None and not (key == "intermediate_size" and has_moe_size)
    ]
    if not lacking:
        return
    known = {
        "num_hidden_layers": "num_layers: {}",
        "hidden_size": "hidden_size: {}",
        "vocab_size": "vocab_size: {}",
        "num_attention_heads": "attention: {{num_heads: {}, num_kv_heads: 8, head_dim: 128}}",
        "intermediate_size": "ffn: {{intermediate_size: {}}}",
    }
    template = [
        "    " + (example if key in lacking else known[key].format(str(fields.data[key])[:20]))
        for key, example in _NEEDED.items()
        if key in lacking or fields.data.get(key) is not None
    ]
    raise SpecError(
        Problem(
            f"model_type '{model_type[:60]}' lacks {', '.join(lacking)}; write the model as YAML, "
            "with its own numbers:\n" + "\n".join(["    name: my-model", *template]),
            document.file,
        )
    )
