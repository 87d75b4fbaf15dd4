"""What one rank runs: operators whose sizes are columns, one entry a layout and step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.spec.formats import Format

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]

Kind = Literal[
    "gemm",
    "grouped_gemm",
    "attention",
    "memory",
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send_recv",
]
COLLECTIVES: frozenset[str] = frozenset(
    ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
)
Phase = Literal["prefill", "decode"]
Axis = Literal["", "tp", "cp", "dp", "ep", "etp", "pp"]

ACTIVATION_BYTES = 2.0  # hidden states travel and rest in 16 bits in every engine of today


class HeadShape(NamedTuple):
    """The shape of grouped-query attention on one rank: new tokens of sequences that each attend to
    `keys` cached tokens at most, or to a window of them (1: no window)."""

    tokens: Floats
    sequences: Floats
    keys: Floats
    heads: Floats
    kv_heads: Floats
    head_dim: float
    window: float
    cache_bytes: float  # of one element


@dataclass(frozen=True)
class Operator:
    """One operator of one rank; every array has the shape [n] of the columns it was lowered for.

    flops and bytes are one rank's arithmetic and HBM traffic; format is what its matrices are kept
    in; m, n, k its matrix shape (0 where it has none); payload_bytes what one rank contributes to a
    collective over group_size ranks, of which `inside` share a domain and `leaf` a leaf switch
    (inf: all do). A grouped GEMM's m are the token-expert pairs of one of the group_size ranks that
    share the experts. `heads` is the shape of grouped-query attention.
    """

    name: str
    group: str
    kind: Kind
    flops: Floats
    bytes: Floats
    format: Format = "bf16"
    kernels: Floats | float = 1.0
    m: Floats | float = 0.0
    n: Floats | float = 0.0
    k: Floats | float = 0.0
    payload_bytes: Floats | float = 0.0
    group_size: Floats | float = 1.0
    inside: Floats | float = 1.0
    leaf: Floats | float = np.inf
    axis: Axis = ""
    heads: HeadShape | None = None


@dataclass(frozen=True)
class Family:
    """Operators that depend on the same few columns, so that they are priced once a distinct
    row."""

    part: str  # a layer type's name, "embedding", "head" or "boundary"
    depends: tuple[str, ...]
    build: Callable[[Columns], tuple[Operator, ...]]


def memory(name: str, group: str, moved_bytes: Floats, kernels: Floats | float = 1.0) -> Operator:
    """Element-wise work: so many bytes through HBM, arithmetic hidden behind them."""
    return Operator(
        name, group, "memory", flops=0.0 * moved_bytes, bytes=moved_bytes, kernels=kernels
    )


def collective(
    name: str,
    kind: Kind,
    axis: Axis,
    payload_bytes: Floats,
    group_size: Floats,
    inside: Floats,
    leaf: Floats | float = np.inf,
) -> Operator:
    """A collective of one rank's payload over group_size ranks, `inside` of them in one domain,
    `leaf` under one leaf switch."""
    zero = 0.0 * payload_bytes
    return Operator(
        name,
        f"{axis} communication",
        kind,
        flops=zero,
        bytes=zero,
        payload_bytes=payload_bytes,
        group_size=group_size,
        inside=np.minimum(inside, group_size),
        leaf=leaf,
        axis=axis,
    )


def shards(units: float, degree: Floats) -> Floats:
    """Units of the fullest rank: ceil(units / degree)."""
    return np.ceil(units / degree)
