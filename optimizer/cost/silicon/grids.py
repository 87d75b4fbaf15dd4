"""Measured seconds of one kind of kernel, looked up between the sizes that were measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.operators import Floats

MEASURED, INTERPOLATED, EXTRAPOLATED = 0, 1, 2
LABELS = ("measured", "interpolated", "extrapolated")
SAME = 1e-6  # of the logarithm of a size: the same size

Marks = NDArray[np.bool_]
Places = NDArray[np.int64]


class Found(NamedTuple):
    """Looked-up factors over the reference [n] and how each came about (an index into LABELS)."""

    factor: Floats
    label: Floats


class Grid(NamedTuple):
    """log(measured / reference) of s shapes over the same axes; the reference is an ideal roofline.

    Looking up the factor rather than the seconds makes the surface flat, so that what lies between
    or beyond measured sizes scales as the roofline does.
    """

    shapes: Floats  # [s, d] logarithms of what is not interpolated: the nearest counts
    axes: tuple[Floats, ...]  # logarithms of sizes, ascending; interpolated between
    factors: Floats  # [s, *axes] logarithms, gaps filled from the nearest measured size
    known: Marks  # [s, *axes] whether measured

    def find(self, shape: Floats, point: Floats) -> Found:
        """Factors of n operators: shape [n, d] and point [n, a] in logarithms; linear in logarithms
        between sizes, constant beyond them."""
        chosen, exact = _nearest(self.shapes, shape)
        total = np.zeros(len(point))
        beyond, between = ~exact, np.zeros(len(point), dtype=bool)
        lows, parts = [], []
        for axis, values in zip(self.axes, point.T, strict=True):
            low = np.clip(np.searchsorted(axis, values) - 1, 0, max(len(axis) - 2, 0))
            high = np.minimum(low + 1, len(axis) - 1)
            gap = np.where(high > low, axis[high] - axis[low], 1.0)
            part = np.clip((values - axis[low]) / gap, 0.0, 1.0)
            part = np.where(part < SAME, 0.0, np.where(part > 1 - SAME, 1.0, part))
            beyond |= (values < axis[0] - SAME) | (values > axis[-1] + SAME)
            between |= (part > 0) & (part < 1)
            lows.append(low)
            parts.append(part)
        for corner in range(2 ** len(self.axes)):
            weight, place = np.ones(len(point)), []
            for number, axis in enumerate(self.axes):
                upper = corner >> number & 1
                weight = weight * (parts[number] if upper else 1.0 - parts[number])
                place.append(np.minimum(lows[number] + upper, len(axis) - 1))
            at = (chosen, *place)
            total += weight * self.factors[at]
            beyond |= (weight > 0) & ~self.known[at]
        label = np.where(beyond, EXTRAPOLATED, np.where(between, INTERPOLATED, MEASURED))
        return Found(np.exp(total), label.astype(np.float64))


def gridded(shapes: Floats, points: Floats, factors: Floats) -> Grid:
    """A grid of measured rows: shapes [r, d], points [r, a] (sizes) and measured / reference [r];
    the fastest kernel counts where several were timed."""
    distinct, row = np.unique(np.log(shapes), axis=0, return_inverse=True)
    axes, places = [], [np.asarray(row).ravel()]
    for values in np.log(points).T:
        axis, place = np.unique(values, return_inverse=True)
        axes.append(axis)
        places.append(place)
    table = np.full((len(distinct), *map(len, axes)), np.inf)
    np.minimum.at(table, tuple(places), np.log(factors))
    known = np.isfinite(table)
    return Grid(distinct, tuple(axes), _filled(table, known), known)


def _filled(table: Floats, known: Marks) -> Floats:
    """Gaps take the value of the nearest measured size, along the last axis first."""
    values, have = table.copy(), known
    for axis in range(table.ndim - 1, 0, -1):
        moved, present = np.moveaxis(values, axis, -1), np.moveaxis(have, axis, -1)
        width = moved.shape[-1]
        place = np.arange(width)
        before = np.maximum.accumulate(np.where(present, place, -1), axis=-1)
        after = np.minimum.accumulate(np.where(present, place, 2 * width)[..., ::-1], axis=-1)
        after = after[..., ::-1]
        nearer = (before >= 0) & ((place - before <= after - place) | (after >= width))
        source = np.where(nearer, before, np.minimum(after, width - 1))
        some = present.any(axis=-1, keepdims=True)
        taken = np.take_along_axis(moved, source.astype(np.int64), axis=-1)
        values = np.moveaxis(np.where(some, taken, moved), -1, axis)
        have = np.moveaxis(np.broadcast_to(some, moved.shape), -1, axis)
    return values


def _nearest(shapes: Floats, wanted: Floats) -> tuple[Places, Marks]:
    """Row of the nearest shape of each of n and whether it is the very shape."""
    distinct, inverse = np.unique(wanted, axis=0, return_inverse=True)
    gaps = np.abs(shapes[None] - distinct[:, None]).sum(axis=2)  # [distinct, shapes]
    rows = np.argmin(gaps, axis=1).astype(np.int64)
    back = np.asarray(inverse).ravel()
    return rows[back], (gaps.min(axis=1) <= SAME)[back]
