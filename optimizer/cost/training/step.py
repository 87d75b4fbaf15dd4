"""Stages and a schedule -> seconds of one optimizer step, and what they are spent on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from optimizer.cost.training.layouts import (
    GRADIENTS,
    REPLICATED,
    ZERO_BUBBLE,
    Floats,
    TrainingLayouts,
)
from optimizer.cost.training.links import group_size, ring_s, send_s
from optimizer.cost.training.pieces import PARTS, Pieces
from optimizer.cost.training.rates import Rates
from optimizer.cost.training.work import Lowered

OPTIMIZER_TRAFFIC = 30.0  # bytes a local parameter: fp32 weights, moments, gradient, 16-bit copy
MTP_UNEVENNESS = 1.03  # slowest over mean where hand-made cuts make room for MTP
STEP_PARTS = (*PARTS, "bubble", "pp", "dp", "optimizer", "other")
Cut = Literal["usual", "even"]


@dataclass(frozen=True)
class Step:
    """step_s [n] and the seconds that it is spent on; `parts` (keys STEP_PARTS) sum to it.
    slowest_s: of one micro-batch on the slowest stage."""

    step_s: Floats
    slowest_s: Floats
    parts: dict[str, Floats]


@dataclass(frozen=True)
class Stages:
    """What a step is made of [n]: seconds of one micro-batch on the slowest stage and on all,
    their weight gradients, the fullest stage's parameters on a rank, and the parts of total_s."""

    slowest_s: Floats
    total_s: Floats
    slowest_weight_gradient_s: Floats
    weight_gradient_s: Floats
    dense_parameters: Floats
    expert_parameters: Floats
    parts: dict[str, Floats]


def step_of(pieces: Pieces, layouts: TrainingLayouts, rates: Rates, cut: Cut = "usual") -> Step:
    """A step with stages of equal layers, or cut as people cut them; "even" spreads all work and
    all parameters to the last, and lets a zero-bubble schedule postpone every weight gradient: no
    cut beats it."""
    total, weights = total_s(pieces), sum_of(pieces, "weight_gradient_s")
    if cut == "even":
        slowest, share = total / layouts.pp, np.zeros_like(total)
        dense = sum_of(pieces, "dense_parameters") - one_table_less(pieces, layouts)
        dense, experts = dense / layouts.pp, sum_of(pieces, "expert_parameters") / layouts.pp
    else:
        slowest = slowest_usual_s(pieces, layouts)
        share = weights * slowest / total
        dense, experts = stage_parameters(pieces, layouts)
    ends = (pieces.head, pieces.embedding, pieces.mtp)
    parts = {
        name: sum(
            (layer.count * layer.parts[name] for layer in pieces.layers),
            sum((end.parts[name] for end in ends), np.zeros(len(layouts))),
        )
        for name in PARTS
    }
    stages = Stages(slowest, total, share, weights, dense, experts, parts)
    return finished(stages, pieces.lowered, layouts, rates)


def finished(stages: Stages, lowered: Lowered, layouts: TrainingLayouts, rates: Rates) -> Step:
    """The schedule over the stages, then what happens once a step."""
    send = rates.pp_exposed * 2 * layouts.vp * send_s(layouts, rates, lowered.stage_bytes)
    busy = layouts.micro_batches * stages.slowest_s
    sends = layouts.micro_batches * send
    bubble = bubble_s(stages, layouts, send)
    data_parallel = data_parallel_s(stages, lowered, layouts, rates, stages.slowest_s + send)
    update = optimizer_s(stages, lowered, layouts, rates)
    pipeline = (busy + sends + bubble) * rates.engine
    jitter = 1 + rates.jitter * np.log2(np.maximum(layouts.gpus / rates.domain, 1.0))
    step = (pipeline + data_parallel + update) * jitter + rates.fixed_s
    parts = {name: busy * part / stages.total_s for name, part in stages.parts.items()}
    parts |= {"bubble": bubble, "pp": sends, "dp": data_parallel, "optimizer": update}
    other = step - sum(parts.values())
    return Step(step, stages.slowest_s, {**parts, "other": other})


def bubble_s(stages: Stages, layouts: TrainingLayouts, send: Floats | float = 0.0) -> Floats:
    """Seconds in which the slowest stage waits: the other stages' passes over vp chunks
    (Narayanan et al., 2021); ZB-H1 fills the wait with weight gradients, so that each other stage
    costs forward + backward - 2 weight gradients (Qi et al., 2023)."""
    others = stages.total_s - stages.slowest_s + (layouts.pp - 1) * send
    weights = stages.weight_gradient_s - stages.slowest_weight_gradient_s
    postponed = np.where(layouts.schedule == ZERO_BUBBLE, 2 * weights, 0.0)
    waiting = np.maximum(others - postponed, 0.0) / layouts.vp
    return np.where(layouts.pp > 1, waiting, 0.0)


