"""Training layouts as columns: the degrees and every other choice that moves time or memory."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints

Floats = NDArray[np.float64]
Column = float | Floats  # one number for all layouts, or one a layout

# What the backward repeats instead of keeping, as bits of `recompute` (Megatron's names).
NOTHING: Final = 0
FULL: Final = 1  # whole layers, collectives included
CORE_ATTENTION: Final = 2
MLA_UP: Final = 4  # the up-projections of latent attention
MLP: Final = 8  # the dense FFN
MOE: Final = 16  # the routed block, collectives included
MOE_ACTIVATION: Final = 32
NORMS: Final = 64
HALF: Final = 128  # torch's selective checkpointing: every other matrix product
MODULES: Final = {
    "full": FULL,
    "core_attn": CORE_ATTENTION,
    "mla_up_proj": MLA_UP,
    "mlp": MLP,
    "moe": MOE,
    "moe_act": MOE_ACTIVATION,
    "layernorm": NORMS,
    "half": HALF,
}

# What is cut over the data-parallel ranks, in the words of Rajbhandari et al., 2020.
REPLICATED: Final = 0
OPTIMIZER: Final = 1  # ZeRO-1, Megatron's distributed optimizer
GRADIENTS: Final = 2  # gathered weights stay from forward to backward (FSDP SHARD_GRAD_OP)
PARAMETERS: Final = 3  # ZeRO-3, FSDP; with shard < dp x cp hybrid sharding
SHARDINGS: Final = {
    "none": REPLICATED,
    "optimizer": OPTIMIZER,
    "gradients": GRADIENTS,
    "parameters": PARAMETERS,
}

ONE_F_ONE_B: Final = 0  # interleaved where vp > 1 (Narayanan et al., 2021)
ZERO_BUBBLE: Final = 1  # ZB-H1 (Qi et al., 2023): memory of 1F1B, weight gradients fill the drain
SCHEDULES: Final = {"1f1b": ONE_F_ONE_B, "zero_bubble": ZERO_BUBBLE}


@dataclass(frozen=True)
class TrainingLayouts:
    """Columns [n]. The stage's width = tp x cp x dp = ep x etp x edp; GPUs = pp x width.

    micro_batch: sequences; micro_batches: of one pipeline and step; sequence_parallel: 0 or 1;
    recompute: bits of MODULES, in recompute_share of the layers (1 when uniform); sharding: one of
    SHARDINGS over `shard` of the dp x cp ranks; schedule: one of SCHEDULES; bits: of the matrix
    products' inputs (16, 8, 4); span: GPUs of a stage in one NVLink domain; stages_inside: 1 where
    neighbouring stages share a domain.
    """

    tp: Ints
    cp: Ints
    pp: Ints
    vp: Ints
    dp: Ints
    ep: Ints
    etp: Ints
    micro_batch: Ints
    micro_batches: Ints
    sequence_parallel: Ints
    recompute: Ints
    recompute_share: Floats
    sharding: Ints
    shard: Ints
    schedule: Ints
    bits: Ints
    span: Ints
    stages_inside: Ints

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def width(self) -> Ints:
        """GPUs of one stage."""
        return self.tp * self.cp * self.dp

    @property
    def gpus(self) -> Ints:
        return self.pp * self.width

    @property
    def edp(self) -> Ints:
        """Replicas of each routed expert in a stage; 1 where ep x etp exceeds the width."""
        return np.maximum(1, self.width // (self.ep * self.etp))

    @property
    def fully_sharded(self) -> NDArray[np.bool_]:
        return self.sharding >= GRADIENTS

    def take(self, rows: Ints | NDArray[np.bool_] | slice) -> Self:
        """The chosen layouts, in that order."""
        return type(self)(**{c.name: getattr(self, c.name)[rows] for c in fields(self)})

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        return cls(
            **{c.name: np.concatenate([getattr(p, c.name) for p in parts]) for c in fields(cls)}
        )

    @classmethod
    def of(cls, domain: int, n: int = 1, **columns: object) -> Self:
        """n layouts from the columns given, the others at their plainest: degrees and micro-batches
        1, sequence parallelism with tp, distributed optimizer over all of dp x cp, 1F1B, 16 bits,
        and stages laid tp first, then cp, dp, pp over domains of `domain` GPUs."""
        given = {
            name: np.broadcast_to(np.asarray(value), n).copy() for name, value in columns.items()
        }
        unknown = set(given) - {c.name for c in fields(cls)}
        if unknown:
            raise TypeError(f"no such columns: {', '.join(sorted(unknown))}")
        ones, zeros = np.ones(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        for name in ("tp", "cp", "pp", "vp", "dp", "ep", "etp", "micro_batch", "micro_batches"):
            given.setdefault(name, ones)
        width = given["tp"] * given["cp"] * given["dp"]
        plain = {
            "sequence_parallel": (given["tp"] > 1).astype(np.int64),
            "recompute": zeros,
            "recompute_share": np.ones(n),
            "sharding": OPTIMIZER * ones,
            "shard": given["cp"] * given["dp"],
            "schedule": zeros,
            "bits": 16 * ones,
            "span": np.minimum(width, domain),
            "stages_inside": (2 * width <= domain).astype(np.int64),
        }
        return cls(**{**plain, **given})
