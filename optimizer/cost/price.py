"""Families of operators to seconds by part, each family priced once a distinct row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Constants
from optimizer.cost.demand import Device
from optimizer.cost.factoring import Factors
from optimizer.cost.pricers import operator_seconds
from optimizer.cost.stages import Cut, even_stages, stage_maximum, stage_total
from optimizer.layout import Ints
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, Family, Floats, Operator
from optimizer.spec.model import ModelSpec


class Step(NamedTuple):
    """Seconds of one engine step [n]: along the whole pipeline, and on its slowest stage."""

    total_s: Floats
    slowest_stage_s: Floats


def part_seconds(
    families: Iterable[Family],
    columns: Mapping[str, Floats],
    device: Device,
    constants: Constants,
) -> dict[str, Floats]:
    """Seconds of each part [n]: a layer of each type, the embedding, the head, a boundary."""
    factors = Factors(columns)
    alike: dict[tuple[str, tuple[str, ...]], Floats] = {}  # families of one part and columns
    for family in families:
        distinct, _ = factors.distinct(family.depends)
        seconds = alike.get((family.part, family.depends), np.zeros(1))
        for operator in family.build(distinct):
            seconds = seconds + operator_seconds(operator, device, constants)
        alike[family.part, family.depends] = seconds
    totals: dict[str, Floats] = {}
    for (part, depends), seconds in alike.items():
        column = seconds[factors.distinct(depends)[1]]
        totals[part] = totals[part] + column if part in totals else column
    return totals


def step_seconds(
    model: ModelSpec,
    families: Iterable[Family],
    columns: Mapping[str, Floats],
    pp: Ints,
    device: Device,
    constants: Constants,
    cut: Cut = even_stages,
) -> Step:
    """Seconds of one step of n candidates."""
    return step_of(model, part_seconds(families, columns, device, constants), pp, cut)


def step_of(
    model: ModelSpec, parts: Mapping[str, Floats], pp: Ints, cut: Cut = even_stages
) -> Step:
    """One step from the seconds of its parts; a stage hands over at its end, so its send is its
    own."""
    layers = {name: parts[name] for name in model.layer_types}
    hand_over = np.where(pp > 1, parts[BOUNDARY], 0.0)
    first, last = parts[EMBEDDING], parts[HEAD]
    slowest = stage_maximum(model, pp, layers, first, last, cut) + hand_over
    total = stage_total(model, layers, first, last) + (pp - 1) * parts[BOUNDARY]
    return Step(total, slowest)


class PricedOperator(NamedTuple):
    """One operator of one candidate with its seconds."""

    part: str
    operator: Operator
    seconds: float


def price_operators(
    families: Iterable[Family], columns: Mapping[str, Floats], device: Device, constants: Constants
) -> tuple[PricedOperator, ...]:
    """Every operator of one candidate (columns of length 1) that takes any time."""
    found = []
    for family in families:
        chosen = {name: columns[name] for name in family.depends}
        for operator in family.build(chosen):
            seconds = float(np.asarray(operator_seconds(operator, device, constants)).ravel()[0])
            if seconds > 0:
                found.append(PricedOperator(family.part, operator, seconds))
    return tuple(found)
