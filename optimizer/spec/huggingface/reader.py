"""config.json -> ModelSpec: the decoder layer by layer, what stands beside it, number formats."""

from __future__ import annotations

from typing import Any

from optimizer.errors import Problem, SpecError
from optimizer.spec.assumptions import table
from optimizer.spec.document import Document
from optimizer.spec.draft import Draft
from optimizer.spec.formats import Format
from optimizer.spec.huggingface.attention import attention_kinds
from optimizer.spec.huggingface.encoders import vision_encoder
from optimizer.spec.huggingface.families import FAMILIES, FREE, FREE_ENDINGS, Family
from optimizer.spec.huggingface.ffn import ffn_kinds
from optimizer.spec.huggingface.fields import Fields
from optimizer.spec.huggingface.quantization import (
    Scheme,
    base_format,
    precision_of,
    scheme_of,
)
from optimizer.spec.layer_runs import runs_of
from optimizer.spec.model import MAX_LAYERS, ModelSpec, Precision
from optimizer.spec.parameter_count import refuse_giants

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
    _require(document, text, model_type)
    base = _base_format(draft, text, outer)
    data = {
        "name": name,
        **_decoder(text, FAMILIES.get(model_type, Family())),
        "tied_embeddings": _is_tied(draft, text, outer, model_type),
        "extra_weights": _encoders(draft, outer, text.data["hidden_size"], base),
    }
    scheme = _scheme(draft, text, outer, quantization)
    notes = [] if model_type in FAMILIES else [_unknown_architecture(model_type)]
    notes += _unread(text) + (_unread(outer) if text is not outer else [])
    if draft.problems:
        raise SpecError(*draft.problems)
    plain: ModelSpec = draft.finish(ModelSpec, data)
    refuse_giants(document, plain)
    precision, left = precision_of(plain, model_type, base, scheme)
    precision["kv_cache"] = _kv_cache(draft, scheme)
    return plain.model_copy(
        update={
            "precision": Precision.model_validate(precision),
            "assumptions": tuple(draft.assumptions),
            "notes": (*notes, *left),
        }
    )


def _decoder(text: Fields, family: Family) -> dict[str, Any]:
    """Layer types and their order, vocabulary, MTP: what every decoder has."""
    num_layers = text.whole("num_hidden_layers", most=MAX_LAYERS) or 1
    hidden = text.whole("hidden_size", most=10**7) or 1
    attention = attention_kinds(text, family, num_layers, hidden)
    ffn = ffn_kinds(text, family, num_layers)
    several = len(attention.attention) > 1
    layer_types: dict[str, Any] = {}
    names = []
    for kind, shape in zip(attention.labels, ffn.labels, strict=True):
        names.append(f"{kind}_{shape}" if several else shape)
        layer_types[names[-1]] = {"attention": attention.attention[kind], "ffn": ffn.ffn[shape]}
    return {
        "hidden_size": hidden,
        "vocab_size": text.whole("vocab_size", most=10**9),
        "layer_types": layer_types,
        "layers": runs_of(names),
        "mtp": _mtp(text),
        "max_context": text.whole("max_position_embeddings"),
    }


def _is_tied(draft: Draft, text: Fields, outer: Fields, model_type: str) -> bool:
    stated = [text.flag("tie_word_embeddings"), outer.flag("tie_word_embeddings")]
    if stated == [None, None] and model_type not in FAMILIES:
        draft.assume("tied_embeddings", "false", "the config does not say; the larger of the two")
    return bool(stated[0] if stated[0] is not None else stated[1])


def _base_format(draft: Draft, text: Fields, outer: Fields) -> Format:
    stated = base_format(text) or base_format(outer)
    if stated is not None:
        return stated
    row = table("model")["precision"]
    draft.assume("dtype", row.value, row.why)
    assumed: Format = row.value
    return assumed


def _scheme(
    draft: Draft, text: Fields, outer: Fields, quantization: Document | None
) -> Scheme | None:
    config = text.under("quantization_config") or outer.under("quantization_config")
    if config is not None:
        return scheme_of(config)
    if quantization is None:
        return None
    beside = Draft(quantization)
    scheme = scheme_of(Fields(beside, quantization.data))
    draft.problems += beside.problems
    return scheme


def _kv_cache(draft: Draft, scheme: Scheme | None) -> str:
    if scheme is not None and scheme.kv_cache is not None:
        return scheme.kv_cache
    row = table("model")["precision.kv_cache"]
    draft.assume("precision.kv_cache", row.value, row.why)
    return str(row.value)


def _mtp(fields: Fields) -> dict[str, int] | None:
    """Multi-token-prediction layers under the three names in use."""
    modules = fields.whole("num_mtp_modules", least=0, most=1000)
    each = fields.whole("mtp_transformer_layers", least=0, most=1000)
    count = fields.whole("num_nextn_predict_layers", "mtp_num_hidden_layers", least=0, most=1000)
    if fields.flag("use_mtp") is False:
        modules = None
    total = count or (modules or 0) * (1 if each is None else each)
    return {"num_layers": total} if total else None


def _encoders(draft: Draft, outer: Fields, hidden: Any, base: str) -> list[dict[str, Any]]:
    found = []
    for key in _ENCODERS:
        fields = outer.under(key)
        if fields is None:
            continue
        encoder = vision_encoder(fields, hidden if isinstance(hidden, int) else 1)
        if encoder is None:
            draft.problem(fields.path, "needs a depth and a hidden_size, to count its weights")
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
