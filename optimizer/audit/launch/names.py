"""Names in commands to models: hub ids to presets, suffixes and flags to number formats."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from optimizer.audit.launch.command import known_value
from optimizer.errors import Problem, SpecError
from optimizer.spec.data import configs_root
from optimizer.spec.files import read_document
from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.presets import model_repositories, preset_paths
from optimizer.spec.reading import read_model

PARTS = ("attention", "ffn", "shared_experts", "experts")


class Named(NamedTuple):
    """A preset, the format of the weights that the name states, and its positions where they are
    not the preset's."""

    preset: str
    format: str | None
    context: int | None = None


@cache
def _tables() -> dict[str, Any]:
    return read_document(configs_root() / "launch" / "models.yaml").data


@cache
def _known() -> dict[str, str]:
    """Every name that means a preset's shape, in lower case without its owner."""
    found = {preset.lower(): preset for preset in preset_paths("models")}
    for preset, repository in model_repositories().items():
        found[repository.rsplit("/", 1)[-1].lower()] = preset
    for preset, names in _tables()["same_shape"].items():
        found |= dict.fromkeys(names, preset)
    return found


def read_name(name: str) -> Named | None:
    """deepseek-ai/DeepSeek-R1-0528 is deepseek-v3; Qwen/Qwen3-32B-FP8 is qwen3-32b in fp8."""
    tables, known = _tables(), _known()
    word = name.strip().rstrip("/").rsplit("/", 1)[-1].lower().replace("_", "-")
    stated: str | None = None
    context: int | None = None
    while word not in known:
        word, dash, last = word.rpartition("-")
        if not dash or (last not in tables["formats"] and last not in tables["suffixes"]):
            return None
        stated = stated or tables["formats"].get(last)
        context = context or tables["context"].get(last)
    context = context or tables["context"].get(word)
    return Named(known[word], stated or tables["own_format"].get(word), context)


def model_of(name: str | None, given: ModelSpec | None) -> ModelSpec:
    """The model that a command names, or `given` (--model) in the formats that the name states."""
    found = read_name(known_value(name)) if name else None
    if given is not None:
        plain = all(getattr(given.precision, part) in ("bf16", "fp16") for part in PARTS)
        return in_format(given, found.format) if found and found.format and plain else given
    if found is None:
        what = f"'{name[:80]}' is no model known here" if name else "the command names no model"
        raise SpecError(Problem(f"{what}; add --model with a preset, a YAML or a config.json"))
    model = read_model(found.preset).model
    if found.context is not None:
        model = model.model_copy(update={"max_context": found.context})
    return in_format(model, found.format) if found.format else model


def in_format(model: ModelSpec, kind: str) -> ModelSpec:
    """The weights in one format. 4-bit checkpoints of mixture-of-experts models quantise the routed
    experts alone; fp8 is block-wise but for Llama, whose checkpoints scale whole tensors."""
    own = model.precision
    if kind == "fp8" and not model.name.startswith("llama"):
        kind = "fp8_block"
    if own.experts == "mxfp4" and kind != "bf16":
        return model
    four_bits = kind in ("nvfp4", "mxfp4", "int4", "int4_g128")
    base = "bf16" if kind.startswith(("nvfp4", "mxfp4", "int4")) else kind
    changed = dict.fromkeys(PARTS, base if four_bits and model.moe is not None else kind)
    changed["experts"] = kind
    return model.with_precision(Precision.model_validate({**own.model_dump(), **changed}))


def quantized(model: ModelSpec, quantization: str | None, dtype: str | None) -> ModelSpec:
    """The model as --quantization and --dtype load it; a checkpoint that is quantised stays so."""
    plain = all(getattr(model.precision, part) in ("bf16", "fp16") for part in PARTS)
    if dtype in ("float32", "float", "fp32") and plain:
        return in_format(model, "fp32")
    kind = _tables()["formats"].get((quantization or "").lower())
    return in_format(model, kind) if kind and plain else model


def with_cache(model: ModelSpec, flag: str, written: str | None) -> ModelSpec:
    """The model with its KV cache in the format that an engine calls so."""
    formats = _tables()["kv_cache"]
    kind = (written or "auto").lower()
    if kind not in formats:
        raise SpecError(
            Problem(f"'{flag} {kind[:30]}' is not modelled; modelled are {', '.join(formats)}")
        )
    if not formats[kind]:
        return model
    precision = {**model.precision.model_dump(), "kv_cache": formats[kind]}
    return model.with_precision(Precision.model_validate(precision))
