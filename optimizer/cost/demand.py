"""What an operator asks of a device, in seconds at the datasheet's rates: no constant of the
calibration stands here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from optimizer.operators import Floats, Operator
from optimizer.spec.cluster import Cluster, ComputeType, Gpu, Link
from optimizer.spec.formats import FORMATS, Format

Column = Floats | float
RING_BYTES = 2.0**19  # payload of an all-reduce at which engines go from one shot to a ring


class Timed(NamedTuple):
    """An operator that was timed: seconds, kernels and meetings of ranks that it is;
    whether measured, interpolated or extrapolated (0, 1, 2); 1 where that counts, 0 where the
    operator keeps its roofline."""

    seconds: Floats
    kernels: Floats
    meetings: Floats
    label: Floats
    known: Floats


class Device(NamedTuple):
    """What a rank runs on: its GPU, its share of the links inside and between domains, how the
    switches between them thin out (see spec.cluster.Leaf), and, by kind of operator, tables of what
    was timed on it."""

    gpu: Gpu
    inside: Link
    between: Link
    oversubscription: float = 1.0
    rails: int = 1
    timers: Mapping[str, Callable[[Operator], Timed | None]] = MappingProxyType({})

    @classmethod
    def of(cls, cluster: Cluster, pool: int) -> Device:
        chosen = cluster.pools[pool]
        thinner = chosen.leaf.oversubscription if chosen.leaf is not None else 1.0
        return cls(chosen.gpu, chosen.intra_node, chosen.inter_node, thinner, chosen.rails or 1)

    def compute(self, kind: Format) -> ComputeType:
        """What multiplies matrices of this format here: what the GPU has no rate for runs in 16
        bits, and MXFP4 meets 8-bit inputs on Blackwell (gpt-oss kernels of vLLM and
        TensorRT-LLM)."""
        wanted = FORMATS[kind].compute
        if kind == "mxfp4" and self.gpu.generation == "blackwell":
            wanted = "fp8"
        is_low = wanted in ("fp8", "fp4", "int8")
        return "bf16" if is_low and wanted not in self.gpu.flops_per_s else wanted


class Work(NamedTuple):
    """An operator that computes: seconds at the peak and at the memory's bandwidth, kernels that it
    starts; 1 or 0 whether it multiplies in 8 bits and whether in scaled blocks of them; the
    narrower side of its matrices in columns, and in bytes."""

    arithmetic_s: Column
    memory_s: Column
    kernels: Column
    eight: Column
    blocks: Column
    side: Column
    side_bytes: Column


class Transfer(NamedTuple):
    """A collective: times that it starts, doublings of the ranks that each start tells, seconds on
    the wire and of hops between domains, and steps round a ring."""

    starts: Column
    doublings: Column
    wire_s: Column
    hops_s: Column
    rounds: Column


def work(operator: Operator, device: Device) -> Work:
    """Operations and bytes over the datasheet's rates."""
    gpu, compute = device.gpu, device.compute(operator.format)
    eight = float(compute == "fp8" and "fp8" in gpu.flops_per_s)
    busy = operator.flops + operator.bytes > 0
    side = np.maximum(np.minimum(operator.n, operator.k), 1.0)
    return Work(
        operator.flops / gpu.peak_flops_per_s(compute),
        operator.bytes / gpu.memory_bandwidth_bytes_per_s,
        np.where(busy, operator.kernels, 0.0),
        eight,
        eight * (operator.format == "fp8_block"),
        side,
        side * FORMATS[operator.format].bits / 8,
    )


def _transfer(
    moved: Floats,
    starts: Column,
    ranks: Floats,
    wire_s: Floats,
    hops_s: Column,
    rounds: Column = 0.0,
) -> Transfer:
    """A transfer where anything moves, nothing elsewhere."""
    there = np.where(moved > 0, 1.0, 0.0)
    begun = there * starts
    return Transfer(begun, begun * np.log2(ranks), there * wire_s, there * hops_s, there * rounds)


def _crossing(operator: Operator, device: Device) -> Floats:
    """How much slower rings between domains run where they cross leaf switches [n].

    A ring runs at its slowest edge (Patarasuk & Yuan, 2009). Of the domains that a group has under
    a leaf one sends to the next leaf, over the spine's share of all their GPUs: a single domain has
    1/oversubscription of its links there, as many domains as the oversubscription have all of them.
    """
    domains = np.asarray(operator.leaf) / np.asarray(operator.inside)
    crosses = np.asarray(operator.leaf) < np.asarray(operator.group_size)
    return np.where(crosses, np.maximum(1.0, device.oversubscription / domains), 1.0)


