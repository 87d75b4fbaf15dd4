"""Checks a placement.json of `optimize experts` alone: standard library only, nothing of ours.

Counts, GPU loads, gaps and moves are derived again from the map and the loads; each bound is proven
again from its certificate. A bound of kind "solver" is the one thing taken on trust, and
`unproven_layers` names where.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum
from typing import Any

from optimizer.verify.experts.bounds import BOUNDS, LARGE, Layer, Unproven

Finding = tuple[str, str]  # what was checked, and what is wrong with it
ROUNDING = 1e-9  # share by which sums of floats may differ
LISTS = ("loads", "physical_to_logical_map", "counts", "gpu_loads")
NUMBERS = ("largest", "bounds", "gaps", "crossing")


def check_expert_placement(document: dict[str, Any]) -> list[Finding]:
    """Everything that is wrong with the document; an empty list if nothing is."""
    shape = list(_shape(document))
    if shape:
        return shape
    findings: list[Finding] = []
    for layer in range(len(document["loads"])):
        map_findings = list(_map(document, layer))
        findings += map_findings
        if not map_findings:
            findings += _derived(document, layer)
            findings += _bound(document, layer)
    return findings


def unproven_layers(document: dict[str, Any]) -> list[int]:
    """Layers whose bound only a solver vouches for."""
    certificates = document.get("certificates", [])
    return [layer for layer, one in enumerate(certificates) if one.get("kind") == "solver"]


def _shape(document: dict[str, Any]) -> Iterator[Finding]:
    """Whether every list has the length that the others give it, and every number is one."""
    if document.get("schema") != "expert-placement" or document.get("version") != 1:
        yield "schema", "is no expert-placement of version 1"
        return
    for key in ("gpus", "nodes"):
        if not _whole(document.get(key)) or document[key] < 1:
            yield key, "must be a whole number of at least 1"
            return
    groups, max_moves = document.get("groups"), document.get("max_moves")
    for key, value, least in (("groups", groups, 1), ("max_moves", max_moves, 0)):
        if value is not None and (not _whole(value) or value < least):
            yield key, f"must be null or a whole number of at least {least}"
            return
    if not isinstance(document.get("distinct"), bool):
        yield "distinct", "must be true or false"
        return
    lists = [*LISTS, *(["current"] if document.get("current") is not None else [])]
    numbers = [*NUMBERS, *(["free_largest"] if document.get("free_largest") is not None else [])]
    for key in [*lists, *numbers, "certificates"]:
        if not isinstance(document.get(key), list):
            yield key, "must be a list with an entry for each layer"
            return
    layers = len(document["loads"])
    if not layers or not all(isinstance(row, list) and row for row in document["loads"]):
        yield "loads", "must have an expert's load in every layer"
        return
    experts, slots = len(document["loads"][0]), _length(document["physical_to_logical_map"])
    width = {"loads": experts, "counts": experts, "gpu_loads": document["gpus"]}
    for key in lists:
        if len(document[key]) != layers:
            yield key, f"has {len(document[key])} layers, loads has {layers}"
        for layer, row in enumerate(document[key]):
            if not isinstance(row, list) or len(row) != width.get(key, slots):
                yield key, f"layer {layer} must have {width.get(key, slots)} entries"
            elif key in ("loads", "gpu_loads") and not all(_amount(value) for value in row):
                yield key, f"layer {layer} holds what is no load"
            elif key not in ("loads", "gpu_loads") and not all(_whole(value) for value in row):
                yield key, f"layer {layer} holds what is no whole number"
    for key in numbers:
        if len(document[key]) != layers or not all(_amount(value) for value in document[key]):
            yield key, f"must be {layers} numbers of at least 0"
    if len(document["certificates"]) != layers or not all(
        isinstance(one, dict) for one in document["certificates"]
    ):
        yield "certificates", f"must be {layers} objects"
    gpus, nodes = document["gpus"], document["nodes"]
    if slots % gpus or gpus % nodes or slots < experts:
        yield "slots", f"{slots} for {experts} experts on {gpus} GPUs of {nodes} nodes"
    if groups is not None and (experts % groups or groups % nodes):
        yield "groups", f"{groups} do not fit {experts} experts and {nodes} nodes"


def _map(document: dict[str, Any], layer: int) -> Iterator[Finding]:
    """Every expert present, no stranger, and the rules about GPUs and nodes kept."""
    where = f"layer {layer}: "
    placed = document["physical_to_logical_map"][layer]
    experts = len(document["loads"][layer])
    strangers = [expert for expert in placed if not 0 <= expert < experts]
    missing = sorted(set(range(experts)) - set(placed))
    if strangers:
        yield "physical_to_logical_map", f"{where}there is no expert {strangers[0]}"
    if missing:
        yield "physical_to_logical_map", f"{where}expert {missing[0]} lies nowhere"
    if strangers or missing:
        return
    per_gpu = len(placed) // document["gpus"]
    for gpu in range(document["gpus"]):
        here = placed[gpu * per_gpu : (gpu + 1) * per_gpu]
        if document.get("distinct") and len(set(here)) < len(here):
            yield "distinct", f"{where}GPU {gpu} holds an expert twice: {here}"
    if document.get("groups") is not None:
        node_of: dict[int, int] = {}
        per_node, size = len(placed) // document["nodes"], experts // document["groups"]
        for slot, expert in enumerate(placed):
            node = slot // per_node
            if node_of.setdefault(expert // size, node) != node:
                yield "groups", f"{where}group {expert // size} lies on two nodes"
                return


def _derived(document: dict[str, Any], layer: int) -> Iterator[Finding]:
    """Counts, loads, gap, crossing and moves, each from the map and the loads."""
    where = f"layer {layer}: "
    loads, placed = document["loads"][layer], document["physical_to_logical_map"][layer]
    gpus, nodes = document["gpus"], document["nodes"]
    counts = [0] * len(loads)
    for expert in placed:
        counts[expert] += 1
    if counts != document["counts"][layer]:
        yield "counts", f"{where}are not those of the map"
    per_gpu = len(placed) // gpus
    on_gpus = [placed[gpu * per_gpu : (gpu + 1) * per_gpu] for gpu in range(gpus)]
    gpu_loads = [fsum(loads[expert] / counts[expert] for expert in here) for here in on_gpus]
    for gpu, (stated, derived) in enumerate(
        zip(document["gpu_loads"][layer], gpu_loads, strict=True)
    ):
        if not _same(stated, derived):
            yield "gpu_loads", f"{where}GPU {gpu} carries {derived:g}, not {stated:g}"
    largest, bound = max(gpu_loads), document["bounds"][layer]
    if not _same(document["largest"][layer], largest):
        yield "largest", f"{where}is {largest:g}, not {document['largest'][layer]:g}"
    gap = max(largest - bound, 0.0) / bound if bound > 0 else 0.0
    if abs(gap - document["gaps"][layer]) > ROUNDING:
        yield "gaps", f"{where}is {gap:g}, not {document['gaps'][layer]:g}"
    total, kept, per_node = fsum(loads), 0.0, len(placed) // nodes
    for node in range(nodes):
        here = placed[node * per_node : (node + 1) * per_node]
        held: dict[int, int] = {}
        for expert in here:
            held[expert] = held.get(expert, 0) + 1
        kept += fsum(loads[e] * min(1 / nodes, held[e] / counts[e]) for e in held)
    crossing = 1 - kept / total if total else 1.0
    if abs(crossing - document["crossing"][layer]) > ROUNDING:
        yield "crossing", f"{where}is {crossing:g}, not {document['crossing'][layer]:g}"
    if document.get("free_largest") is not None:
        free = document["free_largest"][layer]
        if free > largest * (1 + ROUNDING) or free < total / gpus * (1 - ROUNDING):
            yield "free_largest", f"{where}{free:g} is above {largest:g}, or below the mean"
    if document.get("current") is not None:
        before = document["current"][layer]
        moves = sum(one != other for one, other in zip(before, placed, strict=True))
        allowed = document.get("max_moves")
        if allowed is not None and moves > allowed:
            yield "max_moves", f"{where}{moves} slots move, {allowed} may"


def _bound(document: dict[str, Any], layer: int) -> Iterator[Finding]:
    """The bound's certificate proves it, and no placement beats it."""
    where = f"layer {layer}: "
    bound, certificate = document["bounds"][layer], document["certificates"][layer]
    kind = str(certificate.get("kind"))
    if document["largest"][layer] < bound * (1 - ROUNDING):
        yield "bounds", f"{where}{bound:g} is above the largest load, so it is no bound"
    if kind == "solver":
        certificate = certificate.get("checked")
        if not isinstance(certificate, dict):
            yield "certificates", f"{where}solver: needs a checked certificate beside its own"
            return
        kind, checked = str(certificate.get("kind")), certificate.get("bound")
        if not _amount(checked) or checked > bound * (1 + ROUNDING):
            yield "certificates", f"{where}the checked bound is above the solver's, or none"
            return
        bound = checked
    if kind not in BOUNDS:
        yield "certificates", f"{where}'{kind}' is no kind of certificate"
        return
    facts = Layer(
        loads=document["loads"][layer],
        gpus=document["gpus"],
        slots=len(document["physical_to_logical_map"][layer]),
        nodes=document["nodes"],
        groups=document.get("groups"),
        distinct=bool(document.get("distinct")),
    )
    try:
        proven = BOUNDS[kind](facts, certificate, bound)
    except Unproven as reason:
        yield "certificates", f"{where}{kind}: {reason}"
        return
    if not _same(proven, bound):
        yield "bounds", f"{where}{kind} proves {proven:g}, not {bound:g}"


def _same(stated: float, derived: float) -> bool:
    return abs(stated - derived) <= ROUNDING * max(abs(stated), abs(derived))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LARGE


def _length(rows: list[Any]) -> int:
    return len(rows[0]) if rows and isinstance(rows[0], list) and rows[0] else 1
