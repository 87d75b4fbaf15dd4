"""Seconds of training's collectives: rings over NVLink or NICs, expert exchange, stage sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from optimizer.cost.training.layouts import Column, Floats, TrainingLayouts
from optimizer.cost.training.rates import Rates
from optimizer.layout import Ints

HOP_S = 1e-5  # a point-to-point message between nodes (AIConfigurator's latency)
EXCHANGE_S = 2e-5  # start of an expert exchange

Axis = Literal["tp", "cp", "dp", "shard", "replica", "ep", "etp", "edp"]


def group_size(layouts: TrainingLayouts, axis: Axis) -> Floats:
    """Ranks of one group; dp is all ranks that hold the same dense parameters, cp included."""
    sizes: dict[Axis, Callable[[], Ints]] = {
        "tp": lambda: layouts.tp,
        "cp": lambda: layouts.cp,
        "dp": lambda: layouts.dp * layouts.cp,
        "shard": lambda: layouts.shard,
        "replica": lambda: np.maximum(1, layouts.dp * layouts.cp // layouts.shard),
        "ep": lambda: layouts.ep,
        "etp": lambda: layouts.etp,
        "edp": lambda: layouts.edp,
    }
    return sizes[axis]().astype(np.float64)


def inside(layouts: TrainingLayouts, axis: Axis) -> Floats:
    """Members of a group that share a domain: ranks run tp, cp, dp; and etp, ep, edp (Megatron)."""
    ones = np.ones_like(layouts.tp)
    strides: dict[Axis, Callable[[], Ints]] = {
        "tp": lambda: ones,
        "cp": lambda: layouts.tp,
        "dp": lambda: layouts.tp,
        "shard": lambda: layouts.tp,
        "replica": lambda: layouts.tp * layouts.shard,
        "ep": lambda: layouts.etp,
        "etp": lambda: ones,
        "edp": lambda: layouts.etp * layouts.ep,
    }
    held = (layouts.span // strides[axis]()).astype(np.float64)
    return np.clip(held, 1.0, group_size(layouts, axis))


def ring_s(layouts: TrainingLayouts, rates: Rates, axis: Axis, payload_bytes: Column) -> Floats:
    """All-gather or reduce-scatter of payload_bytes over a group: (g-1)/g of it at the ring's
    slowest link, 10 us a doubling; a ring that crosses domains uses every member's NIC."""
    group, near = group_size(layouts, axis), inside(layouts, axis)
    nvlink, network = rates.nvlink_bytes_per_s, rates.network_bytes_per_s
    link = np.where(near >= group, nvlink, np.minimum(nvlink, network * near))
    seconds = (group - 1) / group * payload_bytes / link + HOP_S * np.log2(group)
    return np.where((group > 1) & (np.asarray(payload_bytes) > 0), seconds, 0.0)


def exchange_s(
    layouts: TrainingLayouts,
    rates: Rates,
    token_bytes: Floats,
    copies: Column,
    most_nodes: Column,
) -> Floats:
    """One dispatch (or combine) of experts: a token goes once to each node that holds one of its
    `copies` experts (at most most_nodes of them), inside the node to each expert's rank."""
    group, near = group_size(layouts, "ep"), inside(layouts, "ep")
    nodes = np.maximum(1.0, group / near)
    reached = np.minimum(nodes * (1 - (1 - 1 / nodes) ** copies), most_nodes)
    far = token_bytes * reached * (nodes - 1) / nodes / rates.network_bytes_per_s
    close = token_bytes * copies * (near - 1) / near / rates.nvlink_bytes_per_s
    return np.where(group > 1, np.maximum(far, close) + EXCHANGE_S, 0.0)


def send_s(layouts: TrainingLayouts, rates: Rates, stage_bytes: Column) -> Floats:
    """A micro-batch's hidden states to the next stage, cut over tp where the software does."""
    whole = (layouts.sequence_parallel == 0) & (np.asarray(rates.stage_cut) == 0)
    near = layouts.stages_inside > 0
    link = np.where(near, rates.nvlink_bytes_per_s, rates.network_bytes_per_s)
    sent = stage_bytes / np.where(whole, 1, layouts.tp)
    return np.where(layouts.pp > 1, sent / link + HOP_S, 0.0)
