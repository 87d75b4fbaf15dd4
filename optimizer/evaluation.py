"""`optimize evaluate`: prices given serving layouts, a row each, without searching."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.calibration import Calibration, load_calibration
from optimizer.cost.demand import Device
from optimizer.cost.fitting import Prepared, prepare
from optimizer.cost.given import (
    Given,
    decode_sources,
    equipped,
    price_given,
    residence,
    running_and_waiting,
)
from optimizer.cost.silicon.grids import LABELS
from optimizer.errors import OptimizerError, Problem, SpecError, why_unreadable
from optimizer.operators import Floats
from optimizer.spec.cluster import Cluster
from optimizer.spec.formats import FORMATS, Format
from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.shapes import COLUMNS, model_from_shape
from optimizer.units import GIB

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("", "any", "vllm", "sglang", "trtllm")  # "": not stated
NEEDED = ("model", "hardware", "input_len", "output_len", "concurrency", "tp")
# What a checkpoint's name for its precision means; published fp8 and fp4 ones scale blocks.
CHECKPOINTS: dict[str, Format] = {
    **{kind: kind for kind in FORMATS},
    "fp8": "fp8_block",
    "fp4": "nvfp4",
}
DENSE = ("attention", "ffn", "shared_experts", "experts")
OUTPUTS = (
    "predicted_ttft_ms",
    "predicted_ttft_ms_low",
    "predicted_ttft_ms_high",
    "predicted_tpot_ms",
    "predicted_tpot_ms_low",
    "predicted_tpot_ms_high",
    "predicted_tokens_per_s_per_gpu",
    "predicted_memory_gib",
    "resident_sequences",
    "feasible",
    "reason",
)


Shape = tuple[tuple[str, float], ...]  # (column, value) of the shape that a row states


class Group(NamedTuple):
    """Rows that share model, hardware, precision and engine, and where they stand in the table."""

    given: Given
    members: NDArray[np.int64]


class MeasuredRuns(NamedTuple):
    """Measured rows of a table ready for fitting: their demands and means, and where they stand."""

    prepared: Prepared
    ttft_s: Floats
    tpot_s: Floats
    members: NDArray[np.int64]


def read_rows(file: Path) -> pd.DataFrame:
    """A table of rows from a CSV."""
    import pandas as pd

    try:
        return pd.read_csv(file)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(Problem(f"cannot be read: {why_unreadable(error)}", str(file))) from None
    except ValueError as error:
        raise SpecError(Problem(f"no table of rows: {error}", str(file))) from None


def evaluate(rows: pd.DataFrame, calibration: Calibration | None = None) -> pd.DataFrame:
    """The same rows in order with predictions beside them; a row that cannot be priced says why.

    Columns: model and hardware (presets or paths), engine, precision, input_len, output_len,
    concurrency (of one replica), gpus, tp, dp, etp, ep; missing degrees are 1. A row that states
    `layers` describes its model by shape columns (optimizer.spec.shapes) and needs no preset. What
    ran is priced: degrees that do not divide are rounded up, and dense models have no expert grid.
    A calibration with tables adds which share of a decode step is measured, interpolated and
    extrapolated; the rest is the roofline's.
    """
    found = rows.copy()
    for name in OUTPUTS:
        found[name] = False if name == "feasible" else "" if name == "reason" else np.nan
    answers: dict[str, Any] = {name: found[name].to_numpy(copy=True) for name in OUTPUTS}
    groups, reasons = read_groups(rows)
    answers["reason"] = np.array(reasons, dtype=object)
    chosen = calibration or load_calibration()
    if chosen.tables:
        answers |= {f"decode_{label}_share": np.full(len(rows), np.nan) for label in LABELS}
    for group in groups:
        for name, values in _price(group.given, chosen).items():
            answers[name][group.members] = values
    return found.assign(**answers)


def measured_runs(rows: pd.DataFrame, calibration: Calibration) -> MeasuredRuns:
    """The rows that can be priced and have measured_ttft_ms and measured_tpot_ms, in order."""
    groups, _ = read_groups(rows)
    members = np.concatenate([group.members for group in groups])
    prepared = prepare([equipped(group.given, calibration) for group in groups], calibration.memory)
    ttft_s = _number(rows, "measured_ttft_ms", np.nan)[members] / 1e3
    tpot_s = _number(rows, "measured_tpot_ms", np.nan)[members] / 1e3
    known = np.flatnonzero((ttft_s > 0) & (tpot_s > 0))
    order = known[np.argsort(members[known])]
    return MeasuredRuns(prepared.take(order), ttft_s[order], tpot_s[order], members[order])


def read_groups(rows: pd.DataFrame) -> tuple[list[Group], list[str]]:
    """Rows by what they share, and why each other row cannot be priced ("" where it can)."""
    reasons = [""] * len(rows)
    missing = [name for name in NEEDED if name not in rows.columns]
    if missing:
        return [], [f"column missing: {', '.join(missing)}"] * len(rows)
    numbers = {name: _number(rows, name) for name in ("tp", "dp", "etp", "ep", "gpus")}
    numbers |= {
        name: _number(rows, name, np.nan) for name in ("input_len", "output_len", "concurrency")
    }
    for name, values in numbers.items():
        for row in np.flatnonzero(~((values >= 1) & (values < 1e9))).tolist():
            reasons[row] = reasons[row] or f"{name} must be a number of at least 1"
    for row in np.flatnonzero(_number(rows, "pp") != 1).tolist():
        reasons[row] = reasons[row] or "pp must be 1: rows of several stages are not priced"
    for row, engine in enumerate(_text(rows, "engine")):
        if engine not in ENGINES:
            reasons[row] = reasons[row] or f"engine must be one of {', '.join(ENGINES[1:])}"
    names = ("model", "hardware", "precision", "engine")
    keys = zip(*(_text(rows, name) for name in names), _shapes(rows), strict=True)
    shared: dict[tuple[str, str, str, str, Shape], list[int]] = {}
    for row, (model, hardware, precision, engine, shape) in enumerate(keys):
        if not reasons[row]:
            shared.setdefault((model, hardware, precision, engine, shape), []).append(row)
    groups = []
    for key, held in shared.items():
        members = np.array(held)
        try:
            given = given_of(*key, {name: values[members] for name, values in numbers.items()})
        except OptimizerError as error:
            for row in held:
                reasons[row] = str(error).splitlines()[0]
            continue
        groups.append(Group(given, members))
    return groups, reasons


def _text(rows: pd.DataFrame, name: str) -> list[str]:
    if name not in rows.columns:
        return [""] * len(rows)
    return ["" if value is None or value != value else str(value).strip() for value in rows[name]]


def _number(rows: pd.DataFrame, name: str, default: float = 1.0) -> Floats:
    import pandas as pd

    if name not in rows.columns:
        return np.full(len(rows), default)
    values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64, copy=True)
    if default == default:
        values[np.isnan(values)] = default
    return values


def _shapes(rows: pd.DataFrame) -> list[Shape]:
    """The shape columns that each row states; none where it states no layers."""
    stated = {name: _number(rows, name, np.nan) for name in COLUMNS if name in rows.columns}
    if "layers" not in stated:
        return [()] * len(rows)
    known = [
        tuple((name, values[row]) for name, values in stated.items() if np.isfinite(values[row]))
        for row in range(len(rows))
    ]
    return [shape if np.isfinite(stated["layers"][row]) else () for row, shape in enumerate(known)]


@cache
def _model(source: str, precision: str, shape: Shape) -> ModelSpec:
    model = model_from_shape(source, dict(shape)) if shape else read_model(source).model
    return model.with_precision(precision_of(model, precision))


@cache
def _cluster(source: str) -> Cluster:
    return read_cluster(source)


def precision_of(model: ModelSpec, name: str) -> Precision:
    """The number formats of a checkpoint that is called bf16, fp8, fp4 or int4.

    4-bit checkpoints of mixture-of-experts models quantise the routed experts alone; fp8 is
    block-wise but for models whose files say otherwise; MXFP4 models stay what they are.
    """
    own = model.precision
    if own.experts == "mxfp4" or not name:
        return own
    kind = CHECKPOINTS.get(name.lower())
    if kind is None:
        known = ", ".join(CHECKPOINTS)
        raise OptimizerError(f"unknown precision {name[:20]!r}; known are {known}")
    if kind == "fp8_block" and model.moe is None and model.name.startswith("llama"):
        kind = "fp8"  # the published checkpoints scale whole tensors
    if FORMATS[kind].bits == 4 and model.moe is not None:
        changed = {**dict.fromkeys(DENSE, "bf16"), "experts": kind}
    else:
        changed = dict.fromkeys(DENSE, kind)
    return Precision.model_validate({**own.model_dump(), **changed})


def cached_in_eight_bits(model: ModelSpec, engine: str, generation: str) -> bool:
    """Whether an engine keeps this checkpoint's cache in 8 bits: quantised checkpoints on
    Blackwell, and TensorRT-LLM's of any but MXFP4 (inferred from where measured runs queue)."""
    kept = model.precision.experts if model.moe else model.precision.attention
    always = engine == "trtllm" and kept != "mxfp4"
    return kept not in ("bf16", "fp16") and (generation == "blackwell" or always)


