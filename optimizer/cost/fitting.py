"""Constants from measured runs: robust least squares in log space around physical priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost import given as runs
from optimizer.cost.calibration import Calibration, Constants, EngineMemory
from optimizer.cost.demand import Column
from optimizer.cost.given import Given
from optimizer.cost.pricers import PRICERS, asks, collective, measured, memory
from optimizer.cost.serving import ServingTimes
from optimizer.operators import BOUNDARY, Columns, Floats, lower

SCALE = 0.15  # error in logs beyond which a run counts linearly, not squared (soft L1)
TTFT_WEIGHT = 0.3  # of an error of TTFT beside one of TPOT: the runs repeat that much less well
LINEAR = (memory, collective, measured)  # pricers of sums: their operators need not be kept apart


class Prior(NamedTuple):
    """Where a constant is expected and how far off, in logs, it may well be. A name of the form
    engines.vllm.ttft_base_s or generations.blackwell.x is a factor over the common constant."""

    centre: float
    spread: float


# Centres are what kernels are known to reach on these GPUs before any run is looked at; a constant
# stays there unless runs insist.
PRIORS: Mapping[str, Prior] = {
    "memory_efficiency": Prior(0.80, 0.10),
    "cache_memory_efficiency": Prior(0.60, 0.25),
    "gemm_efficiency": Prior(0.65, 0.25),
    "grouped_gemm_efficiency": Prior(0.40, 0.35),
    "fp8_efficiency": Prior(0.75, 0.25),
    "generations.blackwell.block_fp8_efficiency": Prior(0.70, 0.30),
    "narrow_columns": Prior(200.0, 0.50),
    "narrow_read_bytes": Prior(20.0, 0.50),
    "kernel_s": Prior(2.5e-6, 0.35),
    "collective_s": Prior(6e-6, 0.40),
    "collective_doubling_s": Prior(2e-6, 0.50),
    "ring_step_s": Prior(1.5e-6, 0.50),
    "link_efficiency": Prior(0.70, 0.20),
    "sequence_s": Prior(2e-5, 0.70),
    "prefill_work": Prior(0.90, 0.20),
    "first_wave": Prior(0.05, 0.50),
    "bunching": Prior(0.30, 0.50),
    "ttft_base_s": Prior(0.03, 0.50),
    "engines.vllm.ttft_base_s": Prior(1.0, 1.0),
    "engines.sglang.ttft_base_s": Prior(1.0, 1.0),
    "engines.trtllm.ttft_base_s": Prior(1.0, 1.0),
}

# What timing an operator alone leaves out, fitted beside PRIORS where there are tables.
TABLE_PRIORS: Mapping[str, Prior] = {"gap_s": Prior(1e-6, 0.70), "meeting_s": Prior(4e-6, 0.50)}

Pricer = Callable[[Any, Constants], Floats]
Stacked = dict[Pricer, tuple[Floats, Any]]  # (count, demand), arrays [slots, runs]


class Prepared(NamedTuple):
    """Runs lowered once: all that pricing needs beside constants; columns [runs]."""

    prefill: Stacked
    decode: Stacked
    columns: Columns
    chunks: Floats
    running: Floats
    waiting: Floats
    engines: tuple[str, ...]
    generations: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> Prepared:
        """Some of the runs, in the given order."""
        return Prepared(
            _taken(self.prefill, rows),
            _taken(self.decode, rows),
            {name: column[rows] for name, column in self.columns.items()},
            self.chunks[rows],
            self.running[rows],
            self.waiting[rows],
            tuple(self.engines[row] for row in rows),
            tuple(self.generations[row] for row in rows),
        )


def _taken(stacked: Stacked, rows: NDArray[np.int64]) -> Stacked:
    return {
        pricer: (count[:, rows], type(demand)(*(field[:, rows] for field in demand)))
        for pricer, (count, demand) in stacked.items()
    }


def prepare(given: Sequence[Given], memory: EngineMemory) -> Prepared:
    """The demands of every operator of every run, in the order of the groups."""
    held = [runs.residence(each, memory) for each in given]
    loads = [
        runs.running_and_waiting(each, have.running) for each, have in zip(given, held, strict=True)
    ]
    columns = {
        name: np.concatenate([each.columns[name] for each in given]) for name in given[0].columns
    }
    running, waiting = (np.concatenate(column) for column in zip(*loads, strict=True))
    steps = [runs.steps(each, load[0]) for each, load in zip(given, loads, strict=True)]
    return Prepared(
        _stacked(given, [each["prefill"] for each in steps]),
        _stacked(given, [each["decode"] for each in steps]),
        columns,
        np.concatenate([runs.chunks(each) for each in given]),
        running,
        waiting,
        tuple(each.engine for each in given for _ in each.columns["tp"]),
        tuple(each.device.gpu.generation for each in given for _ in each.columns["tp"]),
    )


def _stacked(given: Sequence[Given], steps: Sequence[Columns]) -> Stacked:
    """Operators of all groups by pricer; where a group has fewer than another, count is 0."""
    lengths = [len(columns["tp"]) for columns in steps]
    starts = np.cumsum([0, *lengths])
    slots: dict[Pricer, list[list[tuple[Column, Any]]]] = {}
    for index, (each, columns) in enumerate(zip(given, steps, strict=True)):
        names = each.model.layer_names
        for family in lower(each.model, each.engine):
            if family.part == BOUNDARY:
                continue
            times = names.count(family.part) if family.part in each.model.layer_types else 1
            for operator in family.build({name: columns[name] for name in family.depends}):
                for ask in asks(operator, each.device):
                    groups = slots.setdefault(PRICERS[ask.pricer], [[] for _ in given])
                    groups[index].append((times * ask.share, ask.demand))
    stacked: Stacked = {}
    num_runs = int(starts[-1])
    for pricer, groups in slots.items():
        kind = type(next(demand for group in groups for _, demand in group))
        most = max(len(group) for group in groups)
        count: Floats = np.zeros((most, num_runs))
        fields = [np.ones((most, num_runs)) for _ in kind._fields]
        for index, group in enumerate(groups):
            where = slice(starts[index], starts[index + 1])
            for slot, (counted, demand) in enumerate(group):
                count[slot, where] = counted
                for field, values in zip(fields, demand, strict=True):
                    field[slot, where] = values
        if pricer in LINEAR:
            fields = [(count * field).sum(axis=0, keepdims=True) for field in fields]
            count = np.ones((1, num_runs))
        stacked[pricer] = count, kind(*fields)
    return stacked


def predict(prepared: Prepared, calibration: Calibration) -> ServingTimes:
    """TTFT and TPOT of every run."""
    constants = _columns_of(calibration, prepared.engines, prepared.generations)
    prefill_s, decode_s = (
        sum(
            (
                (count * pricer(demand, constants)).sum(axis=0)
                for pricer, (count, demand) in stacked.items()
            ),
            np.zeros(len(prepared.running)),
        )
        for stacked in (prepared.prefill, prepared.decode)
    )
    return runs.steady_state(
        prepared.columns,
        prepared.chunks,
        prepared.running,
        prepared.waiting,
        prefill_s,
        decode_s,
        constants,
    )


def _columns_of(
    calibration: Calibration, engines: Sequence[str], generations: Sequence[str]
) -> Constants:
    """Each run's constants, as columns."""
    pairs = list(zip(engines, generations, strict=True))
    known = {pair: index for index, pair in enumerate(dict.fromkeys(pairs))}
    table = np.array([calibration.constants_of(*pair) for pair in known])
    return Constants(*table[[known[pair] for pair in pairs]].T)


