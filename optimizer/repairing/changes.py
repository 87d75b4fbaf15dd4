"""Changes to a job, each with its words and its cost, and the job as it is after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from math import log2
from typing import TypeVar, get_args

from optimizer.errors import SpecError
from optimizer.layout import ParallelLayout
from optimizer.repairing.job import Job
from optimizer.search.relaxing import COSTS, cost_of
from optimizer.spec.cluster import MAX_GPUS, MAX_NODES, Cluster, Gpu, Pool
from optimizer.spec.formats import FORMATS, Format
from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.workload import Limit, ServingWorkload
from optimizer.units import gib, milliseconds

Spec = TypeVar("Spec", Pool, Cluster)

MOST_GPUS = 16_384  # beyond which no more are proposed
MATRICES = ("attention", "ffn", "shared_experts", "experts")  # what a checkpoint quantises


@dataclass(frozen=True)
class Change:
    """One change: its kind (a key of COSTS), what it changes, in words, its cost, the job after."""

    kind: str
    what: str
    text: str
    cost: float
    job: Job


def with_count(job: Job, name: str, value: int, kind: str) -> Change:
    """Another batch, concurrency, or number of tokens; a cached prefix shrinks with its input."""
    old = getattr(job.workload, name)
    update: dict[str, object] = {name: value}
    if name == "input_len":
        assert isinstance(job.workload, ServingWorkload)  # no other has an input length
        update["prefix_len"] = job.workload.prefix_len * value // old
    text = f"{name.replace('_', ' ')} {old:,} -> {value:,}"
    workload = job.workload.model_copy(update=update)
    return Change(kind, name, text, cost_of(kind, old / value), job._replace(workload=workload))


def with_rate(job: Job, value: float) -> Change:
    """Another request rate, in requests a second."""
    assert isinstance(job.workload, ServingWorkload)
    old = job.workload.request_rate
    assert old is not None
    workload = job.workload.model_copy(update={"request_rate": value})
    text = f"request rate {old:.3g}/s -> {value:.3g}/s"
    cost = cost_of("load", old / value)
    return Change("load", "request_rate", text, cost, job._replace(workload=workload))


def with_limit(job: Job, name: str, factor: float) -> Change:
    """A latency limit moved by at least a factor, rounded up to two digits: 34 ms instead of 30."""
    old: Limit = getattr(job.workload, name)
    value_s = readable_above(old.value_s * factor)
    workload = job.workload.model_copy(
        update={name: old.model_copy(update={"value_s": value_s})},
    )
    of = "" if old.statistic == "mean" else f" ({old.statistic})"
    words = name.upper().replace("_", " ")
    text = f"{words} limit {milliseconds(old.value_s)} -> {milliseconds(value_s)}{of}"
    cost = cost_of(name, value_s / old.value_s)
    return Change(name, name, text, cost, job._replace(workload=workload))


def readable_above(value: float) -> float:
    """The next number of two digits that is no smaller."""
    exact = Decimal(repr(value))
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 1), ROUND_CEILING))


def with_kv_cache(job: Job, kind: str) -> Change:
    """The cache in another format."""
    old = job.model.precision.kv_cache
    precision = job.model.precision.model_copy(update={"kv_cache": kind})
    factor = FORMATS[old].bits / FORMATS[_format(kind)].bits
    text = f"KV cache {old} -> {kind}"
    cost = cost_of("kv_cache", factor)
    return Change("kv_cache", "kv_cache", text, cost, _with_precision(job, precision))


def with_weights(job: Job, kind: Format, only_wider: bool = True) -> Change:
    """Attention, FFN and experts in another format; parts that are as narrow already stay."""
    precision, bits = job.model.precision, FORMATS[kind].bits
    held: dict[str, Format] = {part: getattr(precision, part) for part in MATRICES}
    moved = {part: old for part, old in held.items() if FORMATS[old].bits > bits or not only_wider}
    widest = max(moved.values(), key=lambda old: FORMATS[old].bits, default=kind)
    changed = precision.model_copy(update=dict.fromkeys(moved, kind))
    cost = cost_of("weights", FORMATS[widest].bits / bits)
    text = f"weights {widest} -> {kind}"
    return Change("weights", "weights", text, cost, _with_precision(job, changed))


def _format(kind: str) -> Format:
    return next(known for known in get_args(Format) if known == kind)


def _with_precision(job: Job, precision: Precision) -> Job:
    model: ModelSpec = job.model.with_precision(precision)
    return job._replace(model=model)


def with_gpus(job: Job, pool: int, more: int) -> Change:
    """At least `more` GPUs in a pool: its nodes filled up, then whole nodes beside them."""
    old = job.cluster.pools[pool]
    size = max(old.sizes)
    sizes = list(old.sizes)
    for node, held in enumerate(sizes):
        added = min(size - held, more)
        sizes[node] += added
        more -= added
    nodes = -(-more // size)
    if len(sizes) + nodes > MAX_NODES or job.cluster.num_gpus + nodes * size > MAX_GPUS:
        raise SpecError(f"at most {MAX_NODES:,} nodes and {MAX_GPUS:,} GPUs are planned for")
    sizes += [size] * nodes
    irregular = len(set(sizes)) > 1
    new = _rebuilt(
        old,
        nodes=len(sizes),
        gpus_per_node=size,
        node_sizes=tuple(sizes) if irregular else None,
    )
    cluster = _with_pool(job.cluster, pool, new)
    before, after = job.cluster.num_live_gpus, cluster.num_live_gpus
    added = after - before
    apart = f", {nodes} more nodes of {size}" if nodes > 1 and size > 1 else ""
    of = f" in pool {old.name}" if len(job.cluster.pools) > 1 else ""
    text = f"{added:,} more GPU{'s' if added > 1 else ''}{of} ({before:,} -> {after:,}{apart})"
    cost = cost_of("GPUs", after / before)
    return Change("GPUs", f"GPUs of {pool}", text, cost, job._replace(cluster=cluster))


def with_gpu(job: Job, pool: int, other: Cluster) -> Change:
    """Another cluster's GPUs and links in the nodes of a pool."""
    old, new = job.cluster.pools[pool], other.pools[0]
    changed = _rebuilt(old, gpu=new.gpu, intra_node=new.intra_node, inter_node=new.inter_node)
    cluster = _with_pool(job.cluster, pool, changed)
    if len(cluster.pools) == 1:  # an assumed figure of the old GPU says nothing about the new one
        kept = [known for known in cluster.assumptions if not _of_gpu(known.key)]
        added = [known for known in other.assumptions if _of_gpu(known.key)]
        cluster = _rebuilt(cluster, assumptions=(*kept, *added))
    text = f"GPU {_gpu_words(old.gpu)} -> {_gpu_words(new.gpu)}"
    cost = cost_of("gpu", new.gpu.memory_bytes / old.gpu.memory_bytes)
    return Change("gpu", f"GPU of {pool}", text, cost, job._replace(cluster=cluster))


