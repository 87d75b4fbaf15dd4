"""Who asks for what, and when: requests that arrive, and clients that ask again when answered."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from optimizer.errors import Problem, SpecError, why_unreadable

COLUMNS = ("arrival_s", "input_tokens", "output_tokens")


class Request(NamedTuple):
    """Tokens of one request, and when it arrives; in a closed loop that is when a client asks."""

    arrival_s: float
    input_tokens: int
    output_tokens: int


class Load(NamedTuple):
    """Requests by arrival. With `clients` it is a closed loop: so many are in flight until none is
    left, and the requests' own arrivals say nothing. `planned`: it is what the plan was made for.
    """

    name: str
    requests: tuple[Request, ...]
    clients: int | None = None
    planned: bool = False


def request_lengths(
    count: int,
    input_tokens: int,
    output_tokens: int,
    shares: tuple[float, float],
    seed: int,
) -> list[tuple[int, int]]:
    """(input, output) of each request: drawn evenly between two shares of the lengths, input and
    output each for itself."""
    least, most = shares
    if least == most == 1:
        return [(input_tokens, output_tokens)] * count
    draw = np.random.default_rng((seed, 1))
    columns = [
        draw.integers(
            max(1, math.ceil(least * tokens)), max(1, math.floor(most * tokens)) + 1, count
        ).tolist()
        for tokens in (input_tokens, output_tokens)
    ]
    return list(zip(*columns, strict=True))


def closed_loop(lengths: Sequence[tuple[int, int]], clients: int) -> Load:
    """Every client asks at once, and again as soon as it is answered."""
    requests = tuple(Request(0.0, *length) for length in lengths)
    return Load("closed loop", requests, min(clients, len(requests)))


def poisson(lengths: Sequence[tuple[int, int]], rate_per_s: float, seed: int) -> Load:
    """Independent arrivals: exponential times between them."""
    gaps = np.random.default_rng((seed, 0)).exponential(1.0 / rate_per_s, len(lengths))
    arrivals = np.cumsum(gaps).tolist()
    return Load(
        "poisson", tuple(Request(at, *each) for at, each in zip(arrivals, lengths, strict=True))
    )


def burst(lengths: Sequence[tuple[int, int]], rate_per_s: float | None, size: int) -> Load:
    """All at once; with a rate, `size` at once and as often as keeps the rate."""
    gap = 0.0 if rate_per_s is None else size / rate_per_s
    requests = (Request(index // size * gap, *each) for index, each in enumerate(lengths))
    return Load("burst", tuple(requests))


def read_trace(path: Path) -> Load:
    """A CSV with arrival_s, input_tokens and output_tokens; names every wrong line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        hint = "closed, poisson, burst or a CSV belongs here"
        text = f"cannot be read: {why_unreadable(error)}; {hint}"
        raise SpecError(Problem(text, str(path))) from None
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        header = ",".join(COLUMNS)
        raise SpecError(
            Problem(f"column missing: {', '.join(missing)}; the first line is {header}", str(path))
        )
    requests, problems = [], []
    for line, row in enumerate(reader, start=2):
        found = _request(row)
        if isinstance(found, str):
            problems.append(Problem(found, str(path), line))
        else:
            requests.append(found)
    if problems:
        raise SpecError(*problems[:20])
    if not requests:
        raise SpecError(Problem("holds no request", str(path)))
    return Load("trace", tuple(sorted(requests, key=lambda request: request.arrival_s)))


def _request(row: dict[str, str | None]) -> Request | str:
    """One line of a trace, or what is wrong with it."""
    try:
        arrival_s = float(row["arrival_s"] or "")
        tokens = [int(row[name] or "") for name in COLUMNS[1:]]
    except ValueError:
        return "needs seconds and two counts, as in 0.25,1024,256"
    if not math.isfinite(arrival_s) or arrival_s < 0:
        return f"arrival_s is {arrival_s:g}; a request arrives at 0 or later"
    for name, value in zip(COLUMNS[1:], tokens, strict=True):
        if not 1 <= value <= 10**8:
            return f"{name} is {value}; write at least 1"
    return Request(arrival_s, *tokens)
