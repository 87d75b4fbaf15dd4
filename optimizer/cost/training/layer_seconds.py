"""Work -> seconds: what one layer's forward and backward take, by what they wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from optimizer.cost.training.layouts import FULL, HALF, Column, Floats, TrainingLayouts
from optimizer.cost.training.links import exchange_s, ring_s
from optimizer.cost.training.rates import Rates
from optimizer.cost.training.work import Lowered, Work
from optimizer.layout import Ints

GRADIENT_BYTES = 6.0  # a weight: fp32 gradients read and written, beside the 16-bit ones
FLASH_BACKWARD = 2.5  # five matrix products for the forward's two (Dao, 2023)


def overlapped(one: Column, other: Column) -> Floats:
    """Two activities of the same kernels at once: their 4-norm, between the longer and the sum."""
    one, other = np.square(one), np.square(other)
    return np.sqrt(np.sqrt(one * one + other * other))


@dataclass(frozen=True)
class Seconds:
    """One layer (or end) and micro-batch on one rank, [n] each. Computation: forward, gradients of
    inputs and of weights, recomputation with its collectives; the rest: exposed collectives."""

    forward: Floats
    input_gradient: Floats
    weight_gradient: Floats
    recompute: Floats
    forward_tp: Floats
    backward_tp: Floats
    forward_ep: Floats
    backward_ep: Floats
    forward_cp: Floats
    backward_cp: Floats

    @property
    def all_forward(self) -> Floats:
        return self.forward + self.forward_tp + self.forward_ep + self.forward_cp

    @property
    def all_backward(self) -> Floats:
        """Without recomputation."""
        computed = self.input_gradient + self.weight_gradient
        return computed + self.backward_tp + self.backward_ep + self.backward_cp

    def take(self, rows: Ints) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def seconds_of(
    works: Sequence[Work], layouts: TrainingLayouts, rates: Rates, lowered: Lowered
) -> Seconds:
    """Sums over the works; recompute counts what the layout's recompute bits repeat."""
    found = {field.name: np.zeros(len(layouts)) for field in fields(Seconds)}
    for work in works:
        forward, inputs, weights = work_seconds(work, layouts, rates, lowered)
        if work.kind in ("tp", "ep", "cp"):
            found[f"forward_{work.kind}"] += forward
            found[f"backward_{work.kind}"] += inputs
        else:
            found["forward"] += forward
            found["input_gradient"] += inputs
            found["weight_gradient"] += weights
        found["recompute"] += repeated(work, layouts.recompute) * forward
    return Seconds(**found)


def repeated(work: Work, recompute: Ints) -> Floats:
    """How often the backward runs this forward again: 1, 0, or half of everything (torch's
    selective checkpointing saves every other matrix product)."""
    whole = (recompute & (FULL | work.module)) > 0
    return np.where(whole, 1.0, np.where((recompute & HALF) > 0, 0.5, 0.0))


def work_seconds(
    work: Work, layouts: TrainingLayouts, rates: Rates, lowered: Lowered
) -> tuple[Floats, Floats, Floats]:
    """Forward, gradient of the inputs (a collective: all of the backward), of the weights."""
    hbm = rates.hbm_bytes_per_s
    nothing = np.zeros(len(layouts))
    if work.kind in ("gemm", "grouped"):
        return _product_seconds(work, layouts, rates, lowered)
    if work.kind == "core":
        unfused = rates.unfused_flops * np.where(np.asarray(work.aligned) > 0, 1, rates.misaligned)
        flash = np.asarray(rates.flash) > 0
        slow = work.flops / unfused + work.bytes * rates.softmax / hbm
        forward = np.where(flash, work.flops / np.asarray(rates.attention_flops), slow)
        return forward, np.where(flash, FLASH_BACKWARD, 2.0) * forward, nothing
    if work.kind == "memory":
        forward = work.bytes * rates.traffic / hbm
        return forward, (0.5 if work.name == "loss" else 2.0) * forward, nothing
    if work.kind == "permute":
        forward = work.bytes * rates.permute_traffic * lowered.imbalance / hbm
        return forward, forward, nothing
    if work.kind == "tp":
        forward = 2 * ring_s(layouts, rates, "tp", work.bytes) * rates.tp_exposed
        # Without sequence parallelism the backward's one all-reduce can hide whole; with it the
        # gathering of the outputs' gradients, half of the traffic, cannot.
        most = np.where(layouts.sequence_parallel > 0, 0.5, 1.0)
        return forward, forward * (1.0 - rates.tp_gradient_hidden * most), nothing
    if work.kind == "cp":
        forward = ring_s(layouts, rates, "cp", work.bytes * layouts.cp) * rates.cp_exposed
        return forward, 2 * forward, nothing
    there = exchange_s(layouts, rates, work.bytes, work.copies, work.most_nodes)
    parts = ring_s(layouts, rates, "etp", work.bytes * work.copies * layouts.etp)
    forward = 2 * there * rates.ep_exposed * lowered.imbalance + 2 * parts * rates.etp_exposed
    return forward, forward, nothing


def _product_seconds(
    work: Work, layouts: TrainingLayouts, rates: Rates, lowered: Lowered
) -> tuple[Floats, Floats, Floats]:
    low = np.asarray(work.low) > 0
    bits = np.where(low, layouts.bits, 16)
    peak = np.select([bits <= 4, bits <= 8], [rates.flops_4, rates.flops_8], rates.flops_16)
    grouped = work.kind == "grouped"
    wave = rates.wave_grouped if grouped else rates.wave
    reached = peak * np.where(np.asarray(work.aligned) > 0, 1.0, rates.misaligned)
    compute = work.flops / reached * (1 + wave / np.maximum(work.tiles, 1.0))
    if grouped:
        compute = compute * lowered.imbalance
    moved = work.bytes * np.where(bits < 16, 1.0 + rates.cast, 1.0)
    hbm = rates.hbm_bytes_per_s
    accumulated = work.weights * np.where(layouts.fully_sharded, 0.0, GRADIENT_BYTES)
    forward = overlapped(compute, moved / hbm)
    gradient = overlapped(compute, (moved + accumulated) / hbm)
    return forward, forward, gradient * (np.asarray(lowered.trained) == 1.0)
