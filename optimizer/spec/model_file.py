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
from optimizer.spec.document import Document, show_key
from optimizer.spec.draft import Draft, merged, place, still_assumed
from optimizer.spec.layer_shorthand import FLAT, write_out_layers
from optimizer.spec.model import ModelSpec, MoeFfn, Precision
from optimizer.spec.parameter_count import check_total

_BESIDE = ("preset", "assumed", "workload", "strategy", "num_parameters")
SHORTHAND: dict[type, tuple[str, ...]] = {
    ModelSpec: (*FLAT, *_BESIDE),
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
    write_out_layers(draft, data)
    data.setdefault("name", document.file and document.file.rsplit("/", 1)[-1].split(".")[0])
    stated = data.get("assumptions") or []
    if base is not None:
        stated = still_assumed(stated, document.data)
    if isinstance(stated, list):
        data["assumptions"] = [*stated, *(found.model_dump() for found in draft.assumptions)]
    model: ModelSpec = draft.finish(ModelSpec, data, SHORTHAND)
    return check_total(document, model)


def _write_out_precision(draft: Draft, data: dict[str, Any]) -> None:
    """`precision: fp8` and `weights: fp8` to the format of each part."""
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
    cache = {"precision.kv_cache": ("kv_cache",)}
    fill(draft, written, "model", cache, under=("precision",))
    data["precision"] = written
