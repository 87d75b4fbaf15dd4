"""Distinct rows of a few columns, and the way back: what follows from them is priced once each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.layout import Ints
from optimizer.operators import Columns, Floats

TABLE_CELLS = 64  # a row, of a table of flags; beyond it sorting the rows is quicker

Coded = tuple[NDArray[Any], Ints]  # (distinct values, for each entry the index of its own)


def coded(values: NDArray[Any]) -> Coded:
    """The distinct values ascending, and each entry's index in them; whole numbers close together
    are found by a table of flags, all others by sorting."""
    if not len(values):
        return values, np.zeros(0, dtype=np.int64)
    least, most = values.min(), values.max()
    if least == most:
        return values[:1], np.zeros(len(values), dtype=np.int64)
    if most - least < max(1 << 16, 4 * len(values)) and most < 2**53:
        whole = values.astype(np.int64, copy=False)
        if values.dtype.kind == "i" or (whole == values).all():
            start = int(least) if least < 0 or most > 4 * len(values) else 0
            found, codes = _flagged(whole - start if start else whole, int(most) - start + 1)
            return (found + start).astype(values.dtype), codes
    found, codes = np.unique(values, return_inverse=True)
    return found, codes


def _flagged(keys: Ints, cells: int) -> tuple[Ints, Ints]:
    used = np.zeros(cells, dtype=bool)
    used[keys] = True
    found = np.flatnonzero(used)
    place = np.empty(cells, dtype=np.int64)
    place[found] = np.arange(len(found))
    return found, place[keys]


def _joint(columns: Sequence[Coded]) -> tuple[Ints, Ints]:
    """(distinct joint keys ascending, for each row the index of its own)."""
    key = np.zeros(len(columns[0][1]), dtype=np.int64)
    cells = 1
    for values, codes in columns:
        if len(values) > 1:
            key = key * len(values) + codes if cells > 1 else codes
            cells *= len(values)
    if cells <= TABLE_CELLS * len(key):
        return _flagged(key, cells)
    found, back = np.unique(key, return_inverse=True)
    return found, back


def representatives(*columns: NDArray[Any]) -> tuple[Ints, Ints]:
    """(one row of each distinct combination of columns, for each row the index of its own)."""
    found, back = _joint([coded(column) for column in columns])
    rows = np.empty(len(found), dtype=np.int64)
    rows[back] = np.arange(len(back))
    return rows, back


class Factors:
    """Codes each column once, so that any subset of columns is factored without sorting rows."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._coded: dict[int, Coded] = {}  # by the identity of a column: names may share one
        self._known: dict[tuple[str, ...], tuple[dict[str, Floats], Ints]] = {}

    def _code(self, name: str) -> Coded:
        column = self._columns[name]
        if id(column) not in self._coded:
            self._coded[id(column)] = coded(column)
        return self._coded[id(column)]

    def distinct(self, names: Sequence[str]) -> tuple[dict[str, Floats], Ints]:
        """(the distinct rows of the named columns, for each row the index of its distinct one)."""
        key = tuple(names)
        if key not in self._known:
            once = {id(self._columns[name]): self._code(name) for name in names}
            rest, back = _joint(list(once.values()))
            found: dict[int, Floats] = {}
            for identity, (values, _) in reversed(once.items()):
                found[identity] = values[rest % len(values)]
                rest = rest // len(values)
            self._known[key] = {name: found[id(self._columns[name])] for name in names}, back
        return self._known[key]
