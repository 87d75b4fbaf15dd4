"""Operators as they were timed: tables of the optional package aiconfigurator-core."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optimizer.cost.demand import Device, Timed
from optimizer.operators import Operator


def with_tables(device: Device, engine: str, kinds: Sequence[str], file: str = "") -> Device:
    """The device with the tables of these kinds of operators, and those of a file of
    benchmarks/measure_operators.py; a SpecError where there is neither package nor file."""
    if not kinds:
        return device
    from optimizer.cost.silicon.kernels import TIMERS
    from optimizer.cost.silicon.tables import Source, require_tables

    if not file:
        require_tables()
    source = Source(engine, file)

    def timer(kind: str) -> Callable[[Operator], Timed | None]:
        return lambda operator: TIMERS[kind](operator, device, source)

    return device._replace(timers={kind: timer(kind) for kind in kinds})
