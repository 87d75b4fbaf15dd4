"""Cluster files: presets with overrides, a single pool written flat, rates without a precision.

    preset: h200-sxm              # everything not written here is the preset's
    nodes: 3                      # or gpus: 20 (nodes of the preset's size, the last one smaller)
    dead: [node0/gpu3, node2]
    gpu: {memory: 64 GB}
or
    name: my-cluster
    gpu: {memory: 80 GB, memory_bandwidth: 2039 GB/s, flops: {bf16: 312 TFLOP/s}}
    nodes: 2
    gpus_per_node: 8
    intra_node: {bandwidth: 300 GB/s, latency: 3 us}
    inter_node: {bandwidth: 25 GB/s, latency: 10 us}
    leaf: {nodes: 16, oversubscription: 2}   # may be left out: one switch reaches all nodes
    rails: 8                                 # GPU i of a node hangs on switch i % 8 of its leaf
or `pools:`, a list of such mappings. `assumed:` holds keys of the same shape that nobody stated,
with a `why`; what is stated nowhere comes from configs/assumptions.yaml. Both are recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimizer.errors import SpecError
from optimizer.spec.assumptions import fill, table
from optimizer.spec.cluster import MAX_GPUS, MAX_POOLS, Cluster, Pool
from optimizer.spec.document import Document, KeyPath, show_key
from optimizer.spec.draft import Draft, merged, place
from optimizer.spec.files import read_document
from optimizer.spec.presets import find_preset
from optimizer.spec.wording import shown

SHORTHAND: dict[type, tuple[str, ...]] = {
    Cluster: ("preset", "pools", "assumed"),
    Pool: ("preset", "gpus", "assumed", "inter_pool", "assumptions"),
}
_OF_CLUSTER = ("name", "inter_pool", "assumptions")
_LINKS = ("intra_node", "inter_node")


def cluster_of(document: Document, gpus: int | None = None) -> Cluster:
    """The cluster that a file describes; `gpus` replaces its number of nodes."""
    data = document.data
    draft = Draft(document)
    if "pools" not in data:
        draft.moved(("pools", 0), ())
    listed = data["pools"] if isinstance(data.get("pools"), list) else [data]
    if len(listed) > MAX_POOLS:
        draft.problem(("pools",), f"has more than {MAX_POOLS:,} entries")
        listed = []
    bases = [_preset(draft, entry, ("pools", index)) for index, entry in enumerate(listed)]
    if draft.problems:  # without its preset, all that a pool leaves to it would seem missing
        raise SpecError(*draft.problems)
    if "pools" in data:
        cluster = _of_pools(draft, data, bases, gpus)
    else:
        over = {key: value for key, value in data.items() if key not in _OF_CLUSTER}
        cluster = {key: data[key] for key in _OF_CLUSTER if key in data}
        cluster.setdefault("name", bases[0].get("name", "cluster"))
        cluster["pools"] = [_pool(draft, bases[0], over, ("pools", 0), gpus)]
    stated = cluster.get("assumptions", [])
    if isinstance(stated, list):
        cluster["assumptions"] = [*stated, *(found.model_dump() for found in draft.assumptions)]
    found: Cluster = draft.finish(Cluster, cluster, SHORTHAND)
    return found


def _preset(draft: Draft, entry: Any, path: KeyPath) -> dict[str, Any]:
    """What the preset of a pool says; {} where the pool names none."""
    name = entry.get("preset") if isinstance(entry, Mapping) else None
    if name is None:
        return {}
    if not isinstance(name, str):
        draft.problem((*path, "preset"), f"must be a preset's name, not {shown(name)}")
        return {}
    try:
        preset = read_document(find_preset(name, "hardware"))
    except SpecError as error:
        draft.problem((*path, "preset"), error.problems[0].message)
        return {}
    draft.documents.append(preset)
    return preset.data


def _of_pools(
    draft: Draft, data: dict[str, Any], bases: list[dict[str, Any]], gpus: int | None
) -> dict[str, Any]:
    cluster = dict(data)
    entries = data["pools"]
    if gpus is not None:
        draft.problem((), "--gpus counts the GPUs of one pool, and this cluster has several")
    if isinstance(entries, list):
        cluster["pools"] = [
            _pool(draft, bases[index], entry, ("pools", index), None)
            if isinstance(entry, dict)
            else entry
            for index, entry in enumerate(entries)
        ]
    return cluster


def _pool(
    draft: Draft, base: dict[str, Any], over: dict[str, Any], path: KeyPath, gpus: int | None
) -> dict[str, Any]:
    """One pool, written out: preset, overrides, number of GPUs, rates, assumptions."""
    base = {key: value for key, value in base.items() if key not in ("assumptions", "inter_pool")}
    pool = merged(base, over)
    for key in ("preset", "assumed"):
        pool.pop(key, None)
    if not base.get("name") and path == ("pools", 0):
        pool.setdefault("name", "pool")
    for owner in (over, base):
        for inner, value, why, source in draft.assumed(owner, path):
            if place(pool, inner, value):
                draft.assume(show_key(inner), value, why)
                draft.moved((*path, *inner), draft.source(source))
    _spread_rate(draft, pool)
    if isinstance(over.get("node_sizes"), list) and "nodes" not in over:
        pool["nodes"] = len(over["node_sizes"])
    if "gpus" in over and gpus is None:
        for key in ("nodes", "node_sizes"):
            if key in over:
                draft.problem((*path, key), "stands beside gpus; give one of the two")
    num_gpus = pool.pop("gpus", None) if gpus is None else gpus
    if gpus is not None:
        draft.moved((*path, "gpus"), ("--gpus",))
    if num_gpus is not None:
        pool.pop("gpus", None)
        _count_nodes(draft, pool, num_gpus, path)
    fill(draft, pool, "cluster", _unstated(pool))
    return pool


def _unstated(pool: Mapping[str, Any]) -> dict[str, KeyPath]:
    keys: dict[str, KeyPath] = {}
    if isinstance(pool.get("gpu"), Mapping):
        keys["gpu.memory_bandwidth"] = ("gpu", "memory_bandwidth")
    if "node_sizes" not in pool:
        keys["gpus_per_node"] = ("gpus_per_node",)
    for link in _LINKS:
        for figure in ("bandwidth", "latency"):
            keys[f"{link}.{figure}"] = (link, figure)
    return keys


def _spread_rate(draft: Draft, pool: dict[str, Any]) -> None:
    """`flops: 400 TFLOP/s` without a precision holds for those that the table names."""
    gpu = pool.get("gpu")
    if not isinstance(gpu, Mapping) or isinstance(gpu.get("flops"), (Mapping, list)):
        return
    if gpu.get("flops") is None:
        row = table("cluster")["gpu.flops"]
        pool["gpu"] = {**gpu, "flops": {"bf16": row.value}}
        draft.assume("gpu.flops", f"bf16: {row.value}", row.why)
        return
    row = table("cluster")["gpu.flops.precisions"]
    pool["gpu"] = {**gpu, "flops": dict.fromkeys(row.value, gpu["flops"])}
    draft.assume("gpu.flops", f"{' and '.join(row.value)}: {gpu['flops']}", row.why)


def _count_nodes(draft: Draft, pool: dict[str, Any], num_gpus: object, path: KeyPath) -> None:
    """Nodes of the pool's size for so many GPUs, the last one smaller where it must be."""
    count = draft.whole(num_gpus, (*path, "gpus"), 1, MAX_GPUS)
    fill(draft, pool, "cluster", {"gpus_per_node": ("gpus_per_node",)})
    size = draft.whole(pool["gpus_per_node"], (*path, "gpus_per_node"), 1, 1024)
    pool.pop("node_sizes", None)
    if count is None or size is None:
        pool.pop("gpus_per_node")
        return
    full, rest = divmod(count, size)
    pool["nodes"] = full + (rest > 0)
    if rest and full:
        pool["node_sizes"] = [size] * full + [rest]
    elif rest:
        pool["gpus_per_node"] = rest
