"""`optimize calibrate`: draws the predictions towards a user's own measured runs, and says how much
better runs that were left out became."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import yaml

from optimizer.cost.calibration import Calibration
from optimizer.cost.correcting import Series, factors, load_of, series_of
from optimizer.cost.corrections import MAX_RUNS, Corrections, Run
from optimizer.errors import Problem, SpecError
from optimizer.evaluation import evaluate, read_groups
from optimizer.operators import Floats

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
QUANTITIES = ("ttft", "tpot")
LOAD = ("gpus", "concurrency", "input_len", "output_len")
LEAST_FOR_INTERVAL = 20  # runs left out before their errors say how wide an interval is
INSIDE = 0.8  # of the runs, which an interval is to hold


class Score(NamedTuple):
    """Mean and median absolute error over runs."""

    mean: float
    median: float


class Gain(NamedTuple):
    """Errors on runs that were left out, without and with the other runs."""

    runs: int
    before: Score
    after: Score


class Calibrated(NamedTuple):
    """A calibration that holds a user's runs, what they gained, and why rows were not used."""

    calibration: Calibration
    gains: Mapping[str, Gain]  # ttft, tpot; empty for a single run
    unused: Mapping[str, int]  # reason: rows


def calibrate(rows: pd.DataFrame, base: Calibration, name: str, file: str = "") -> Calibrated:
    """`base` corrected by measured runs: columns as `optimize evaluate` reads them beside
    measured_ttft_ms and measured_tpot_ms, of which either may be blank."""
    runs, unused = _runs(rows, base)
    if not runs:
        why = "; ".join(f"{count} rows: {reason}" for reason, count in unused.items())
        raise SpecError(Problem(f"has no run to calibrate with: {why or 'it is empty'}", file))
    if len(runs) > MAX_RUNS:
        few = f"has {len(runs):,} measured runs; give at most {MAX_RUNS:,}, some of each series"
        raise SpecError(Problem(few, file))
    gains, interval = {}, base.interval
    for quantity in QUANTITIES:
        before, after = _left_out(runs, quantity)
        if not len(before):
            continue
        gains[quantity] = Gain(len(before), _score(before), _score(after))
        if len(after) >= LEAST_FOR_INTERVAL:
            width = round(float(np.quantile(np.abs(after), INSIDE)), 3)
            interval = interval.model_copy(update={quantity: width})
    changed = {
        "name": name,
        "source": f"{base.name} ({base.source}), drawn towards {len(runs)} measured runs",
        "rows": len(runs),
        "error": {
            quantity: (round(gain.after.mean, 3), round(gain.after.median, 3))
            for quantity, gain in gains.items()
        },
        "interval": interval,
        "corrections": Corrections(runs=tuple(runs)),
    }
    return Calibrated(base.model_copy(update=changed), gains, unused)


def calibration_text(calibration: Calibration) -> str:
    """The calibration as a file that --calibration reads."""
    document = calibration.model_dump(mode="json", exclude_none=True)
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def _runs(rows: pd.DataFrame, base: Calibration) -> tuple[list[Run], dict[str, int]]:
    """Measured over predicted seconds of each row, in the file's order, and why others are not."""
    groups, reasons = read_groups(rows)
    predicted = evaluate(rows, base.model_copy(update={"corrections": None}))
    ratio = {
        quantity: _ratio(predicted, f"measured_{quantity}_ms", f"predicted_{quantity}_ms")
        for quantity in QUANTITIES
    }
    found: dict[int, Run] = {}
    for group in groups:
        given = group.given
        series = series_of(given.model, given.device.gpu, given.engine)
        load = load_of(given.columns)
        for place, row in enumerate(group.members.tolist()):
            known = {name: float(ratio[name][row]) for name in QUANTITIES}
            known = {name: round(value, 6) for name, value in known.items() if value == value}
            if not known:
                reasons[row] = "measured_ttft_ms and measured_tpot_ms are blank or not positive"
                continue
            under = dict(zip(LOAD, load[place].tolist(), strict=True))
            found[row] = Run.model_validate({**series._asdict(), **under, **known})
    unused = Counter(reason for reason in reasons if reason)
    return [found[row] for row in sorted(found)], dict(unused)


def _ratio(predicted: pd.DataFrame, measured_name: str, predicted_name: str) -> Floats:
    """Measured over predicted; not a number where either is missing."""
    import pandas as pd

    if measured_name not in predicted.columns:
        return np.full(len(predicted), np.nan)
    measured = pd.to_numeric(predicted[measured_name], errors="coerce").to_numpy(np.float64)
    priced = predicted[predicted_name].to_numpy(np.float64)
    usable = np.isfinite(measured) & (measured > 0) & (priced > 0)
    return np.where(usable, measured / np.where(usable, priced, 1.0), np.nan)


def _left_out(runs: Sequence[Run], quantity: str) -> tuple[Floats, Floats]:
    """log(predicted / measured) of every run without its ratio, and with those of the other folds
    alone: every fifth run of each series by load is a fold (every run where they are few)."""
    measured = [run for run in runs if getattr(run, quantity) is not None]
    if len(measured) < 2:
        return np.zeros(0), np.zeros(0)
    order = sorted(measured, key=lambda run: (_series(run), run.gpus, run.concurrency))
    folds = min(FOLDS, len(order))
    before = -np.log([getattr(run, quantity) for run in order])
    after = before.copy()
    for fold in range(folds):
        mine = range(fold, len(order), folds)
        kept = Corrections(
            runs=tuple(run for place, run in enumerate(order) if place % folds != fold)
        )
        for place in mine:
            run = order[place]
            load = np.array([[getattr(run, name) for name in LOAD]])
            drawn = factors(kept, _series(run), load)
            after[place] += np.log(getattr(drawn, quantity)[0])
    return before, after


def _series(run: Run) -> Series:
    return Series(run.model, run.gpu, run.engine, run.precision)


def _score(logs: Floats) -> Score:
    error = np.abs(np.expm1(logs))
    return Score(float(error.mean()), float(np.median(error)))