def calibrated(base: Calibration, values: Mapping[str, float]) -> Calibration:
    """The calibration with fitted values in place; factors are made values."""
    common = {**base.constants, **{name: at for name, at in values.items() if "." not in name}}
    own = {
        table: {key: dict(constants) for key, constants in getattr(base, table).items()}
        for table in ("engines", "generations")
    }
    for name, factor in values.items():
        if "." in name:
            table, key, constant = name.split(".")
            own[table].setdefault(key, {})[constant] = common[constant] * factor
    return base.model_copy(update={"constants": common, **own})


def priors_of(calibration: Calibration) -> Mapping[str, Prior]:
    """The constants that are fitted for it."""
    return {**PRIORS, **TABLE_PRIORS} if calibration.tables else PRIORS


def fit(
    prepared: Prepared,
    ttft_s: Floats,
    tpot_s: Floats,
    base: Calibration,
    priors: Mapping[str, Prior] = PRIORS,
    start: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The constants named by `priors` that explain the measured means best, each held by its prior;
    all others are the base's."""
    from scipy.optimize import least_squares

    names = list(priors)
    centre = np.log([priors[name].centre for name in names])
    spread = np.array([priors[name].spread for name in names])
    first = centre if start is None else np.log([start[name] for name in names])

    def values(logs: Floats) -> dict[str, float]:
        return dict(zip(names, np.exp(logs).tolist(), strict=True))

    def residuals(logs: Floats) -> Floats:
        times = predict(prepared, calibrated(base, values(logs)))
        found: Floats = np.r_[
            np.log(times.tpot_s / tpot_s),
            TTFT_WEIGHT * np.log(times.ttft_s / ttft_s),
            (logs - centre) / spread,
        ]
        return found

    found = least_squares(
        residuals, first, loss="soft_l1", f_scale=SCALE, x_scale=spread, max_nfev=40
    )
    return values(found.x)


def held_out(
    prepared: Prepared,
    ttft_s: Floats,
    tpot_s: Floats,
    labels: Sequence[str],
    base: Calibration,
    priors: Mapping[str, Prior] = PRIORS,
    fitted_on: NDArray[np.bool_] | None = None,
) -> ServingTimes:
    """Predictions of every run with constants fitted on the runs of other labels, of those marked
    in `fitted_on`."""
    usable = np.ones(len(labels), dtype=bool) if fitted_on is None else fitted_on
    named = np.array(labels)
    start = None
    found = ServingTimes(*(np.zeros(len(labels)) for _ in ServingTimes._fields))
    for label in dict.fromkeys(labels):
        others = np.flatnonzero((named != label) & usable)
        mine = np.flatnonzero(named == label)
        start = fit(prepared.take(others), ttft_s[others], tpot_s[others], base, priors, start)
        times = predict(prepared.take(mine), calibrated(base, start))
        for column, values in zip(found, times, strict=True):
            column[mine] = values
    return found
