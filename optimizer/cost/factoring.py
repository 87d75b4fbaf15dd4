"""Distinct rows of a few columns, and the way back: each operator is priced once a distinct row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.operators import Columns, Floats

MAX_TABLE = 1 << 24  # cells of the flag table below; beyond it rows are sorted instead


class Factors:
    """Codes each column once, so that any subset of columns is factored without sorting its
    rows."""

    def __init__(self, columns: Columns) -> None:
        self._values: dict[str, Floats] = {}
        self._codes: dict[str, NDArray[np.int64]] = {}
        for name, column in columns.items():
            self._values[name], self._codes[name] = np.unique(column, return_inverse=True)

    def distinct(self, names: Sequence[str]) -> tuple[dict[str, Floats], NDArray[np.int64]]:
        """(the distinct rows of the named columns, for each row the index of its distinct one)."""
        sizes = [len(self._values[name]) for name in names]
        key = np.zeros(len(self._codes[names[0]]), dtype=np.int64)
        for name, size in zip(names, sizes, strict=True):
            key = key * size + self._codes[name]
        cells = int(np.prod([float(size) for size in sizes]))
        if cells <= max(MAX_TABLE, 4 * len(key)):
            used = np.zeros(cells, dtype=bool)
            used[key] = True
            keys = np.flatnonzero(used)
            position = np.empty(cells, dtype=np.int64)
            position[keys] = np.arange(len(keys))
            back = position[key]
        else:
            keys, back = np.unique(key, return_inverse=True)
        found: dict[str, Floats] = {}
        rest = keys
        for name, size in zip(reversed(names), reversed(sizes), strict=True):
            found[name] = self._values[name][rest % size]
            rest = rest // size
        return found, back
