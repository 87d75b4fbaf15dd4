"""How measured runs draw the predictions of runs like them (kriging)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from optimizer.cost.corrections import Corrections, Spread
from optimizer.cost.serving import ServingTimes
from optimizer.operators import Columns, Floats
from optimizer.spec.cluster import Gpu
from optimizer.spec.model import ModelSpec

BLOCK = 4_096  # runs looked up at once
CALLED = {"fp8_block": "fp8", "nvfp4": "fp4", "mxfp4": "fp4", "int4_g128": "int4", "fp16": "bf16"}


class Series(NamedTuple):
    """What runs are alike in."""

    model: str
    gpu: str
    engine: str
    precision: str


class Factors(NamedTuple):
    """What predicted seconds are multiplied by [n]."""

    ttft: Floats
    tpot: Floats


def series_of(model: ModelSpec, gpu: Gpu, engine: str) -> Series:
    """The series of a model as it is kept and served."""
    kept = model.precision.experts if model.moe else model.precision.ffn
    return Series(model.name, gpu.name, engine or "any", CALLED.get(kept, kept))


def load_of(columns: Columns) -> Floats:
    """[n, 4]: GPUs, concurrency (of a replica), input and output tokens of runs."""
    names = ("concurrency", "input_len", "output_len")
    gpus = columns["tp"] * columns["dp"]
    return np.stack(np.broadcast_arrays(gpus, *(columns[name] for name in names)), axis=-1)


def factors(corrections: Corrections | None, series: Series, load: Floats) -> Factors:
    """Factors of n runs of one series under load [n, 4].

    The best linear prediction of the log ratio from those of the given runs (Krige, 1951): near
    runs of the same series count most, other models on the same engine and GPU a little; far from
    any run the factor is 1.
    """
    if corrections is None:
        return Factors(np.ones(len(load)), np.ones(len(load)))
    points, row = np.unique(np.log(load), axis=0, return_inverse=True)
    wanted = _Points((series,) * len(points), points)
    ttft, tpot = (_predicted(corrections, wanted, name) for name in ("ttft", "tpot"))
    return Factors(ttft[row.ravel()], tpot[row.ravel()])


def corrected(times: ServingTimes, drawn: Factors, output_len: Floats | float) -> ServingTimes:
    """Serving times multiplied by factors."""
    ttft, tpot = times.ttft_s * drawn.ttft, times.tpot_s * drawn.tpot
    return ServingTimes(ttft, tpot, ttft + (output_len - 1) * tpot)


class _Points(NamedTuple):
    series: tuple[Series, ...]
    load: Floats  # [n, 4] logarithms


def _predicted(corrections: Corrections, wanted: _Points, quantity: str) -> Floats:
    known, weights = _solved(corrections, quantity)
    found = np.ones(len(wanted.load))
    for start in range(0, len(found) if len(weights) else 0, BLOCK):
        rows = slice(start, start + BLOCK)
        block = _Points(wanted.series[rows], wanted.load[rows])
        found[rows] = np.exp(_covariance(block, known, corrections.spread) @ weights)
    return found


@lru_cache(maxsize=8)
def _solved(corrections: Corrections, quantity: str) -> tuple[_Points, Floats]:
    """The runs that measured a quantity and the weight of each."""
    runs = [run for run in corrections.runs if getattr(run, quantity) is not None]
    load = [[run.gpus, run.concurrency, run.input_len, run.output_len] for run in runs]
    points = _Points(
        tuple(Series(run.model, run.gpu, run.engine, run.precision) for run in runs),
        np.log(np.array(load).reshape(len(runs), 4)),
    )
    if not runs:
        return points, np.zeros(0)
    covariance = _covariance(points, points, corrections.spread)
    noise = corrections.spread.noise**2 * np.eye(len(runs))
    logs = np.log([getattr(run, quantity) for run in runs])
    weights = np.linalg.solve(covariance + noise, logs).astype(np.float64)
    return points, weights


def _covariance(left: _Points, right: _Points, spread: Spread) -> Floats:
    """[n, m] covariances of log ratios, without noise."""
    reach = np.array([spread.concurrency, spread.lengths, spread.lengths])
    distance = (left.load[:, None, 1:] - right.load[None, :, 1:]) / reach
    fading = spread.local * np.exp(-0.5 * np.square(distance).sum(axis=-1))
    rows = {series: index for index, series in enumerate(dict.fromkeys(left.series))}
    columns = {series: index for index, series in enumerate(dict.fromkeys(right.series))}
    alike = np.array([[_alike(one, other) for other in columns] for one in rows], dtype=np.float64)
    place = np.ix_([rows[one] for one in left.series], [columns[one] for one in right.series])
    same_gpus = np.abs(left.load[:, None, 0] - right.load[None, :, 0]) < 1e-9
    variance = (
        alike[..., 0][place] * spread.gpu**2
        + alike[..., 1][place] * spread.model**2
        + alike[..., 2][place] * same_gpus * spread.series**2
    )
    covariance: Floats = variance * (1.0 - spread.local + fading)
    return covariance


def _alike(one: Series, other: Series) -> tuple[bool, bool, bool]:
    """Whether two series share engine and GPU, the model besides, the precision besides."""
    gpu = (one.engine, one.gpu) == (other.engine, other.gpu)
    model = gpu and one.model == other.model
    return gpu, model, model and one.precision == other.precision
