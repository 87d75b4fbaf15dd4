"""Candidates: priced layouts with every limit's need beside what there is, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints, Layouts, ParallelLayout
from optimizer.operators import Floats

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Candidates:
    """n candidates; latencies in seconds, rates in tokens a second of one replica.

    Serving fills ttft_s and tpot_s, latency_s is then the time of a whole request; a forward pass
    fills latency_s alone. `needs[name]` is what a limit bounds, `limits[name]` its bound [n].
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

    def __len__(self) -> int:
        return len(self.pool)

    @property
    def gpus_per_replica(self) -> Ints:
        return self.layouts.gpus_per_replica

    def broken(self) -> NDArray[np.int64]:
        """A bit mask of broken limits [n]; bit i is the i-th name of `limits`."""
        mask = np.zeros(len(self), dtype=np.int64)
        for bit, name in enumerate(self.limits):
            mask |= (~(self.needs[name] <= self.limits[name])).astype(np.int64) << bit
        return mask

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Candidates:
        chosen: dict[str, object] = {}
        for column in fields(self):
            value = getattr(self, column.name)
            if isinstance(value, Layouts):
                chosen[column.name] = value.take(rows)
            elif isinstance(value, Mapping):
                chosen[column.name] = {name: array[rows] for name, array in value.items()}
            else:
                chosen[column.name] = value[rows]
        return Candidates(**chosen)  # type: ignore[arg-type]

    @classmethod
    def concatenate(cls, parts: list[Candidates]) -> Candidates:
        joined: dict[str, object] = {}
        for column in fields(cls):
            values = [getattr(part, column.name) for part in parts]
            if isinstance(values[0], Layouts):
                joined[column.name] = Layouts.concatenate(values)
            elif isinstance(values[0], Mapping):
                joined[column.name] = {
                    name: np.concatenate([value[name] for value in values]) for name in values[0]
                }
            else:
                joined[column.name] = np.concatenate(values)
        return cls(**joined)  # type: ignore[arg-type]

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
