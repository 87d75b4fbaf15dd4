"""Validation errors in plain words: what stands there, what belongs there, and what was meant."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from optimizer.spec.document import KeyPath

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
    "input_len": "1024",
    "output_len": "1024",
    "value": "50 ms",
    "types": "[dense]",
    "layers": "[{types: [dense], repeat: 32}]",
    "why": "the report does not say",
}


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
    return f"is missing; write for example '{key}: {_EXAMPLES.get(key, '8')}'"


def problems_of(
    error: ValidationError,
    spec: type[BaseModel] | TypeAdapter[Any] | Any,
    shorthand: Mapping[type, tuple[str, ...]],
) -> Iterator[tuple[KeyPath, str]]:
    """Each error as (path in the data, message); `shorthand` adds the keys a file may use."""
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and details["input"]:
            continue  # its items were refused one by one, each with a message of its own
        path, annotation = _follow(details["loc"], spec)
        if details["type"] == "wrong":  # a validator of the whole spec names the key itself
            path = (*path, *details["ctx"]["path"])
        elif details["type"] == "union_tag_invalid":
            path = (*path, "kind")
        yield path, _message(details, path, annotation, spec, shorthand)


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
        _, owner = _follow(details["loc"][:-1], spec)
        return unknown_key(last, _keys(owner, shorthand))
    if kind == "wrong":
        return str(context["message"])
    if kind == "too_short":
        return "needs at least one entry"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tags = ", ".join(_tags(annotation))
        given = context.get("tag")
        return f"must be one of {tags}, not {shown(given)}" if given else f"needs a kind: {tags}"
    if kind == "literal_error":
        options = [str(option) for option in _literals(annotation)]
        meant = nearest(str(value), options)
        hint = f"; did you mean '{meant}'?" if meant and meant != str(value) else ""
        return (
            f"must be one of {', '.join(options) or context['expected']}, not {shown(value)}{hint}"
        )
    belongs = _belongs(kind, annotation, context)
    return f"must be {belongs}, not {shown(value)}" if belongs else f"{details['msg']}"


def _belongs(kind: str, annotation: Any, context: Mapping[str, Any]) -> str | None:
    least, most = _bounds(annotation)
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


def _follow(location: KeyPath, spec: Any) -> tuple[KeyPath, Any]:
    """The path in the data (union tags taken out) and the annotation that it leads to."""
    path: list[str | int] = []
    here: Any = spec
    parent: Any = spec
    for step in location:
        if step == "[key]":  # the key of a mapping is wrong, not its value
            return tuple(path), get_args(_plain(parent))[0]
        here = parent = _plain(here)
        options = _members(here)
        if len(options) > 1:
            tagged = [option for option in options if step in _literals(_field(option, "kind"))]
            if tagged and step != "kind":
                here = tagged[0]
                continue
            options = tuple(option for option in options if _field(option, str(step)) is not None)
        path.append(step)
        here = _child(options[0] if options else here, step)
    return tuple(path), here


def _plain(annotation: Any) -> Any:
    """The annotation without Annotated and without `| None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    rest = [option for option in _members(annotation) if option is not type(None)]
    if len(rest) == 1 and rest[0] is not annotation:
        return _plain(rest[0])
    return annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(option for option in get_args(annotation) if option is not type(None))
    return (annotation,)


def _field(model: Any, key: str) -> Any:
    """The annotation, bounds included, of a model's field by its name in files."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            if field.metadata:
                return Annotated[(field.annotation, *field.metadata)]
            return field.annotation
    return None


def _child(annotation: Any, step: str | int) -> Any:
    plain = _plain(annotation)
    origin, arguments = get_origin(plain), get_args(plain)
    if origin is tuple and arguments:
        return arguments[0]
    if origin is dict:
        return arguments[1]
    return _field(plain, str(step))


def _keys(annotation: Any, shorthand: Mapping[type, tuple[str, ...]]) -> list[str]:
    names: list[str] = []
    for model in _members(_plain(annotation)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            names += [field.alias or name for name, field in model.model_fields.items()]
            names += shorthand.get(model, ())
    return names


def _literals(annotation: Any) -> tuple[Any, ...]:
    plain = _plain(annotation)
    if get_origin(plain) is Literal:
        return get_args(plain)
    if get_origin(plain) is dict:
        return _literals(get_args(plain)[0])
    return ()


def _tags(annotation: Any) -> list[str]:
    return [
        str(tag)
        for option in _members(_plain(annotation))
        for tag in _literals(_field(option, "kind"))
    ]


def _bounds(annotation: Any) -> tuple[float | None, float | None]:
    least = most = None
    here: Any = annotation
    while here is not None:
        for note in getattr(here, "__metadata__", ()):
            for bound in (note, *getattr(note, "metadata", ())):
                least = getattr(bound, "ge", getattr(bound, "gt", least))
                most = getattr(bound, "le", getattr(bound, "lt", most))
        members = _members(here)
        if get_origin(here) is Annotated:
            here = get_args(here)[0]
        else:
            here = members[0] if len(members) == 1 and members[0] is not here else None
    return least, most
