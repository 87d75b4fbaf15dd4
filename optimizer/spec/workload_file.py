"""Workloads: from a file, from `workload:` in a model file, from flags, which win over both.

    {batch: 128, seq_len: 1024}                                  one forward pass
    {input_len: 1024, output_len: 512, concurrency: 64, ttft: 2 s, tpot: 50 ms p99}    serving
    {global_batch: 1536, sequence_length: 2048, optimizer: adam}                 training

The kind follows from the keys. A limit is a time, on the mean unless a percentile is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.errors import SpecError
from optimizer.spec.assumptions import fill
from optimizer.spec.document import Document, show_key
from optimizer.spec.draft import Draft, place, still_assumed
from optimizer.spec.workload import (
    WORKLOAD,
    ForwardWorkload,
    ServingWorkload,
    TrainingWorkload,
    Workload,
)

SHORTHAND: dict[type, tuple[str, ...]] = {}
_KINDS: dict[str, type[ForwardWorkload | ServingWorkload | TrainingWorkload]] = {
    "forward": ForwardWorkload,
    "serving": ServingWorkload,
    "training": TrainingWorkload,
}
_COMMON = set.intersection(*(set(spec.model_fields) for spec in _KINDS.values()))
_OWN = {
    kind: tuple(key for key in spec.model_fields if key not in _COMMON)
    for kind, spec in _KINDS.items()
}
_LIMITS = ("latency", "ttft", "tpot", "step_time")
_SIZES = {
    "forward": ("batch", "seq_len"),
    "serving": ("input_len", "output_len"),
    "training": ("global_batch", "sequence_length"),
}
_WORDS = {"forward": "a forward pass", "serving": "serving", "training": "training"}


def workload_of(document: Document | None, flags: Mapping[str, Any]) -> Workload:
    """The workload of a document with flags laid over it; without either, an assumed one."""
    given = {key: value for key, value in flags.items() if value is not None}
    command = Document(None, given)
    draft = Draft(*([document] if document is not None else []), command)
    stated = dict(document.data) if document is not None else {}
    for path, value, why, source in draft.assumed(stated):
        if path[0] not in given and place(stated, path, value):
            draft.moved(path, source)
            draft.assume(show_key(path), value, why)
    stated.pop("assumed", None)
    for key in given:
        draft.moved((key,), (f"--{key.replace('_', '-')}",))
    kind = _kind_of(draft, given) or stated.get("kind") or _kind_of(draft, stated) or "serving"
    if _kind_of(draft, given) is not None:  # flags of one kind replace what other kinds say
        other = {key for name, own in _OWN.items() if name != kind for key in own}
        stated = {
            key: value
            for key, value in stated.items()
            if key in _OWN.get(str(kind), ()) or key not in other
        }
    if "concurrency" in given or "request_rate" in given:
        stated = {
            key: value
            for key, value in stated.items()
            if key not in ("concurrency", "request_rate")
        }
    data = {**stated, **given, "kind": kind}
    _read_loads(draft, data, document)
    for key in _LIMITS:
        if not isinstance(data.get(key), Mapping):  # "50 ms p99" in short
            draft.moved((key, "value"), draft.source((key,)))
            draft.moved((key, "statistic"), draft.source((key,)))
    sizes = _SIZES.get(str(kind), ())
    fill(draft, data, "workload", {key: (key,) for key in (*sizes, "memory_margin")})
    listed = still_assumed(data.get("assumptions") or [], given)
    if isinstance(listed, list):
        data["assumptions"] = [*listed, *(found.model_dump() for found in draft.assumptions)]
    found: Workload = draft.finish(WORKLOAD, data, SHORTHAND)
    return found


def _read_loads(draft: Draft, data: dict[str, Any], document: Document | None) -> None:
    """Writes out the loads of experts where a file of them is named; beside the workload first."""
    named = data.get("expert_loads")
    if not isinstance(named, str):
        return
    from optimizer.spec.loads import read_loads

    folder = Path(document.file).parent if document is not None and document.file else Path()
    near = folder / named
    try:
        loads = read_loads(near if near.exists() else Path(named))
    except SpecError as error:
        if len(error.problems) == 1:
            draft.problem(("expert_loads",), str(error))
        else:
            draft.problems.extend(error.problems)
        data.pop("expert_loads")
        return
    data["expert_loads"] = loads.tolist()


def _kind_of(draft: Draft, data: Mapping[str, Any]) -> str | None:
    """The kind that keys speak of; a problem where they speak of several."""
    spoken = {kind: next((key for key in own if key in data), None) for kind, own in _OWN.items()}
    found = {kind: key for kind, key in spoken.items() if key is not None}
    if len(found) > 1 and "kind" not in data:
        (first, one), (second, other) = list(found.items())[:2]
        draft.problem(
            (other,), f"{other} is of {_WORDS[second]} and {one} of {_WORDS[first]}; give one kind"
        )
    return next(iter(found), None)