def given_of(
    model_name: str,
    hardware: str,
    precision: str,
    engine: str,
    shape: Shape,
    columns: dict[str, Floats],
) -> Given:
    """Rows that share model, hardware, precision and engine, read for pricing; columns tp, dp, ep,
    etp, input_len, output_len, concurrency."""
    model, cluster = _model(model_name, precision, shape), _cluster(hardware)
    pool = cluster.pools[0]
    if cached_in_eight_bits(model, engine, pool.gpu.generation):
        kept = model.precision.model_copy(update={"kv_cache": "fp8"})
        model = model.with_precision(kept)
    ones = np.ones(len(columns["tp"]))
    domain = float(pool.nvlink_domain or pool.gpus_per_node)
    names = ("tp", "dp", "input_len", "output_len", "concurrency")
    found = {name: columns[name] for name in names}
    found["ep"] = columns["ep"] if model.moe else ones
    found["etp"] = columns["etp"] if model.moe else ones
    found["span"] = np.minimum(columns["tp"] * columns["dp"], domain)
    return Given(model, Device.of(cluster, 0), engine, found)


def _price(given: Given, calibration: Calibration) -> dict[str, Any]:
    """Predictions of rows that share model, hardware, precision and engine."""
    held = residence(given, calibration.memory)
    times = price_given(given, held, calibration)
    running, _ = running_and_waiting(given, held.running)
    wide = calibration.interval
    found: dict[str, Any] = {}
    for name, seconds, width in (
        ("ttft", times.ttft_s, wide.ttft),
        ("tpot", times.tpot_s, wide.tpot),
    ):
        found[f"predicted_{name}_ms"] = seconds * 1e3
        found[f"predicted_{name}_ms_low"] = seconds * 1e3 * np.exp(-width)
        found[f"predicted_{name}_ms_high"] = seconds * 1e3 * np.exp(width)
    load, gpus = given.columns, given.columns["tp"] * given.columns["dp"]
    rate = load["concurrency"] * load["output_len"] / times.request_s / gpus
    found["predicted_tokens_per_s_per_gpu"] = rate
    used = held.weight_bytes + held.reserve_bytes + running * held.sequence_bytes
    found["predicted_memory_gib"] = used / GIB
    found["resident_sequences"] = held.resident
    found["feasible"] = held.feasible.astype(bool)
    if calibration.tables:
        for label, share in decode_sources(given, held, calibration).items():
            found[f"decode_{label}_share"] = share
    short = "weights, activations and one request's cache do not fit the GPU"
    found["reason"] = np.where(found["feasible"], "", short)
    return found