def _hierarchy(operator: Operator, device: Device, whole_bytes: Floats) -> tuple[Floats, Floats]:
    """(seconds on the wire, of hops) of one direction of a ring on two tiers: (p-1)/p of the bytes
    inside a domain, then (k-1)/k of 1/p of them between domains (Thakur et al., 2005)."""
    size, inside = np.asarray(operator.group_size), np.asarray(operator.inside)
    domains = np.ceil(size / inside)
    near = (inside - 1) / inside * whole_bytes / device.inside.bandwidth_bytes_per_s
    far = (domains - 1) / domains * whole_bytes / inside / device.between.bandwidth_bytes_per_s
    return near + far * _crossing(operator, device), np.ceil(
        np.log2(domains)
    ) * device.between.latency_s


def all_reduce(operator: Operator, device: Device) -> Transfer:
    """Reduce-scatter and all-gather inside each domain around an all-reduce between domains, in one
    kernel; small payloads go in one shot, large ones round a ring of 2 (p - 1) steps."""
    payload, size = np.asarray(operator.payload_bytes), np.asarray(operator.group_size)
    inside = np.asarray(operator.inside)
    wire_s, hops_s = _hierarchy(operator, device, payload)
    rounds = 2.0 * (inside - 1) * payload / (payload + RING_BYTES)
    return _transfer((size - 1) * payload, 1.0, inside, 2.0 * wire_s, 2.0 * hops_s, rounds)


def all_gather(operator: Operator, device: Device) -> Transfer:
    """Every rank ends with all payloads; payload is one rank's share. A reduce-scatter is the same
    ring, run backwards."""
    payload, size = np.asarray(operator.payload_bytes), np.asarray(operator.group_size)
    wire_s, hops_s = _hierarchy(operator, device, payload * size)
    return _transfer((size - 1) * payload, 0.5, np.asarray(operator.inside), wire_s, hops_s)


def all_to_all(operator: Operator, device: Device) -> Transfer:
    """Each rank sends payload x (n - 1)/n, the part to other domains over the slower links, of that
    the part to other leaves over the spine. Over one rank's slower link most goes where its domain
    holds the fewest of the group: the rest of n / inside. Left out: links of GPUs beside it."""
    payload, size = np.asarray(operator.payload_bytes), np.asarray(operator.group_size)
    inside = np.asarray(operator.inside)
    near = payload * (inside - 1) / size / device.inside.bandwidth_bytes_per_s
    far = payload * (size - fewest_inside(operator)) / size / device.between.bandwidth_bytes_per_s
    hops_s = np.where(size > inside, device.between.latency_s, 0.0)
    wire_s = _over_rails(operator, device, near, far)
    return _transfer((size - 1) * payload, 0.5, size, wire_s, hops_s)


def fewest_inside(operator: Operator) -> Floats:
    """Ranks of the group in the domain that holds fewest of them: all others are full [n]."""
    size, inside = np.asarray(operator.group_size), np.asarray(operator.inside)
    rest = size % inside
    fewest: Floats = np.where(rest > 0, rest, np.minimum(inside, size))
    return fewest


def _over_rails(operator: Operator, device: Device, near: Floats, far: Floats) -> Floats:
    """Seconds of an all-to-all on three tiers, each busy at once with what crosses it.

    To another rail of its own leaf a message takes the spine, or first a hop over NVLink to the GPU
    on that rail (PXN: NVIDIA, "Doubling all2all performance with NCCL 2.12"): the cheaper of both
    for all messages together. Left out: mixing the two.
    """
    size, inside = np.asarray(operator.group_size), np.asarray(operator.inside)
    leaf = np.clip(np.asarray(operator.leaf), inside, np.maximum(size, inside))
    one = np.asarray(operator.payload_bytes) / size  # bytes to each other rank
    spine = one * device.oversubscription / device.between.bandwidth_bytes_per_s
    elsewhere = leaf - np.minimum(leaf, fewest_inside(operator))
    other = elsewhere * (1.0 - 1.0 / device.rails)  # ranks of the leaf on other rails
    beyond = np.maximum(size - leaf, 0.0)
    through_spine = np.maximum(near, spine * (beyond + other))
    hop = near + one * other / device.inside.bandwidth_bytes_per_s
    through_nvlink = np.maximum(hop, spine * beyond)
    slowest: Floats = np.maximum(far, np.minimum(through_spine, through_nvlink))
    return slowest


def send_recv(operator: Operator, device: Device) -> Transfer:
    """One payload to the next stage."""
    payload, near = np.asarray(operator.payload_bytes), np.asarray(operator.inside) >= 2
    inside = payload / device.inside.bandwidth_bytes_per_s
    thinner = np.where(np.asarray(operator.leaf) >= 2, 1.0, device.oversubscription)
    between = payload * thinner / device.between.bandwidth_bytes_per_s
    hops_s = np.where(near, device.inside.latency_s, device.between.latency_s)
    return _transfer(payload, 0.5, payload * 0.0 + 1.0, np.where(near, inside, between), hops_s)


DEMANDS: Mapping[str, Callable[[Operator, Device], Work | Transfer]] = {
    "gemm": work,
    "grouped_gemm": work,
    "attention": work,
    "memory": work,
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": all_gather,
    "all_to_all": all_to_all,
    "send_recv": send_recv,
}
