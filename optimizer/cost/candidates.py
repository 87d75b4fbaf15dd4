"""Candidates: priced layouts with every limit's need beside what there is, as columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints, Layouts, ParallelLayout
from optimizer.operators import Floats

if TYPE_CHECKING:
    import pandas as pd


Column = NDArray[Any]


@dataclass(frozen=True)
class Candidates:
    """n candidates; latencies in seconds, rates in tokens a second of one replica.

    Serving fills ttft_s and tpot_s, latency_s is then the time of a whole request; a forward pass
    fills latency_s alone. `needs[name]` is what a limit bounds, `limits[name]` its bound [n].
    Where replicas may span pools, `stages`, `layers` and `spans` tell for each pool the stages of a
    replica there, the layers on them, and the GPUs of such a stage in one domain (0: none there).
    `settled` counts rows of the same space that are not here: a bound of theirs breaks the named
    limit, or is beaten in everything ("dominated") by rows that are.
    """

    pool: Ints
    precision: Ints
    layouts: Layouts
    sequences: Ints
    chunk: Ints
    micro_batches: Ints
    replicas_min: Ints
    replicas_max: Ints
    memory_bytes: Floats
    concurrency: Floats  # of one replica
    tokens_per_s: Floats  # of one replica: output tokens (serving), tokens (forward)
    ttft_s: Floats
    tpot_s: Floats
    latency_s: Floats
    needs: Mapping[str, Floats]
    limits: Mapping[str, Floats]
    stages: Mapping[int, Ints] = field(default_factory=dict, kw_only=True)
    layers: Mapping[int, Ints] = field(default_factory=dict, kw_only=True)
    spans: Mapping[int, Ints] = field(default_factory=dict, kw_only=True)
    settled: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def gpus_per_replica(self) -> Ints:
        return self.layouts.gpus_per_replica

    def shares(self) -> dict[int, tuple[Ints, Ints]]:
        """Pool -> (stages of a replica there, GPUs of such a stage in one domain) [n]."""
        if self.stages:
            return {pool: (stages, self.spans[pool]) for pool, stages in self.stages.items()}
        pp, span = self.layouts.pp, self.layouts.span
        pools = np.unique(self.pool).tolist()
        if len(pools) == 1:
            return {pools[0]: (pp, span)}
        own = {pool: self.pool == pool for pool in pools}
        return {
            pool: (np.where(here, pp, 0), np.where(here, span, 0)) for pool, here in own.items()
        }

    def broken(self) -> NDArray[np.int64]:
        """A bit mask of broken limits [n]; bit i is the i-th name of `limits`."""
        mask = np.zeros(len(self), dtype=np.int64)
        for bit, name in enumerate(self.limits):
            mask |= (~(self.needs[name] <= self.limits[name])).astype(np.int64) << bit
        return mask

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        return self._combined([self], lambda columns: _taken(columns[0], rows), {})

    def first(self, many: int) -> Self:
        """The first so many rows, without a copy."""
        return self._combined([self], lambda columns: columns[0][:many], {})

    def overlaid(self, places: Ints, other: Self, rows: Ints) -> Self:
        """These candidates with rows of another in the places of some."""
        if not len(places):
            return self

        def laid(columns: Sequence[Column]) -> Column:
            return _over(columns[0], columns[1], places, rows)

        return self._combined([self, other], laid, {})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        settled: Counter[str] = Counter()
        for part in parts:
            settled.update(part.settled)
        return parts[0]._combined(parts, _concatenated, dict(settled))

    @classmethod
    def _combined(
        cls,
        parts: Sequence[Self],
        combine: Callable[[Sequence[Column]], Column],
        settled: Mapping[str, int],
    ) -> Self:
        """Each column of the parts combined; what shares a column shares it afterwards too."""
        known: dict[tuple[int, ...], Column] = {}

        def column_of(columns: Sequence[Column]) -> Column:
            identity = tuple(id(column) for column in columns)
            if identity not in known:
                known[identity] = combine(columns)
            return known[identity]

        found: dict[str, Any] = {"settled": settled}
        for each in fields(cls):
            if each.name == "settled":
                continue
            values = [getattr(part, each.name) for part in parts]
            if isinstance(values[0], Layouts):
                found[each.name] = Layouts(
                    **{
                        degree.name: column_of([getattr(value, degree.name) for value in values])
                        for degree in fields(Layouts)
                    }
                )
            elif isinstance(values[0], Mapping):
                found[each.name] = {
                    name: column_of([value[name] for value in values]) for name in values[0]
                }
            else:
                found[each.name] = column_of(values)
        return cls(**found)

    def layout(self, row: int, replicas: int) -> ParallelLayout:
        return self.layouts.layout(row, replicas)

    def frame(self) -> pd.DataFrame:
        """The candidates as a table, a row each, units in the column names."""
        import pandas as pd

        columns: dict[str, object] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, Layouts):
                columns |= {part.name: getattr(value, part.name) for part in fields(value)}
            elif not isinstance(value, Mapping):
                columns[column.name] = value
        slack = {f"slack_{name}": self.limits[name] - self.needs[name] for name in self.limits}
        return pd.DataFrame({**columns, **slack})


def _taken(column: Column, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Column:
    if column.strides == (0,) and len(column):  # one value for all rows takes no memory
        many = int(rows.sum()) if rows.dtype == bool else len(rows)
        return np.broadcast_to(column[0], (many,))
    taken: Column = column[rows]
    return taken


def _over(column: Column, other: Column, places: Ints, rows: Ints) -> Column:
    values = other[rows]
    if (column[places] == values).all():  # no copy of what both agree on
        return column
    laid = column.copy()
    laid[places] = values
    return laid


def _concatenated(columns: Sequence[Column]) -> Column:
    filled = [column for column in columns if len(column)]
    values = {column[0] for column in filled if column.strides == (0,)}
    if len(values) == 1 and all(column.strides == (0,) for column in filled):
        return np.broadcast_to(filled[0][0], (sum(map(len, filled)),))
    return np.concatenate(columns)
