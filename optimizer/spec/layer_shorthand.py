"""Layers written short: the flat keys to layer types and runs, kinds and sizes filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from optimizer.spec.assumptions import fill
from optimizer.spec.document import KeyPath
from optimizer.spec.draft import Draft
from optimizer.spec.layer_runs import runs_of
from optimizer.spec.model import MAX_LAYERS
from optimizer.spec.wording import missing

MAX_TURNS = 100
FLAT = ("num_layers", "attention", "ffn", "moe", "leading_dense_layers", "moe_every")

_MARKS = {"window": "sliding", "chunk": "chunked", "num_key_heads": "linear", "kv_lora_rank": "mla"}


class _Kind(NamedTuple):
    """One attention of a flat model: where it stands, its name among layer types, itself."""

    source: KeyPath
    label: str
    attention: Any


def write_out_layers(draft: Draft, data: dict[str, Any]) -> None:
    """Leaves `layer_types` and `layers` in `data`, whichever form it had."""
    if "layers" in data or "layer_types" in data:
        _write_out_full(draft, data)
    else:
        _write_out_flat(draft, data)


def _write_out_full(draft: Draft, data: dict[str, Any]) -> None:
    for key in FLAT:
        if key in data:
            draft.problem((key,), "belongs to the flat form; with `layers`, say it there")
            del data[key]
    kinds = data.get("layer_types")
    if not isinstance(kinds, Mapping):
        return
    data["layer_types"] = {
        name: _layer_type(draft, layer, data, ("layer_types", name))
        if isinstance(layer, Mapping)
        else layer
        for name, layer in kinds.items()
    }


def _layer_type(
    draft: Draft, layer: Mapping[str, Any], data: Mapping[str, Any], path: KeyPath
) -> dict[str, Any]:
    written = dict(layer)
    ffn = layer.get("ffn")
    if "attention" in layer:
        written["attention"] = _attention(draft, layer["attention"], data)
    if isinstance(ffn, Mapping):
        is_moe = "num_experts" in ffn or ffn.get("kind") == "moe"
        written["ffn"] = _ffn(draft, ffn, data, "moe" if is_moe else "dense", (*path, "ffn"))
    return written


def _write_out_flat(draft: Draft, data: dict[str, Any]) -> None:
    flat = {key: data.pop(key) for key in FLAT if key in data}
    fill(draft, data, "model", {"hidden_size": ("hidden_size",), "vocab_size": ("vocab_size",)})
    if "moe" not in flat and "ffn" not in flat:
        draft.problem(("ffn",), f"{missing('ffn')}, or moe")
    kinds = _attentions(draft, flat.get("attention", {}), data)
    ffns: dict[str, Any] = {}
    types: dict[str, Any] = {}
    names = []
    for layer, is_moe in enumerate(_moe_layers(draft, flat)):
        shape, key = ("moe", "moe") if is_moe else ("dense", "ffn")
        if shape not in ffns:
            ffns[shape] = _ffn(draft, flat.get(key, {}), data, shape, (key,))
        kind = kinds[layer % len(kinds)]
        name = f"{kind.label}_{shape}" if kind.label else shape
        names.append(name)
        if name not in types:
            types[name] = {"attention": kind.attention, "ffn": ffns[shape]}
            draft.moved(("layer_types", name, "attention"), draft.source(kind.source))
            draft.moved(("layer_types", name, "ffn"), draft.source((key,)))
    is_counted = not any(problem.key == "num_layers" for problem in draft.problems)
    if "moe" in flat and "moe" not in ffns and is_counted:
        draft.problem(("moe",), "no layer is MoE: leading_dense_layers or moe_every leaves none")
    data["layer_types"] = types
    data["layers"] = runs_of(names)


def _moe_layers(draft: Draft, flat: Mapping[str, Any]) -> list[bool]:
    """Whether each layer is MoE; one layer where their number is wrong."""

    def count(key: str, default: int, least: int) -> int:
        return draft.whole(flat.get(key, default), (key,), least, MAX_LAYERS) or default

    if "num_layers" not in flat:
        draft.problem(("num_layers",), missing("num_layers"))
    leading, every = count("leading_dense_layers", 0, 0), count("moe_every", 1, 1)
    return [
        "moe" in flat and layer >= leading and (layer + 1) % every == 0
        for layer in range(count("num_layers", 1, 1))
    ]


def _attentions(draft: Draft, value: Any, data: Mapping[str, Any]) -> list[_Kind]:
    """The attention of all layers, or the listed ones that take turns; equal ones share a label."""
    if not isinstance(value, list) or not value:
        return [_Kind(("attention",), "", _attention(draft, value, data))]
    if len(value) > MAX_TURNS:
        draft.problem(("attention",), f"lists more than {MAX_TURNS} kinds")
    found: list[_Kind] = []
    for index, inner in enumerate(value[:MAX_TURNS]):
        written = _attention(draft, inner, data)
        taken = [kind.label for kind in found]
        same = [kind.label for kind in found if kind.attention == written]
        label = same[0] if same else _label(inner, taken)
        found.append(_Kind(("attention", index), label, written))
    return found


def _label(attention: Any, taken: list[str]) -> str:
    known = attention if isinstance(attention, Mapping) else {}
    label = next((name for key, name in _MARKS.items() if key in known), "full")
    return label if label not in taken else f"{label}{len(taken)}"


def _attention(draft: Draft, value: Any, data: Mapping[str, Any]) -> Any:
    """An attention with its kind, and the heads that nobody stated."""
    if not isinstance(value, Mapping):
        return value
    written = dict(value)
    is_linear = "num_key_heads" in written
    kind = "mla" if "kv_lora_rank" in written else "linear" if is_linear else "gqa"
    if written.setdefault("kind", kind) != "gqa":
        return written
    dim = "attention.head_dim" + (".given_heads" if "num_heads" in written else "")
    rows: dict[str, KeyPath] = {
        dim: ("head_dim",),
        "attention.num_heads": ("num_heads",),
        "attention.num_kv_heads": ("num_kv_heads",),
    }

    def known(name: str) -> Any:
        return written.get(name, data.get(name))

    fill(draft, written, "model", rows, known, under=("attention",))
    return written


def _ffn(draft: Draft, value: Any, data: Mapping[str, Any], shape: str, path: KeyPath) -> Any:
    """An FFN with its kind, the sizes that nobody stated, and shared experts as one size."""
    if not isinstance(value, Mapping):
        return value
    written = {"kind": shape, **value}
    key = "moe" if shape == "moe" else "ffn"
    names = ("intermediate_size", "gated", "num_experts_per_token")[: 3 if shape == "moe" else 2]
    rows: dict[str, KeyPath] = {f"{key}.{name}": (name,) for name in names}
    fill(draft, written, "model", rows, data.get, under=(key,))
    if "shared_experts" in written and shape == "moe":
        shared = draft.whole(written.pop("shared_experts"), (*path, "shared_experts"), 0, 10_000)
        size = written["intermediate_size"]
        if shared is not None and isinstance(size, int):
            written.setdefault("shared_intermediate_size", shared * size)
    return written
