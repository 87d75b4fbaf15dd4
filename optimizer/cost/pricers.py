"""Operators to seconds: one function a kind, in the one visible collection PRICERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Calibration, Constants, GenerationFactors
from optimizer.operators import Floats, Operator
from optimizer.spec.cluster import Cluster, Gpu, Link


class Device(NamedTuple):
    """What a rank runs on: its GPU, its share of the links inside and between domains, and what the
    GPU's generation reaches."""

    gpu: Gpu
    inside: Link
    between: Link
    factors: GenerationFactors

    @classmethod
    def of(cls, cluster: Cluster, pool: int, calibration: Calibration) -> Device:
        chosen = cluster.pools[pool]
        factors = calibration.generation(chosen.gpu.generation)
        return cls(chosen.gpu, chosen.intra_node, chosen.inter_node, factors)


Pricer = Callable[[Operator, Device, Constants], Floats]


def _roofline(
    operator: Operator, device: Device, constants: Constants, flops: float, memory: float
) -> Floats:
    """sqrt(arithmetic^2 + memory^2) + kernels: a smooth roofline (Williams et al., 2009) at shares
    `flops` and `memory` of the peaks; the blend costs up to 41 % where both are equal, which is
    what kernels show near the ridge."""
    share = flops * device.factors.flops
    if operator.compute == "fp4" and "fp4" in device.gpu.flops_per_s:
        share *= device.factors.fp4
    arithmetic = operator.flops / (device.gpu.peak_flops_per_s(operator.compute) * share)
    moved = operator.bytes / (device.gpu.memory_bandwidth_bytes_per_s * memory)
    start = operator.kernels * constants.kernel_s * device.factors.kernel
    busy = operator.flops + operator.bytes > 0
    return np.hypot(arithmetic, moved) + np.where(busy, start, 0.0)


def _gemm(operator: Operator, device: Device, constants: Constants) -> Floats:
    return _roofline(
        operator, device, constants, constants.gemm_efficiency, constants.memory_efficiency
    )


def _grouped_gemm(operator: Operator, device: Device, constants: Constants) -> Floats:
    """The hottest of ep ranks holds more than the mean even when experts are picked evenly: about
    1 + sqrt(ln ep / pairs) times as much, the largest of ep Poisson counts over their mean."""
    ranks, pairs = np.asarray(operator.group_size), np.asarray(operator.m)
    skew = 1.0 + constants.expert_skew * np.sqrt(np.log(ranks) / np.maximum(pairs, 1.0))
    seconds = _roofline(
        operator,
        device,
        constants,
        constants.grouped_gemm_efficiency,
        constants.expert_memory_efficiency,
    )
    hottest: Floats = seconds * np.minimum(skew, ranks)
    return hottest


def _attention(operator: Operator, device: Device, constants: Constants) -> Floats:
    return _roofline(
        operator,
        device,
        constants,
        constants.attention_efficiency,
        constants.cache_memory_efficiency,
    )


def _all_reduce(operator: Operator, device: Device, constants: Constants) -> Floats:
    """Reduce-scatter and all-gather inside each domain around an all-reduce between domains."""
    both = 2.0 * _gathered(operator, device, constants, np.asarray(operator.payload_bytes))
    start = _start(np.asarray(operator.inside), constants)  # one kernel does both directions
    return np.where(both > 0, both - start, 0.0)


def _start(ranks: Floats, constants: Constants) -> Floats:
    """Seconds before the first byte of a collective over so many ranks of a domain."""
    return constants.collective_s + constants.collective_doubling_s * np.log2(ranks)


def _all_gather(operator: Operator, device: Device, constants: Constants) -> Floats:
    """Every rank ends with all payloads; payload is one rank's share."""
    whole = np.asarray(operator.payload_bytes) * operator.group_size
    return _gathered(operator, device, constants, whole)


def _gathered(
    operator: Operator, device: Device, constants: Constants, whole_bytes: Floats
) -> Floats:
    """One direction of a hierarchical ring: (p-1)/p of the bytes inside a domain, then (k-1)/k of
    1/p of them between domains (Thakur et al., 2005, on two tiers)."""
    size, inside = np.asarray(operator.group_size), np.asarray(operator.inside)
    domains = np.ceil(size / inside)
    near = (inside - 1) / inside * whole_bytes / _rate(device.inside, constants)
    far = (domains - 1) / domains * whole_bytes / inside / _rate(device.between, constants)
    start = _start(inside, constants)
    hops = np.ceil(np.log2(domains)) * device.between.latency_s
    moved = (size > 1) & (whole_bytes > 0)
    return np.where(moved, near + far + start + hops, 0.0)


def _all_to_all(operator: Operator, device: Device, constants: Constants) -> Floats:
    """Each rank sends payload x (n - 1)/n, the part to other domains over the slower links."""
    payload, size = np.asarray(operator.payload_bytes), np.asarray(operator.group_size)
    inside = np.asarray(operator.inside)
    near = payload * (inside - 1) / size / _rate(device.inside, constants)
    far = payload * np.maximum(size - inside, 0) / size / _rate(device.between, constants)
    start = _start(size, constants)
    hop = np.where(size > inside, device.between.latency_s, 0.0)
    moved = (size > 1) & (payload > 0)
    return np.where(moved, np.maximum(near, far) + start + hop, 0.0)


def _send_recv(operator: Operator, device: Device, constants: Constants) -> Floats:
    near = np.asarray(operator.inside) >= 2
    payload = np.asarray(operator.payload_bytes)
    inside = payload / _rate(device.inside, constants) + device.inside.latency_s
    between = payload / _rate(device.between, constants) + device.between.latency_s
    return np.where(near, inside, between) + constants.kernel_s


def _rate(link: Link, constants: Constants) -> float:
    return link.bandwidth_bytes_per_s * constants.link_efficiency


PRICERS: Mapping[str, Pricer] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped_gemm,
    "attention": _attention,
    "memory": _gemm,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _all_gather,  # the same ring, run backwards
    "all_to_all": _all_to_all,
    "send_recv": _send_recv,
}


def operator_seconds(operator: Operator, device: Device, constants: Constants) -> Floats:
    """Seconds of one run of an operator, float64 [n]."""
    return PRICERS[operator.kind](operator, device, constants)