def _of_gpu(key: str) -> bool:
    return key.split(".")[0] in ("gpu", "intra_node", "inter_node")


def _gpu_words(gpu: Gpu) -> str:
    name = "" if gpu.name == "unnamed" else f"{gpu.name}, "
    return f"{name}{gib(gpu.memory_bytes)}"


def _with_pool(cluster: Cluster, index: int, pool: Pool) -> Cluster:
    pools = (*cluster.pools[:index], pool, *cluster.pools[index + 1 :])
    return _rebuilt(cluster, pools=pools)


def _rebuilt(spec: Spec, **changed: object) -> Spec:
    """A spec built anew: a copy would keep what the old one had worked out about its nodes."""
    values = {name: getattr(spec, name) for name in type(spec).model_fields}
    return type(spec)(**{**values, **changed})


def with_layout(job: Job, old: ParallelLayout, new: ParallelLayout) -> Change:
    """The judged strategy with other degrees; each that changes is one flag."""
    pairs = [
        (name, getattr(old, name), getattr(new, name))
        for name in ("pp", "vp", "tp", "cp", "dp", "ep", "etp", "replicas")
    ]
    moved = [(name, before, after) for name, before, after in pairs if before != after]
    text = ", ".join(f"{name} {before} -> {after}" for name, before, after in moved)
    cost = layout_cost(after / before for _, before, after in moved)
    after = job._replace(strategy=f"canonical:{new.name}")
    return Change("degree", new.name, f"{text}: {_both_names(new)}", cost, after)


def _both_names(layout: ParallelLayout) -> str:
    """The canonical name, and the one that reports use where they can name the layout."""
    if layout.dp != layout.ep or layout.etp != layout.tp or layout.cp > 1:
        return layout.name
    usual = f"EP{layout.ep}_TP{layout.tp}_PP{layout.pp}_DP{layout.replicas}"
    return f"{layout.name} ({usual})"


def without_strategy(job: Job, old: ParallelLayout) -> Change:
    """Any layout in place of the judged one; taken to change three degrees."""
    cost = layout_cost((2.0, 2.0, 2.0))
    after = job._replace(strategy=None)
    return Change("degree", "layout", f"another layout than {old.name}", cost, after)


def layout_cost(factors: Iterable[float]) -> float:
    """The cost of changing degrees by these factors."""
    price = COSTS["degree"]
    return sum(price.base + price.per_octave * abs(log2(factor)) for factor in factors)
