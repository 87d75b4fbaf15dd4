"""A plan's operator tables: what one rank runs in each phase, over a small grid of steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from optimizer.plan.numbers import Number, is_none
from optimizer.spec.frozen import Frozen

Timing = Literal["measured", "interpolated", "extrapolated", "roofline"]


class OperatorRow(Frozen):
    """One operator of one rank, once a run; arrays follow the phase's grid points.

    `part` is a layer type, "embedding", "head" or "boundary"; `count` is how often one request's
    token meets it on its way through all stages (layers of that type, boundaries). Of
    group_size ranks `inside` share a domain, `leaf` a leaf switch where the cluster names those.
    `pool` is where it runs if a replica spans several; a boundary's "pool_send" goes from one to
    the next. `timed` says where seconds come from if there is a table of such operators.
    """

    name: str
    part: str
    group: str
    kind: str
    axis: str
    compute: str
    count: int
    group_size: int
    inside: int
    leaf: int | None = Field(default=None, exclude_if=is_none)
    pool: str | None = Field(default=None, exclude_if=is_none)
    m: tuple[Number, ...]
    n: tuple[Number, ...]
    k: tuple[Number, ...]
    flops: tuple[Number, ...]
    bytes: tuple[Number, ...]
    payload_bytes: tuple[Number, ...]
    seconds: tuple[Number, ...]
    timed: tuple[Timing, ...] | None = Field(default=None, exclude_if=is_none)


class GridPoint(Frozen):
    """One step: new tokens and sequences of one attention rank, mean cached context of a token."""

    tokens: Number
    sequences: Number
    context: Number


class PhaseTable(Frozen):
    """One phase's operators over its grid; point 0 is the plan's own operating point.

    Totals sum count x entry over the rows at each point; by_group is seconds at point 0, and
    slowest_stage_s the seconds of its slowest stage.
    """

    grid: tuple[GridPoint, ...]
    rows: tuple[OperatorRow, ...]
    total_flops: tuple[Number, ...]
    total_bytes: tuple[Number, ...]
    total_payload_bytes: tuple[Number, ...]
    total_seconds: tuple[Number, ...]
    by_group: dict[str, Number]
    slowest_stage_s: Number
