"""A plan's operator table as curves: what an operator costs between the grid's points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import PlanError
from optimizer.plan import Deployment, GridPoint, OperatorRow, PhaseTable
from optimizer.simulate.collectives import BETWEEN_SHARE, Links, collective_seconds, tier_of
from optimizer.spec.cluster import Cluster

Floats = NDArray[np.float64]
Quantity = Literal["seconds", "flops", "bytes", "payload_bytes"]
QUANTITIES: tuple[Quantity, ...] = ("seconds", "flops", "bytes", "payload_bytes")
POOL_SEND = "pool_send"  # from the last stage in a pool to the first in the next
COLLECTIVES = frozenset(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"))


class _Column(NamedTuple):
    """The points of one number of tokens: contexts ascending, a value a row and context."""

    contexts: tuple[float, ...]
    values: dict[Quantity, Floats]  # [rows, contexts]


@dataclass(frozen=True)
class StepTable:
    """One phase's operators of one rank; tokens ascend, each with a curve over contexts.

    Seconds of compute and memory operators are the plan's; those of collectives are derived anew
    from their bytes.
    """

    phase: str
    rows: tuple[OperatorRow, ...]
    tokens: tuple[float, ...]
    columns: tuple[_Column, ...]

    def at(self, quantity: Quantity, tokens: float, context: float) -> Floats:
        """One run of each row [rows]: linear between points, the last two carried on beyond them.

        Below its fewest tokens a curve stays where it is: a step costs its weights and its starts
        however few its tokens are.
        """
        low, share = bracket(self.tokens, max(tokens, self.tokens[0]))
        value = _along(self.columns[low], quantity, context)
        if share:
            value = (1 - share) * value + share * _along(self.columns[low + 1], quantity, context)
        return np.maximum(value, 0.0)

    @cached_property
    def counts(self) -> Floats:
        """Runs of each row on a token's way through all stages [rows]."""
        return np.array([row.count for row in self.rows], dtype=np.float64)

    def total_seconds(self, tokens: float, context: float) -> float:
        """A step's way through all stages."""
        return float(self.counts @ self.at("seconds", tokens, context))


def bracket(points: Sequence[float], at: float) -> tuple[int, float]:
    """(i, share) so that `at` is points[i] + share x (points[i + 1] - points[i]); share is below 0
    or above 1 beyond the ends, and 0 where there is only one point."""
    if len(points) == 1:
        return 0, 0.0
    low = min(max(bisect_right(points, at) - 1, 0), len(points) - 2)
    return low, (at - points[low]) / (points[low + 1] - points[low])


def _along(column: _Column, quantity: Quantity, context: float) -> Floats:
    values = column.values[quantity]
    low, share = bracket(column.contexts, context)
    first: Floats = values[:, low]
    return first if not share else (1 - share) * first + share * values[:, low + 1]


def phase_table(deployment: Deployment, phase: str) -> PhaseTable:
    """The operators of one phase as the plan has them; PlanError where it has none."""
    for name, table in deployment.phases.items():
        if name == phase:
            return table
    message = "the plan has none; plan again from the same inputs"
    raise PlanError(f"{_where(deployment, phase)}: {message}")


def _where(deployment: Deployment, phase: str) -> str:
    return f"operator table of {deployment.name}, {phase}"


def step_table(cluster: Cluster, deployment: Deployment, phase: str) -> StepTable:
    """A deployment's table of one phase; PlanError names a missing phase, point or value."""
    table = phase_table(deployment, phase)
    where = _where(deployment, phase)
    _check(table, where)
    values = _values(table, _links(cluster, deployment, table, where))
    grid = table.grid
    tokens = tuple(sorted({point.tokens for point in grid}))
    columns = []
    for count in tokens:
        chosen = {point.context: i for i, point in enumerate(grid) if point.tokens == count}
        contexts = tuple(sorted(chosen))
        order = [chosen[context] for context in contexts]
        columns.append(_Column(contexts, {name: values[name][:, order] for name in QUANTITIES}))
    return StepTable(phase, table.rows, tokens, tuple(columns))


def _links(cluster: Cluster, deployment: Deployment, table: PhaseTable, where: str) -> list[Links]:
    """What each row's messages take: its pool's links, or those between two pools."""
    known = {pool.name: Links.of(pool) for pool in cluster.pools}
    pools = dict.fromkeys(deployment.stage_pools)
    found = []
    for row in table.rows:
        name = row.pool or deployment.pool
        if name not in known or name not in pools:
            raise PlanError(f"{where}: the cluster has no pool {name!r}, or no stage lies there")
        found.append(known[name])
        if row.name == POOL_SEND:
            after = list(pools).index(name) + 1
            if after == len(pools):
                raise PlanError(f"{where}: nothing lies behind {name}, which sends to a next pool")
            found[-1] = _between(cluster, name, list(pools)[after])
    return found


def _between(cluster: Cluster, one: str, other: str) -> Links:
    """The link from one pool to another for all messages."""
    places = [pool.name for pool in cluster.pools]
    tier = tier_of(cluster.between(places.index(one), places.index(other)), BETWEEN_SHARE)
    return Links(tier, tier)


def _values(table: PhaseTable, links: list[Links]) -> dict[Quantity, Floats]:
    """Every quantity [rows, points]."""
    values = {
        name: np.array([getattr(row, name) for row in table.rows], dtype=np.float64)
        for name in QUANTITIES
    }
    for index, row in enumerate(table.rows):
        if row.kind in COLLECTIVES:
            values["seconds"][index] = [
                collective_seconds(
                    row.kind, payload, row.group_size, row.inside, links[index], row.leaf
                )
                for payload in row.payload_bytes
            ]
    return values


def _check(table: PhaseTable, where: str) -> None:
    if not table.grid or not table.rows:
        raise PlanError(f"{where}: it is empty; plan again from the same inputs")
    for row in table.rows:
        for name in QUANTITIES:
            amounts = getattr(row, name)
            if len(amounts) != len(table.grid):
                raise PlanError(
                    f"{where}: {row.part} {row.name} has {len(amounts)} {name} for "
                    f"{len(table.grid)} grid points"
                )
            if min(amounts) < 0:
                raise PlanError(f"{where}: {row.part} {row.name} has negative {name}")
    points = [(point.tokens, point.context) for point in table.grid]
    if len(set(points)) != len(points):
        raise PlanError(f"{where}: a grid point stands twice")
    _check_product(table.grid[0], table.grid[1:], where)


def _check_product(own: GridPoint, grid: Sequence[GridPoint], where: str) -> None:
    """Around the plan's own point, every number of tokens stands with every context."""
    known = {(point.tokens, point.context) for point in (own, *grid)}
    for tokens in sorted({point.tokens for point in grid}):
        for context in sorted({point.context for point in grid}):
            if (tokens, context) not in known:
                raise PlanError(
                    f"{where}: a hole in its grid: no point of {tokens:g} tokens at a context of "
                    f"{context:g}"
                )
