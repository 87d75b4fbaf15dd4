"""Derived values under named readings: products whose factors may be read in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

from optimizer.audit.amounts import Dimension, show


class Derived(NamedTuple):
    """A value in SI under one reading, with the arithmetic that leads to it.

    `labels` name the reading in full, `departures` where it is not the claim at its word. A reading
    that does not hold only explains where a figure comes from. low and high: a prediction's
    interval.
    """

    value: float | str
    arithmetic: str
    labels: tuple[str, ...] = ()
    departures: tuple[str, ...] = ()
    holds: bool = True
    low: float | None = None
    high: float | None = None


class Answer(NamedTuple):
    """All derived values of a quantity, the claim at its word first, and what is not stated."""

    derived: tuple[Derived, ...] = ()
    missing: tuple[str, ...] = ()
    note: str = ""


class Option(NamedTuple):
    """One way to read a factor: its label, the factor, and how it is written."""

    label: str
    factor: float
    text: str
    holds: bool = True


Axis = Sequence[Option]  # the first option is the claim at its word


def products(axes: Sequence[Axis], dimension: Dimension, said: str = "") -> Iterator[Derived]:
    """Every combination of readings; those nearest to the claim's word come first."""
    choices = product(*(range(len(axis)) for axis in axes))
    for picks in sorted(choices, key=lambda picks: (sum(map(bool, picks)), picks)):
        options = [axis[pick] for axis, pick in zip(axes, picks, strict=True)]
        value = prod(option.factor for option in options)
        written = " ".join(option.text for option in options if option.text)
        yield Derived(
            value,
            f"{said}{written.removeprefix('x ')} = {show(value, dimension)}",
            tuple(option.label for option in options if option.label),
            tuple(option.label for option, pick in zip(options, picks, strict=True) if pick),
            all(option.holds for option in options),
        )
