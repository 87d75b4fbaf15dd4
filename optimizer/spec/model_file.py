"""Model files: the flat form, in which most models are ten lines, and the full form.

Flat: one attention and one or two kinds of FFN.

    name: my-moe
    num_layers: 32
    hidden_size: 4096
    vocab_size: 128256
    attention: {num_heads: 32, num_kv_heads: 8, head_dim: 128}   # a list: layers take turns
    moe: {num_experts: 64, num_experts_per_token: 2, intermediate_size: 2048, shared_experts: 1}
    ffn: {intermediate_size: 14336}     # of the layers that are not MoE
    leading_dense_layers: 1
    moe_every: 2                        # the 2nd, 4th, 6th ... layer is MoE
    precision: fp8                      # weights and activations; or {weights: fp8, kv_cache: fp8}
    mtp: 1
    num_parameters: 47 B                # checked against the sum of what the layers hold

`attention` is grouped-query unless it has kv_lora_rank (MLA) or num_key_heads (linear attention).
Full: `layer_types: {name: {attention, ffn}}` and `layers: [{types: [name, ...], repeat: n}]`.
`preset:` starts from a preset. `assumed:` holds keys of the same shape that nobody stated, with a
`why`. `workload:` and `strategy:` may stand beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimizer.spec.assumptions import fill, table
from optimizer.spec.document import Document, KeyPath, show_key
from optimizer.spec.draft import Draft, merged, place, still_assumed
from optimizer.spec.layer_runs import runs_of
from optimizer.spec.model import MAX_LAYERS, ModelSpec, MoeFfn, Precision
from optimizer.spec.parameter_count import check_total
from optimizer.spec.wording import missing

_FLAT = ("num_layers", "attention", "ffn", "moe", "leading_dense_layers", "moe_every")
_BESIDE = ("preset", "assumed", "workload", "strategy", "num_parameters")
SHORTHAND: dict[type, tuple[str, ...]] = {
    ModelSpec: (*_FLAT, *_BESIDE),
    MoeFfn: ("shared_experts",),
    Precision: ("weights",),
}
_QUANTISED = ("attention", "ffn", "shared_experts", "experts")
_ACTIVATIONS = {"fp32": "fp32", "fp16": "fp16", "fp8": "fp8", "fp8_block": "fp8", "int8": "int8"}


def model_of(document: Document, base: ModelSpec | None = None) -> ModelSpec:
    """The model that a YAML file describes, on top of a preset where it names one."""
    draft = Draft(document)
    data = {key: value for key, value in document.data.items() if key not in _BESIDE}
    for path, value, why, source in draft.assumed(document.data):
        if place(data, path, value):
            draft.assume(show_key(path), value, why)
            draft.moved(path, source)
        else:
            draft.problem(source, "is both stated and assumed; keep one")
    if base is not None:
        data = merged(base.model_dump(mode="json", by_alias=True, exclude_none=True), data)
    _write_out_precision(draft, data)
    if data.get("mtp") is not None and not isinstance(data["mtp"], Mapping):
        count = draft.whole(data["mtp"], ("mtp",), 0, 1000)
        data["mtp"] = {"num_layers": count} if count else None
    if "layers" in data or "layer_types" in data:
        _full(draft, data)
    else:
        _flat(draft, data)
    data.setdefault("name", document.file and document.file.rsplit("/", 1)[-1].split(".")[0])
    stated = data.get("assumptions") or []
    if base is not None:
        stated = still_assumed(stated, document.data)
    if isinstance(stated, list):
        data["assumptions"] = [*stated, *(found.model_dump() for found in draft.assumptions)]
    model: ModelSpec = draft.finish(ModelSpec, data, SHORTHAND)
    return check_total(document, model)


def _write_out_precision(draft: Draft, data: dict[str, Any]) -> None:
    precision = data.get("precision")
    if precision is None:
        row = table("model")["precision"]
        precision = row.value
        draft.assume("precision", precision, row.why)
    if isinstance(precision, str):
        for part in ("weights", "activations"):
            draft.moved(("precision", part), ("precision",))
        precision = {"weights": precision}
    if not isinstance(precision, Mapping):
        return
    weights = precision.get("weights")
    written = {key: value for key, value in precision.items() if key != "weights"}
    if weights is not None:
        for part in _QUANTISED:
            if part not in written:
                draft.moved(("precision", part), draft.source(("precision", "weights")))
                written[part] = weights
        written.setdefault("activations", _ACTIVATIONS.get(str(weights), "bf16"))
    data["precision"] = written
    fill(draft, data, "model", {"precision.kv_cache": ("precision", "kv_cache")})


def _full(draft: Draft, data: dict[str, Any]) -> None:
    for key in _FLAT:
        if key in data:
            draft.problem((key,), "belongs to the flat form; with `layers`, say it there")
            del data[key]
    kinds = data.get("layer_types")
    if not isinstance(kinds, Mapping):
        return
    written = {}
    for name, layer in kinds.items():
        path: KeyPath = ("layer_types", name)
        if isinstance(layer, Mapping):
            layer = dict(layer)
            if isinstance(layer.get("attention"), Mapping):
                layer["attention"] = _attention(draft, layer["attention"], data)
            if isinstance(layer.get("ffn"), Mapping):
                is_moe = "num_experts" in layer["ffn"] or layer["ffn"].get("kind") == "moe"
                layer["ffn"] = _ffn(draft, layer["ffn"], data, "moe" if is_moe else "dense", path)
        written[name] = layer
    data["layer_types"] = written


def _flat(draft: Draft, data: dict[str, Any]) -> None:
    """Replaces the flat keys by layer types and layers."""
    flat = {key: data.pop(key) for key in _FLAT if key in data}
    fill(draft, data, "model", {"hidden_size": ("hidden_size",), "vocab_size": ("vocab_size",)})
    if "num_layers" not in flat:
        draft.problem(("num_layers",), missing("num_layers"))
        num_layers: int | None = 1
    else:
        num_layers = draft.whole(flat["num_layers"], ("num_layers",), 1, MAX_LAYERS)
    leading = draft.whole(
        flat.get("leading_dense_layers", 0), ("leading_dense_layers",), 0, MAX_LAYERS
    )
    every = draft.whole(flat.get("moe_every", 1), ("moe_every",), 1, MAX_LAYERS)
    if "moe" not in flat and "ffn" not in flat:
        draft.problem(("ffn",), "neither ffn nor moe is given; " + missing("ffn")[11:])
    attentions = _attentions(draft, flat.get("attention", {}), data)
    ffns: dict[str, Any] = {}
    names = []
    for layer in range(num_layers or 1):
        is_moe = "moe" in flat and layer >= (leading or 0) and (layer + 1) % (every or 1) == 0
        kind = "moe" if is_moe else "dense"
        key = "moe" if is_moe else "ffn"
        if kind not in ffns:
            ffns[kind] = _ffn(draft, flat.get(key, {}), data, kind, (key,))
        source, label, attention = attentions[layer % len(attentions)]
        name = f"{label}_{kind}" if label else kind
        names.append(name)
        if name not in data.setdefault("layer_types", {}):
            data["layer_types"][name] = {"attention": attention, "ffn": ffns[kind]}
            draft.moved(("layer_types", name, "attention"), source)
            draft.moved(("layer_types", name, "ffn"), draft.source((key,)))
    if "moe" in flat and "moe" not in ffns:
        draft.problem(("moe",), "no layer is MoE: leading_dense_layers or moe_every leaves none")
    data["layers"] = runs_of(names)


def _attentions(
    draft: Draft, value: Any, data: Mapping[str, Any]
) -> list[tuple[KeyPath, str, Any]]:
    """(where in the file, name among layer types, attention) of each kind that takes turns."""
    if not isinstance(value, list) or not value:
        written = _attention(draft, value, data) if isinstance(value, Mapping) else value
        return [(draft.source(("attention",)), "", written)]
    found: list[tuple[KeyPath, str, Any]] = []
    for index, inner in enumerate(value):
        same = [label for place, label, _ in found if value[place[1]] == inner]  # type: ignore[index]
        label = same[0] if same else _label(inner, [name for _, name, _ in found])
        written = _attention(draft, inner, data) if isinstance(inner, Mapping) else inner
        found.append((("attention", index), label, written))
    return found


def _label(attention: Any, taken: list[str]) -> str:
    keys = {
        "window": "sliding",
        "chunk": "chunked",
        "num_key_heads": "linear",
        "kv_lora_rank": "mla",
    }
    known = attention if isinstance(attention, Mapping) else {}
    label = next((name for key, name in keys.items() if key in known), "full")
    return label if label not in taken else f"{label}{len(taken)}"


def _attention(draft: Draft, value: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    written = dict(value)
    if "kind" not in written:
        written["kind"] = (
            "mla"
            if "kv_lora_rank" in written
            else "linear"
            if "num_key_heads" in written
            else "gqa"
        )
    if written["kind"] != "gqa":
        return written

    def known(name: str) -> Any:
        return written.get(name, data.get(name))

    dim = "attention.head_dim" + (".given_heads" if "num_heads" in written else "")
    for row, key in (
        (dim, "head_dim"),
        ("attention.num_heads", "num_heads"),
        ("attention.num_kv_heads", "num_kv_heads"),
    ):
        inner: dict[str, Any] = {"attention": written}
        fill(draft, inner, "model", {row: ("attention", key)}, known)
        written = inner["attention"]
    return written


def _ffn(draft: Draft, value: Any, data: Mapping[str, Any], kind: str, path: KeyPath) -> Any:
    if not isinstance(value, Mapping):
        return value
    written = {"kind": kind, **value}
    key = "moe" if kind == "moe" else "ffn"
    keys = ["intermediate_size", "gated"]
    if kind == "moe":
        keys.append("num_experts_per_token")
    for name in keys:
        inner: dict[str, Any] = {key: written}
        fill(draft, inner, "model", {f"{key}.{name}": (key, name)}, data.get)
        written = inner[key]
    if "shared_experts" in written and kind == "moe":
        shared = draft.whole(written.pop("shared_experts"), (*path, "shared_experts"), 0, 10_000)
        size = written.get("intermediate_size")
        if shared is not None and isinstance(size, int):
            written.setdefault("shared_intermediate_size", shared * size)
    return written
