"""One rank's work, as values: operators of a layer, and what a model is on each layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from optimizer.cost.training.layouts import Column, Floats, TrainingLayouts
from optimizer.layout import Ints
from optimizer.operators.operator import shards
from optimizer.spec.linears import Linear

Kind = Literal["gemm", "grouped", "core", "memory", "permute", "tp", "ep", "cp"]
TILE = 128 * 256  # outputs of one thread block
# Matrices that every framework multiplies as one, because they read the same input.
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv"),
    **dict.fromkeys(("q_a_proj", "kv_a_proj", "indexer_k_proj", "indexer_weights"), "latent_down"),
    **dict.fromkeys(("qk_proj", "z_proj", "ba_proj"), "qkv"),
    **dict.fromkeys(("gate", "up"), "fc1"),
    **dict.fromkeys(("expert_gate", "expert_up"), "expert_fc1"),
    **dict.fromkeys(("shared_gate", "shared_up"), "shared_fc1"),
}


@dataclass(frozen=True)
class Job:
    """What all layouts of one search share beside the model."""

    sequence_length: int
    flash: bool = True  # attention without stored scores
    mtp_layers: int = 0  # multi-token-prediction layers that are trained, on the last stage
    imbalance: float = 1.0  # rows of the hottest expert rank over the mean
    most_nodes: float = np.inf  # that hold a token's experts (DeepSeek-V3's routing: 4)
    trained: float = 1.0  # share of the parameters with gradients (LoRA: about 0.01)


@dataclass(frozen=True)
class Work:
    """One operator; arrays [n]. A collective's bytes are its payload."""

    name: str
    kind: Kind
    flops: Column
    bytes: Floats
    module: int = 0  # recompute bits that repeat it, FULL aside
    low: Column = 0.0  # 1 where inputs may have fewer than 16 bits
    weights: Column = 0.0  # parameters that the gradient accumulates
    tiles: Column = np.inf  # of one kernel
    aligned: Column = 1.0
    copies: Column = 1.0  # experts of a token, nodes that may hold them
    most_nodes: Column = np.inf


@dataclass(frozen=True)
class Layer:
    """One layer type; `count` layers of it; parameters and experts are one rank's."""

    works: tuple[Work, ...]
    count: Column
    dense_parameters: Floats
    expert_parameters: Floats
    local_experts: Floats  # 0: not an MoE layer


@dataclass(frozen=True)
class Lowered:
    """A model on one rank of each layout. table_parameters: of the embedding, and of the head."""

    layers: tuple[Layer, ...]
    last: int  # the layer type that MTP copies
    head: tuple[Work, ...]
    embedding: tuple[Work, ...]
    table_parameters: Floats
    stage_bytes: Floats
    tied: Column
    mtp_layers: Column
    trained: Column
    imbalance: Column

    def take(self, rows: Ints) -> Lowered:
        """The sizes of the chosen rows; the works, which are priced first, are left behind."""
        layers = tuple(
            Layer(
                (),
                layer.count,
                layer.dense_parameters[rows],
                layer.expert_parameters[rows],
                layer.local_experts[rows],
            )
            for layer in self.layers
        )
        return replace(
            self,
            layers=layers,
            head=(),
            embedding=(),
            table_parameters=self.table_parameters[rows],
            stage_bytes=self.stage_bytes[rows],
        )


def rank_tokens(layouts: TrainingLayouts, job: Job) -> Floats:
    """Tokens of a tensor-parallel group's micro-batch."""
    found: Floats = layouts.micro_batch * job.sequence_length / layouts.cp
    return found


def own_tokens(layouts: TrainingLayouts, job: Job) -> Floats:
    """Tokens of a rank outside the tensor-parallel blocks."""
    tokens = rank_tokens(layouts, job)
    return np.where(layouts.sequence_parallel > 0, tokens / layouts.tp, tokens)


def product(
    name: str,
    linears: tuple[Linear, ...],
    rows: Floats,
    degree: Floats,
    module: int,
    copies: Column = 1.0,
) -> Work:
    """rows x k by k x n, linears of one input side by side; each operand crosses HBM once. `copies`
    experts share the rows evenly."""
    n = sum(
        (x.outputs * (shards(x.units, degree) / x.units if x.split == "outputs" else 1.0))
        for x in linears
    )
    first = linears[0]
    k = first.inputs * (shards(first.units, degree) / first.units if first.split == "inputs" else 1)
    k, n = k * np.ones_like(degree), n * np.ones_like(degree)
    held = copies * k * n
    return Work(
        name,
        "gemm" if first.copies == 1 else "grouped",
        flops=2.0 * rows * n * k,
        bytes=2.0 * (rows * n + rows * k + held),
        module=module,
        low=0.0 if first.part == "router" else 1.0,
        weights=held,
        tiles=rows / copies * n / TILE,
        aligned=((n % 64 == 0) & (k % 64 == 0)) * 1.0,
    )


def fused(linears: Iterator[Linear]) -> dict[str, tuple[Linear, ...]]:
    """The matrix products among the linears, those of one input side by side."""
    found: dict[str, tuple[Linear, ...]] = {}
    for linear in linears:
        if linear.gemm:
            name = FUSED.get(linear.name, linear.name)
            same = found.get(name, ())
            alike = not same or (same[0].inputs, same[0].part) == (linear.inputs, linear.part)
            key = name if alike else f"{linear.name}_{linear.part}"
            found[key] = (*found.get(key, ()), linear)
    return found
