"""Layers on stages -> the peak of the fullest rank, by component."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.cost.training.layouts import GRADIENTS, Column, Floats, TrainingLayouts
from optimizer.cost.training.memory import COMPONENTS, LayerBytes, MemoryPieces, in_flight
from optimizer.cost.training.rates import Rates

STAGES = ("first", "middle", "last")
GATHERED_LAYERS = 2.0  # the one that runs and the one that is prefetched


@dataclass(frozen=True)
class StageBytes:
    """Peak bytes of one rank by component (keys COMPONENTS), [n] each, without the context."""

    parts: dict[str, Floats]

    @property
    def allocated(self) -> Floats:
        return np.asarray(sum(self.parts.values()), dtype=np.float64)

    @property
    def static(self) -> Floats:
        """What stays between steps."""
        parts = self.parts
        return parts["weights_and_gradients"] + parts["optimizer"] + parts["workspace"]


@dataclass(frozen=True)
class Memory:
    """The first, a middle and the last stage (one stage: all in `first`), and the fullest's parts.

    allocated: the framework's tensors; needed: with the context, what must fit the GPU (the
    allocator frees its slack before it fails); reserved: what the framework reports; used: what
    nvidia-smi reports.
    """

    stages: dict[str, StageBytes]
    fullest: StageBytes
    allocated: Floats
    needed: Floats
    reserved: Floats
    used: Floats


def memory_of(pieces: MemoryPieces, layouts: TrainingLayouts, rates: Rates) -> Memory:
    """Peak with stages cut as recipes cut them: equal layers; else the ends as a layer each."""
    layers = np.asarray(sum(layer.count for layer in pieces.layers), dtype=np.float64)
    edge, middle = usual_layers(layers, layouts, pieces.mtp_layers)
    mean = mean_layer(pieces, layers)
    one = layouts.pp == 1
    both = np.where(one, 2.0 - pieces.tied, 1.0)  # one stage holds both tables, once when tied
    tables: dict[str, Column] = {"first": both, "middle": 0.0, "last": 1.0}
    holds_head: dict[str, Column] = {"first": one * 1.0, "middle": 0.0, "last": 1.0}
    flight = {
        "first": in_flight(layouts),
        "middle": in_flight(layouts, 1.0),
        "last": in_flight(layouts, (layouts.pp - 1).astype(np.float64)),
    }
    stages = {}
    for name in STAGES:
        many = middle if name == "middle" else edge
        extra = pieces.mtp_layers * holds_head[name]
        parts = {
            "weights_and_gradients": (many + extra) * mean.resident
            + tables[name] * pieces.table_resident,
            "optimizer": (many + extra) * mean.optimizer + tables[name] * pieces.table_optimizer,
            "activations": rates.kept * (many + extra) * mean.kept * flight[name],
            **working_parts(pieces, mean, layouts, rates, holds_head[name]),
        }
        exists = np.where(layouts.pp > (2 if name == "middle" else 1), 1.0, name == "first")
        stages[name] = StageBytes({part: parts[part] * exists for part in COMPONENTS})
    return peak_of(stages, rates)


def working_parts(
    pieces: MemoryPieces,
    layer: LayerBytes,
    layouts: TrainingLayouts,
    rates: Rates,
    holds_head: Column,
) -> dict[str, Floats]:
    """What a stage holds once: a layer's working set, logits, gathered parameters, workspace."""
    whole = np.where(
        layouts.sharding == GRADIENTS,
        sum(x.count * x.gathered for x in pieces.layers),
        0.0,
    )
    gathered = GATHERED_LAYERS * layer.gathered + pieces.table_gathered + whole
    return {
        "working_set": rates.working * layer.working,
        "logits": pieces.logits * (1 + pieces.mtp_layers) * holds_head,
        "gathered": np.where(layouts.fully_sharded, gathered, 0.0),
        "workspace": rates.workspace_bytes * np.ones(len(layouts)),
    }


def mean_layer(pieces: MemoryPieces, layers: Floats) -> LayerBytes:
    """The mean of all layers, for stages whose layer types are not told apart."""

    def mean(name: str) -> Floats:
        total = sum(layer.count * getattr(layer, name) for layer in pieces.layers)
        return np.asarray(total / layers, dtype=np.float64)

    names = ("resident", "optimizer", "kept", "working", "gathered")
    return LayerBytes(count=layers, **{name: mean(name) for name in names})


def peak_of(stages: dict[str, StageBytes], rates: Rates) -> Memory:
    """The fullest of given stages, and what tools report of it."""
    each = list(stages.values())
    allocated = np.stack([stage.allocated for stage in each])
    fullest = allocated.argmax(axis=0)
    rows = np.arange(allocated.shape[1])
    parts = {
        part: np.stack([stage.parts[part] for stage in each])[fullest, rows] for part in COMPONENTS
    }
    peak = allocated[fullest, rows]
    reserved = peak * rates.slack
    return Memory(
        stages,
        StageBytes(parts),
        peak,
        peak + rates.context_bytes,
        reserved,
        reserved + rates.context_bytes,
    )


def usual_layers(
    layers: Floats, layouts: TrainingLayouts, mtp_layers: Column
) -> tuple[Floats, Floats]:
    """Layers of an end stage and of a middle one."""
    pp = layouts.pp
    even, ends = layers % pp == 0, (layers + 2) % pp == 0
    whole = np.ceil(layers / pp)
    middle = np.where(even, layers / pp, np.where(ends, (layers + 2) / pp, whole))
    edge = np.where(even, layers / pp, np.where(ends, (layers + 2) / pp - 1, whole))
    edge = np.where(np.asarray(mtp_layers) > 0, whole - (pp > 1), edge)
    return np.where(pp > 1, edge, layers), np.where(pp > 1, middle, layers)
