"""Piecewise linear functions of tokens and context, quick to read at one point."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class Curve:
    """Values between points: linear, the last slope carried on, flat below the first point."""

    __slots__ = ("_slopes", "_values", "_xs")

    def __init__(self, xs: Sequence[float], values: Sequence[float]) -> None:
        self._xs, self._values = list(xs), list(values)
        pairs = zip(xs, xs[1:], values, values[1:], strict=False)
        self._slopes = [(after - before) / (right - left) for left, right, before, after in pairs]

    def __call__(self, x: float) -> float:
        xs = self._xs
        if x <= xs[0] or not self._slopes:
            return self._values[0]
        low = min(bisect_right(xs, x), len(self._slopes)) - 1
        return max(0.0, self._values[low] + self._slopes[low] * (x - xs[low]))

    def __add__(self, other: Curve) -> Curve:
        """The sum of two curves over the same points."""
        return Curve(
            self._xs, [one + two for one, two in zip(self._values, other._values, strict=True)]
        )


class Surface:
    """Curves over contexts, one for each number of tokens; contexts are carried on both ways."""

    __slots__ = ("_columns", "_xs")

    def __init__(
        self, xs: Sequence[float], columns: Sequence[tuple[Sequence[float], Sequence[float]]]
    ) -> None:
        self._xs = list(xs)
        self._columns = [(list(contexts), list(values)) for contexts, values in columns]

    def __call__(self, x: float, context: float) -> float:
        xs = self._xs
        if x <= xs[0] or len(xs) == 1:
            return max(0.0, _along(*self._columns[0], context))
        low = min(bisect_right(xs, x), len(xs) - 1) - 1
        before = _along(*self._columns[low], context)
        after = _along(*self._columns[low + 1], context)
        share = (x - xs[low]) / (xs[low + 1] - xs[low])
        return max(0.0, before + share * (after - before))

    def __add__(self, other: Surface) -> Surface:
        """The sum of two surfaces over the same points."""
        columns = [
            (contexts, [one + two for one, two in zip(values, added, strict=True)])
            for (contexts, values), (_, added) in zip(self._columns, other._columns, strict=True)
        ]
        return Surface(self._xs, columns)


def _along(contexts: list[float], values: list[float], context: float) -> float:
    if len(contexts) == 1:
        return values[0]
    low = min(max(bisect_right(contexts, context) - 1, 0), len(contexts) - 2)
    slope = (values[low + 1] - values[low]) / (contexts[low + 1] - contexts[low])
    return values[low] + slope * (context - contexts[low])
