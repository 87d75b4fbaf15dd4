"""Operators as they were timed: tables of the optional package aiconfigurator-core."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optimizer.cost.demand import Device, Timed
from optimizer.operators import Operator


def with_tables(device: Device, engine: str, kinds: Sequence[str]) -> Device:
    """The device with the tables of these kinds of operators; a SpecError without the package."""
    if not kinds:
        return device
    from optimizer.cost.silicon.kernels import TIMERS
    from optimizer.cost.silicon.tables import require_tables

    require_tables()

    def timer(kind: str) -> Callable[[Operator], Timed | None]:
        return lambda operator: TIMERS[kind](operator, device, engine)

    return device._replace(timers={kind: timer(kind) for kind in kinds})
