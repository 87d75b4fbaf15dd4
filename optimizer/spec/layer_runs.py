"""A list of layer names as runs of repeated patterns: 60 names -> "(linear x 3, full) x 15"."""

from __future__ import annotations

from collections.abc import Sequence

MAX_PERIOD = 16


def runs_of(names: Sequence[str]) -> list[dict[str, object]]:
    """The shortest greedy description: at each place the pattern that covers most layers."""
    runs: list[dict[str, object]] = []
    start = 0
    while start < len(names):
        period, repeat = 1, 0
        for candidate in range(1, MAX_PERIOD + 1):
            count = _repeats(names, start, candidate)
            if (count > 1 or candidate == 1) and candidate * count > period * repeat:
                period, repeat = candidate, count
        runs.append({"types": list(names[start : start + period]), "repeat": repeat})
        start += period * repeat
    return runs


def _repeats(names: Sequence[str], start: int, period: int) -> int:
    """How often names[start : start + period] follows itself from `start` on."""
    end = start + period
    while end < len(names) and names[end] == names[end - period]:
        end += 1
    return (min(end, len(names)) - start) // period
