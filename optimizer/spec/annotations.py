"""Where an error's location leads in the pydantic models: the field, its keys, words and bounds."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from optimizer.spec.document import KeyPath


def follow(location: KeyPath, spec: Any) -> tuple[KeyPath, Any]:
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
            tagged = [option for option in options if step in literals(_field(option, "kind"))]
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


def keys(annotation: Any, shorthand: Mapping[type, tuple[str, ...]]) -> list[str]:
    """The keys that a file may use there; `shorthand` holds those that are no fields."""
    names: list[str] = []
    for model in _members(_plain(annotation)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            names += [field.alias or name for name, field in model.model_fields.items()]
            names += shorthand.get(model, ())
    return names


def literals(annotation: Any) -> tuple[Any, ...]:
    """The words that may stand there, or be keys there."""
    plain = _plain(annotation)
    if get_origin(plain) is Literal:
        return get_args(plain)
    if get_origin(plain) is dict:
        return literals(get_args(plain)[0])
    return ()


def tags(annotation: Any) -> list[str]:
    """The kinds of a discriminated union."""
    return [
        str(tag)
        for option in _members(_plain(annotation))
        for tag in literals(_field(option, "kind"))
    ]


def bounds(annotation: Any) -> tuple[float | None, float | None]:
    """The least and the most that a number there may be."""
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