def sum_of(pieces: Pieces, name: str) -> Floats:
    """A quantity of all layers, MTP and both ends."""
    layers = sum(layer.count * getattr(layer, name) for layer in pieces.layers)
    ends = getattr(pieces.head, name) + getattr(pieces.embedding, name)
    found: Floats = layers + ends + getattr(pieces.mtp, name)
    return found


def total_s(pieces: Pieces) -> Floats:
    """One micro-batch through the whole model, forward and backward."""
    return sum_of(pieces, "forward_s") + sum_of(pieces, "backward_s")


def num_layers(pieces: Pieces) -> Floats:
    found: Floats = np.asarray(sum(layer.count for layer in pieces.layers), dtype=np.float64)
    return found


def slowest_usual_s(pieces: Pieces, layouts: TrainingLayouts) -> Floats:
    """Slowest stage as recipes cut: equal layers where pp vp divides them, the head on the last;
    else the ends as a layer each where that divides; else whole layers around the mean."""
    pp, chunks, layers = layouts.pp, layouts.pp * layouts.vp, num_layers(pieces)
    total = total_s(pieces)
    body = sum(layer.count * layer.both_s for layer in pieces.layers)
    mean, head = body / layers, pieces.head.both_s
    predicting = np.asarray(pieces.lowered.mtp_layers) > 0
    even = body / pp + head + pieces.mtp.both_s
    with_ends = (layers + 2) / pp
    ends = np.maximum(with_ends * mean, (with_ends - 1) * mean + head)
    whole = np.maximum(total / pp, np.ceil(layers / chunks) * layouts.vp * mean)
    rest = np.where(predicting, total / pp * MTP_UNEVENNESS, whole)
    found = np.where(layers % chunks == 0, even, np.where((layers + 2) % chunks == 0, ends, rest))
    return np.where(pp > 1, found, total)


def stage_parameters(pieces: Pieces, layouts: TrainingLayouts) -> tuple[Floats, Floats]:
    """(dense, expert) parameters of a rank of a mean stage with one table; of all without pp."""
    dense = sum(layer.count * layer.dense_parameters for layer in pieces.layers) / layouts.pp
    experts = sum(layer.count * layer.expert_parameters for layer in pieces.layers) / layouts.pp
    tables = np.where(layouts.pp > 1, 1, 2) * pieces.lowered.table_parameters
    return dense + tables - one_table_less(pieces, layouts), experts + np.zeros(len(layouts))


def one_table_less(pieces: Pieces, layouts: TrainingLayouts) -> Floats:
    """What a single stage saves where the head is the embedding."""
    tied = np.where(layouts.pp > 1, 0.0, pieces.lowered.tied)
    return np.asarray(tied * pieces.lowered.table_parameters, dtype=np.float64)


def data_parallel_s(
    stages: Stages, lowered: Lowered, layouts: TrainingLayouts, rates: Rates, slowest: Floats
) -> Floats:
    """Exposed seconds of reducing 4 B and gathering 2 B a parameter: what the first and the last
    micro-batch do not hide. Fully sharded layers pay beside their work; the tables remain, and
    with hybrid sharding the reduction between the replicas."""
    dense = lowered.trained * stages.dense_parameters
    experts = lowered.trained * stages.expert_parameters
    scatter = ring_s(layouts, rates, "dp", 4 * dense) + ring_s(layouts, rates, "edp", 4 * experts)
    gather = ring_s(layouts, rates, "dp", 2 * dense) + ring_s(layouts, rates, "edp", 2 * experts)
    hidden = rates.dp_window * slowest

    def shown(seconds: Floats) -> Floats:
        found: Floats = np.maximum(rates.dp_exposed * seconds, seconds - hidden)
        return found

    tables = ring_s(layouts, rates, "shard", 4 * lowered.table_parameters)
    between = shown(2 * ring_s(layouts, rates, "replica", 4 * dense / layouts.shard))
    return np.where(layouts.fully_sharded, tables + between, shown(scatter) + shown(gather))


def optimizer_s(stages: Stages, lowered: Lowered, layouts: TrainingLayouts, rates: Rates) -> Floats:
    """Adam's traffic over the parameters that a rank updates."""
    ranks, expert_ranks = optimizer_ranks(layouts)
    local = stages.dense_parameters / ranks + stages.expert_parameters / expert_ranks
    traffic = rates.optimizer * OPTIMIZER_TRAFFIC * lowered.trained * local
    found: Floats = traffic / rates.hbm_bytes_per_s
    return found


def optimizer_ranks(layouts: TrainingLayouts) -> tuple[Floats, Floats]:
    """Ranks that share the optimizer state of dense and of expert parameters."""
    split = layouts.sharding != REPLICATED
    ranks = np.where(layouts.sharding >= GRADIENTS, layouts.shard, group_size(layouts, "dp"))
    return np.where(split, ranks, 1.0), np.where(split, group_size(layouts, "edp"), 1.0)
