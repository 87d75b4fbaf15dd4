"""Choices that predictions lead to, judged by what was measured: which layout, and which load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

LAYOUT = ["gpus", "tp", "dp", "etp", "ep"]
SERIES = ["model", "hardware", "engine"]
POINT = [*SERIES, "engine_version", "precision", "input_len", "output_len", "gpus", "concurrency"]
TASK = [*SERIES, "precision", "input_len", "output_len"]
LIMITS_MS = (10.0, 15.0, 20.0, 30.0, 50.0)
MISSED = 1.05  # of a limit, beyond which a chosen point misses it
RESAMPLES = 2000


class Choice(NamedTuple):
    """One question: the series it belongs to, whether the layout chosen was the best measured, what
    was lost against that, and whether the point misses its limit."""

    series: tuple[str, ...]
    is_right: float
    lost: float
    is_missed: float


Pick = Callable[[pd.DataFrame, float], int]  # (alternatives, limit in ms) -> the row taken


def layouts(rows: pd.DataFrame) -> pd.Series:
    """A name of each row's layout; dense models have no expert grid."""
    dense = ~rows["is_moe"]
    grid = rows[LAYOUT].astype(int).copy()
    grid.loc[dense, ["etp", "ep"]] = 1
    return grid.astype(str).agg("-".join, axis=1)


def rate(rows: pd.DataFrame, kind: str) -> pd.Series:
    """Output tokens a second and GPU of a closed loop."""
    tokens = rows["concurrency"] * rows["output_len"]
    request_ms = rows[f"{kind}_ttft_ms"] + (rows["output_len"] - 1) * rows[f"{kind}_tpot_ms"]
    return tokens / (request_ms / 1e3) / rows["gpus"]


def least_tpot(given: pd.DataFrame, limit_ms: float) -> int:
    """(a): the least predicted TPOT."""
    return int(given["predicted_tpot_ms"].idxmin())


def most_tokens(given: pd.DataFrame, limit_ms: float) -> int:
    """(b): the most predicted tokens/s/GPU under the limit; where nothing keeps it, least TPOT."""
    kept = given[given["predicted_tpot_ms"] <= limit_ms]
    return int(kept["predicted_rate"].idxmax()) if len(kept) else least_tpot(given, limit_ms)


def fewest_gpus(given: pd.DataFrame, limit_ms: float) -> int:
    """Fewest GPUs, then the largest tp; among equal layouts the predictions choose the load."""
    best = given.sort_values(["gpus", "tp"], ascending=[True, False]).iloc[0]
    return _load_of(given, str(best["layout"]), limit_ms)


def largest_tp(given: pd.DataFrame, limit_ms: float) -> int:
    """The largest tp, then the fewest GPUs."""
    best = given.sort_values(["tp", "gpus"], ascending=[False, True]).iloc[0]
    return _load_of(given, str(best["layout"]), limit_ms)


def _load_of(given: pd.DataFrame, layout: str, limit_ms: float) -> int:
    own = given[given["layout"] == layout]
    return least_tpot(own, limit_ms) if np.isinf(limit_ms) else most_tokens(own, limit_ms)


def at_random(seed: int = 0) -> Pick:
    """A layout drawn evenly; the predictions choose its load."""
    drawn = np.random.default_rng(seed)

    def pick(given: pd.DataFrame, limit_ms: float) -> int:
        names = sorted(given["layout"].unique())
        return _load_of(given, names[int(drawn.integers(len(names)))], limit_ms)

    return pick


def by_layout(rows: pd.DataFrame, pick: Pick) -> Iterator[Choice]:
    """(a) One workload on as many GPUs in several layouts: is the one taken the quickest?"""
    for key, group in _alternatives(rows, POINT):
        chosen = group["measured_tpot_ms"][pick(group, np.inf)]
        best = group["measured_tpot_ms"].min()
        yield Choice(key, float(chosen <= best), chosen / best - 1, 0.0)


def by_limit(rows: pd.DataFrame, pick: Pick, margin: float = 1.0) -> Iterator[Choice]:
    """(b) Layout and load of the most tokens/s/GPU under a limit on TPOT."""
    for key, group in _alternatives(rows, TASK):
        for limit_ms in LIMITS_MS:
            kept = group[group["measured_tpot_ms"] <= limit_ms]
            if kept.empty:
                continue
            best = kept.loc[kept["measured_rate"].idxmax()]
            chosen = group.loc[pick(group, limit_ms * margin)]
            yield Choice(
                key,
                float(chosen["layout"] == best["layout"]),
                max(0.0, 1 - chosen["measured_rate"] / best["measured_rate"]),
                float(chosen["measured_tpot_ms"] > MISSED * limit_ms),
            )


def _alternatives(
    rows: pd.DataFrame, keys: list[str]
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Questions with more than one layout; runs of one layout and load become their median."""
    known = rows.assign(
        layout=layouts(rows),
        engine_version=rows["engine_version"].fillna(""),
        measured_rate=rate(rows, "measured"),
        predicted_rate=rate(rows, "predicted"),
    )
    numbers = ["measured_tpot_ms", "predicted_tpot_ms", "measured_rate", "predicted_rate"]
    for key, group in known.groupby(keys):
        alike = group.groupby(["layout", "concurrency"])
        medians = alike[numbers].median().join(alike[["gpus", "tp"]].first()).reset_index()
        if medians["layout"].nunique() > 1:
            yield tuple(str(part) for part in key[: len(SERIES)]), medians


def summary(choices: list[Choice]) -> str:
    """Share right, mean loss and share that misses, each with its 80 % bootstrap interval over
    series."""
    series = sorted({choice.series for choice in choices})
    values = np.array([choice[1:] for choice in choices], dtype=float) * 100
    of = [np.flatnonzero([choice.series == one for choice in choices]) for one in series]
    sums = np.array([values[rows].sum(axis=0) for rows in of])
    counts = np.array([len(rows) for rows in of])
    drawn = np.random.default_rng(0).integers(len(series), size=(RESAMPLES, len(series)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]
    low, high = np.quantile(means, [0.1, 0.9], axis=0)
    cells = [
        f"{mean:.1f} ({a:.1f}-{b:.1f})"
        for mean, a, b in zip(values.mean(axis=0), low, high, strict=True)
    ]
    return " | ".join([str(len(choices)), *cells])
