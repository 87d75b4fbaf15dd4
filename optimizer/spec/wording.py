"""Validation errors in plain words: what stands there, what belongs there, and what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from optimizer.spec.annotations import bounds, follow, keys, literals, tags
from optimizer.spec.document import KeyPath

MAX_PROBLEMS = 100  # a file with more is no slip of the pen

# An example for a key that is missing; any other whole number reads "key: 8".
_EXAMPLES = {
    "name": "my-model",
    "memory": "80 GiB",
    "memory_bandwidth": "3350 GB/s",
    "flops": "{bf16: 989 TFLOP/s}",
    "bandwidth": "450 GB/s",
    "latency": "3 us",
    "gpu": "{memory: 80 GiB, memory_bandwidth: 3350 GB/s, flops: {bf16: 989 TFLOP/s}}",
    "intra_node": "{bandwidth: 450 GB/s, latency: 3 us}",
    "inter_node": "{bandwidth: 50 GB/s, latency: 10 us}",
    "attention": "{num_heads: 32, num_kv_heads: 8, head_dim: 128}",
    "ffn": "{intermediate_size: 14336}",
    "hidden_size": "4096",
    "intermediate_size": "14336",
    "vocab_size": "128256",
    "num_layers": "32",
    "num_heads": "32",
    "head_dim": "128",
    "kv_lora_rank": "512",
    "num_experts": "64",
    "batch": "128",
    "seq_len": "1024",
    "global_batch": "1536",
    "sequence_length": "4096",
    "input_len": "1024",
    "output_len": "1024",
    "value": "50 ms",
    "types": "[dense]",
    "layers": "[{types: [dense], repeat: 32}]",
    "why": "the report does not say",
    "nodes": "8",
    "gpus_per_node": "8",
    "num_kv_heads": "8",
    "num_experts_per_token": "8",
}


MISSING = "is missing"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    names = list(dict.fromkeys(known))
    found = difflib.get_close_matches(word[:80], names, 1, 0.6)
    found = found or [name for name in names if len(word) > 2 and name.startswith(word)]
    if found:
        return found[0]
    inside = [name for name in names if word in name.split("_") or name in word.split("_")]
    return inside[0] if len(inside) == 1 else None


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that nobody reads."""
    names = list(dict.fromkeys(known))
    meant = nearest(key, names)
    if meant is not None:
        return f"unknown key; did you mean '{meant}'?"
    return f"unknown key; known here: {', '.join(names)}" if names else "unknown key"


def shown(value: object) -> str:
    """A value for a message, short whatever it is."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping (key: value)"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, str):
        return f"'{value[:40]}'" + ("..." if len(value) > 40 else "")
    return str(value)[:40]


def missing(key: str) -> str:
    """What to say of a key that should be there."""
    return (
        f"is missing; write for example '{key}: {_EXAMPLES[key]}'" if key in _EXAMPLES else MISSING
    )


def problems_of(
    error: ValidationError,
    spec: Any,
    shorthand: Mapping[type, tuple[str, ...]],
) -> Iterator[tuple[KeyPath, str]]:
    """Each error as (path in the data, message); `shorthand` adds the keys a file may use."""
    found = error.errors(include_url=False)
    for details in found[:MAX_PROBLEMS]:
        if details["type"] == "too_short" and details["input"]:
            continue  # its items were refused one by one, each with a message of its own
        path, annotation = follow(details["loc"], spec)
        if details["type"] == "wrong":  # a validator of the whole spec names the key itself
            path = (*path, *details["ctx"]["path"])
        elif details["type"] == "union_tag_invalid":
            path = (*path, "kind")
        yield path, _message(details, path, annotation, spec, shorthand)
    if len(found) > MAX_PROBLEMS:
        yield (), f"{len(found) - MAX_PROBLEMS:,} more keys are wrong"


def _message(
    details: ErrorDetails,
    path: KeyPath,
    annotation: Any,
    spec: Any,
    shorthand: Mapping[type, tuple[str, ...]],
) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    last = str(path[-1]) if path else ""
    if kind == "missing":
        return missing(last)
    if kind == "extra_forbidden":
        _, owner = follow(details["loc"][:-1], spec)
        return unknown_key(last, keys(owner, shorthand))
    if kind == "wrong":
        return str(context["message"])
    if kind == "too_short":
        return "needs at least one entry"
    if kind == "too_long":
        return f"has more than {context['max_length']:,} entries"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        kinds = ", ".join(tags(annotation))
        given = context.get("tag")
        return f"must be one of {kinds}, not {shown(given)}" if given else f"needs a kind: {kinds}"
    if kind == "literal_error":
        options = [str(option) for option in literals(annotation)]
        meant = nearest(str(value), options)
        hint = f"; did you mean '{meant}'?" if meant and meant != str(value) else ""
        return (
            f"must be one of {', '.join(options) or context['expected']}, not {shown(value)}{hint}"
        )
    belongs = _belongs(kind, annotation, context)
    return f"must be {belongs}, not {shown(value)}" if belongs else details["msg"]


def _belongs(kind: str, annotation: Any, context: Mapping[str, Any]) -> str | None:
    least, most = bounds(annotation)
    between = f" from {least} to {most:,}" if least is not None and most is not None else ""
    at_least = f" of at least {least}" if least is not None else ""
    if kind.startswith("int"):
        return f"a whole number{at_least}"
    if kind.startswith(("float", "finite", "decimal")):
        return f"a number{between or at_least}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        bound = context.get("ge", context.get("gt", context.get("le", context.get("lt"))))
        words = {
            "greater_than": "more than",
            "greater_than_equal": "at least",
            "less_than": "less than",
            "less_than_equal": "at most",
        }
        return f"{words[kind]} {bound:,}"
    if kind.startswith("bool"):
        return "true or false"
    if kind.startswith("string_too"):
        return "a text of 1 to 120 characters"
    if kind.startswith("string"):
        return "a text"
    if kind.startswith(("tuple", "list")):
        return "a list, [a, b]"
    if kind.startswith(("model", "dict", "mapping")):
        return "a mapping (key: value)"
    return None
