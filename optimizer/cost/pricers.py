"""Demands to seconds: one function a kind of operator, in the one visible collection PRICERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from optimizer.cost.calibration import Constants
from optimizer.cost.demand import DEMANDS, Column, Device, Timed, Transfer, Work
from optimizer.operators import Floats, Operator


def _roofline(asked: Work, constants: Constants, flops: Column, memory: Column) -> Floats:
    """sqrt(arithmetic^2 + memory^2) + kernels: a smooth roofline (Williams et al., 2009) at shares
    `flops` and `memory` of the peaks; the blend costs up to 41 % where both are equal, which is
    what kernels show near the ridge. 8-bit products reach less of their peak than 16-bit ones."""
    low = constants.fp8_efficiency**asked.eight * constants.block_fp8_efficiency**asked.blocks
    seconds: Floats = np.hypot(asked.arithmetic_s / (flops * low), asked.memory_s / memory)
    return seconds + asked.kernels * constants.kernel_s


def gemm(asked: Work, constants: Constants) -> Floats:
    """One matrix product."""
    return _roofline(asked, constants, constants.gemm_efficiency, constants.memory_efficiency)


def grouped_gemm(asked: Work, constants: Constants) -> Floats:
    """Products of many experts: narrow shards leave tiles half empty and read in short bursts."""
    flops = constants.grouped_gemm_efficiency / (1.0 + constants.narrow_columns / asked.side)
    memory = constants.memory_efficiency / (1.0 + constants.narrow_read_bytes / asked.side_bytes)
    return _roofline(asked, constants, flops, memory)


def attention(asked: Work, constants: Constants) -> Floats:
    """Attention or its linear form over the cache."""
    return _roofline(asked, constants, constants.gemm_efficiency, constants.cache_memory_efficiency)


def memory(asked: Work, constants: Constants) -> Floats:
    """Element-wise work."""
    return np.asarray(
        asked.memory_s / constants.memory_efficiency + asked.kernels * constants.kernel_s
    )


def collective(asked: Transfer, constants: Constants) -> Floats:
    """Starts that grow with the logarithm of the ranks, bytes over the links, steps of a ring."""
    return np.asarray(
        asked.starts * constants.collective_s
        + asked.doublings * constants.collective_doubling_s
        + asked.wire_s / constants.link_efficiency
        + asked.hops_s
        + asked.rounds * constants.ring_step_s
    )


def measured(asked: Timed, constants: Constants) -> Floats:
    """Seconds of a table of operators timed alone and back to back, with what such timing leaves
    out: the gap to the kernel before, and waiting for the last rank."""
    gaps = asked.kernels * constants.gap_s + asked.meetings * constants.meeting_s
    return np.asarray(asked.seconds + gaps)


PRICERS: Mapping[str, Callable[[Any, Constants], Floats]] = {
    "gemm": gemm,
    "grouped_gemm": grouped_gemm,
    "attention": attention,
    "memory": memory,
    "all_reduce": collective,
    "all_gather": collective,
    "reduce_scatter": collective,
    "all_to_all": collective,
    "send_recv": collective,
    "measured": measured,
}


class Ask(NamedTuple):
    """What a pricer of PRICERS is asked, and the share of its answer that counts: 1 or 0 [n]."""

    pricer: str
    demand: Any
    share: Column = 1.0

    def seconds(self, constants: Constants) -> Floats:
        return np.asarray(self.share * PRICERS[self.pricer](self.demand, constants))


def asks(operator: Operator, device: Device) -> tuple[Ask, ...]:
    """Its table where the device has one of its kind and sizes, and its roofline elsewhere.

    Operators timed again and again find their matrices in the L2 cache; in a step they do not, so
    that nothing is faster than the datasheet's rates."""
    demand = DEMANDS[operator.kind](operator, device)
    roofline = Ask(operator.kind, demand)
    timer = device.timers.get(operator.kind)
    timed = timer(operator) if timer is not None else None
    if timed is None:
        return (roofline,)
    if isinstance(demand, Work):
        least = np.maximum(demand.arithmetic_s, demand.memory_s)
        timed = timed._replace(seconds=np.maximum(timed.seconds, least))
    return Ask("measured", timed, timed.known), roofline._replace(share=1.0 - timed.known)


def operator_seconds(operator: Operator, device: Device, constants: Constants) -> Floats:
    """Seconds of one run of an operator, float64 [n]."""
    first, *others = (ask.seconds(constants) for ask in asks(operator, device))
    return sum(others, first)
