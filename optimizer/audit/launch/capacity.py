"""What a launch holds on one GPU by component, and how much cache the engine's budget leaves.

Weights and cache follow to the byte; activations, logits, buffers and the runtime's reserve are
the cost model's (optimizer.cost.memory). Of several stages the one with least room counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import NamedTuple

import numpy as np

from optimizer.audit.launch.launch import Budget, Launch, with_redundant
from optimizer.cost.memory import RUNTIME_RESERVE_BYTES, MemoryColumns, memory_columns
from optimizer.cost.stages import Stage, even_cut
from optimizer.layout import ParallelLayout
from optimizer.spec.model import ModelSpec
from optimizer.units import gib

STATIC = ("dense weights", "expert weights", "embedding and head", "adapters")
WORKING = ("activations", "logits", "communication buffers", "runtime reserve")
LOGIT_ROWS = 1024  # sequences that an engine samples at once, at most


class Room(NamedTuple):
    """Bytes that a budget leaves for the cache, and the arithmetic."""

    bytes: float
    arithmetic: str


@dataclass(frozen=True)
class Capacity:
    """One stage's GPU under a launch: bytes by component without cache, and room for the cache."""

    stage: int
    stages: int
    components: dict[str, float]
    total_bytes: float
    room: Room
    context: int
    request_bytes: float  # of one request of `context` tokens
    most_tokens: int | None

    @property
    def static_bytes(self) -> float:
        return sum(self.components[name] for name in STATIC)

    @property
    def working_bytes(self) -> float:
        return sum(self.components[name] for name in WORKING)

    @property
    def requests(self) -> float:
        """Requests of `context` tokens that the cache holds."""
        found = max(0.0, self.room.bytes) / max(self.request_bytes, 1.0)
        if self.most_tokens is not None:
            found = min(found, self.most_tokens / self.context)
        return found

    @property
    def tokens(self) -> int:
        """Tokens that the cache holds in requests of `context` tokens."""
        return floor(self.requests * self.context)

    def by_component(self) -> str:
        parts = [f"{name} {gib(held)}" for name, held in self.components.items() if held]
        where = f"stage {self.stage}: " if self.stages > 1 else ""
        return where + " + ".join(parts)


def capacity_of(launch: Launch, gpu_bytes: float, context: int | None = None) -> Capacity:
    """The stage of a launch with room for fewest requests of `context` (else its own) tokens."""
    assert launch.layout is not None
    layout, tokens = launch.layout, context or launch.context
    model = with_redundant(launch.model, launch.redundant_experts)
    memory = _memory(launch, layout, model, tokens)
    found = []
    stages = stages_of(model, layout.pp, launch.stage_layers)
    for index, stage in enumerate(stages):
        held = memory.stage(tuple(model.layer_types), stage, 0)
        slots = launch.adapters
        held["adapters"] = slots.stage_bytes(model, stage, layout.tp) if slots else 0.0
        request_bytes = held.pop("KV cache") / launch.cache_shards
        offloaded = min(launch.offload_bytes, sum(held[name] for name in STATIC))
        for name in STATIC:  # what is moved to the host comes off the largest parts first
            moved = min(held[name], offloaded)
            held[name], offloaded = held[name] - moved, offloaded - moved
        found.append(
            Capacity(
                index,
                len(stages),
                held,
                gpu_bytes,
                room_for_cache(
                    launch.budget,
                    sum(held[name] for name in STATIC),
                    sum(held[name] for name in WORKING),
                    gpu_bytes,
                ),
                tokens,
                request_bytes,
                launch.budget.most_tokens,
            )
        )
    return min(found, key=lambda each: (each.requests, each.room.bytes, each.stage))


def stages_of(model: ModelSpec, pp: int, sizes: tuple[int, ...] | None) -> list[Stage]:
    """The stages of a cut, named or as engines cut where nothing is said."""
    found, start, types = [], 0, tuple(model.layer_types)
    cut = sizes or even_cut(model.num_layers, pp)
    for index, size in enumerate(cut):
        names = model.layer_names[start : start + size]
        start += size
        counts = tuple(names.count(kind) for kind in types)
        found.append(Stage(counts, index == 0, index == len(cut) - 1))
    return found


def _memory(
    launch: Launch, layout: ParallelLayout, model: ModelSpec, context: int
) -> MemoryColumns:
    """Memory with the cache of one request of `context` tokens."""
    degrees = {
        name: np.array([float(getattr(layout, name))])
        for name in ("tp", "cp", "dp", "ep", "etp", "pp")
    }
    load = {
        "tokens": max(launch.step_tokens / layout.cp, 1.0),
        "logits": min(launch.sequences, LOGIT_ROWS),
        "held": 1.0,
        "imbalance": 1.0,
    }
    columns = {**degrees, **{name: np.array([float(value)]) for name, value in load.items()}}
    return memory_columns(model, columns, context, RUNTIME_RESERVE_BYTES)


def room_for_cache(
    budget: Budget, static_bytes: float, working_bytes: float, total_bytes: float
) -> Room:
    """What an engine's budget leaves for the cache beside weights and working memory."""
    fraction, total, static = budget.fraction, gib(total_bytes), gib(static_bytes)
    if budget.kind == "whole":
        room = total_bytes * fraction - static_bytes - working_bytes
        text = f"{total} x {fraction:g} - weights {static} - working {gib(working_bytes)}"
    elif budget.kind == "static":
        room = total_bytes * fraction - static_bytes
        text = f"{total} x {fraction:g} - weights {static}"
    elif budget.kind == "free":
        room = (total_bytes - static_bytes - working_bytes) * fraction
        text = f"({total} - weights {static} - working {gib(working_bytes)}) x {fraction:g}"
    else:
        room = budget.stated_bytes
        text = "as stated"
    return Room(room, f"{text} = {signed_gib(room)}")


def signed_gib(value_bytes: float) -> str:
    return gib(value_bytes) if value_bytes >= 0 else f"-{gib(-value_bytes)}"
