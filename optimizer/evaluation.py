"""`optimize evaluate`: prices given serving layouts, a row each, without searching."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.cost.calibration import load_calibration
from optimizer.cost.memory import RUNTIME_RESERVE_BYTES, memory_columns, sequence_cache_bytes
from optimizer.cost.price import Step, step_seconds
from optimizer.cost.pricers import Device
from optimizer.cost.serving import decode_cycle, serving_times
from optimizer.errors import OptimizerError
from optimizer.operators import Floats, lower
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.reading import read_cluster, read_model
from optimizer.units import GIB

if TYPE_CHECKING:
    import pandas as pd

STEP_TOKENS = 8192  # prefill tokens of a step that engines reserve memory for
UTILISATION = 0.9  # of a GPU's memory, the engines' default
NEEDED = ("model", "hardware", "input_len", "output_len", "concurrency", "tp")
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


def evaluate(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows in order with predictions beside them; a row that cannot be priced says why.

    Columns: model and hardware (presets or paths), engine, precision, input_len, output_len,
    concurrency (of one replica), gpus, tp, dp, etp, ep; missing degrees are 1. What ran is priced:
    degrees that do not divide are rounded up, and dense models have no expert grid.
    """
    found = rows.copy()
    for name in OUTPUTS:
        found[name] = False if name == "feasible" else "" if name == "reason" else np.nan
    found = found.astype({"reason": object})
    model, hardware = _text(rows, "model"), _text(rows, "hardware")
    precision, engine = _text(rows, "precision"), _text(rows, "engine")
    numbers = {name: _number(rows, name) for name in ("tp", "dp", "etp", "ep", "gpus")}
    numbers |= {
        name: _number(rows, name, np.nan) for name in ("input_len", "output_len", "concurrency")
    }
    bad = np.zeros(len(rows), dtype=bool)
    for name, values in numbers.items():
        wrong = ~(np.isfinite(values) & (values >= 1) & (values < 1e9))
        found.loc[wrong & ~bad, "reason"] = f"{name} must be a number of at least 1"
        bad |= wrong
    missing = [name for name in NEEDED if name not in rows.columns]
    if missing:
        found["reason"] = f"column missing: {', '.join(missing)}"
        return found
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for row, key in enumerate(zip(model, hardware, precision, engine, strict=True)):
        if not bad[row]:
            groups.setdefault(key, []).append(row)
    answers: dict[str, Any] = {name: found[name].to_numpy(copy=True) for name in OUTPUTS}
    for key, members in groups.items():
        chosen = np.array(members)
        columns = {name: values[chosen] for name, values in numbers.items()}
        try:
            priced = _price(*key, columns)
        except OptimizerError as error:
            answers["reason"][chosen] = str(error).splitlines()[0]
            continue
        for name, values in priced.items():
            answers[name][chosen] = values
    return found.assign(**answers)


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


@cache
def _model(source: str, precision: str) -> ModelSpec:
    model = read_model(source).model
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
    kinds = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8_block", "fp4": "nvfp4", "int4": "int4"}
    kind = kinds.get(name.lower())
    if kind is None:
        raise OptimizerError(f"unknown precision {name[:20]!r}; known are {', '.join(kinds)}")
    if kind == "fp8_block" and model.moe is None and model.name.startswith("llama"):
        kind = "fp8"  # the published checkpoints scale whole tensors
    if kind in ("nvfp4", "int4") and model.moe is not None:
        changed = {**dict.fromkeys(DENSE, "bf16"), "experts": kind}
    else:
        changed = dict.fromkeys(DENSE, kind)
    return Precision.model_validate({**own.model_dump(), **changed})


def _price(
    model_name: str, hardware: str, precision: str, engine: str, columns: dict[str, Floats]
) -> dict[str, Any]:
    """Predictions of rows that share model, hardware, precision and engine."""
    model, cluster = _model(model_name, precision), _cluster(hardware)
    calibration, pool = load_calibration(), cluster.pools[0]
    device = Device.of(cluster, 0, calibration)
    ones = np.ones(len(columns["tp"]))
    dp, length = columns["dp"], columns["input_len"] + columns["output_len"]
    domain = float(pool.nvlink_domain or pool.gpus_per_node)
    degrees = {
        **{name: columns[name] for name in ("tp", "dp")},
        "cp": ones,
        "pp": ones,
        "ep": columns["ep"] if model.moe else ones,
        "etp": columns["etp"] if model.moe else ones,
        "span": np.minimum(columns["tp"] * dp, domain),
        "pp_inside": ones,
        "imbalance": ones,
    }
    held = {**degrees, "tokens": STEP_TOKENS * ones, "logits": 256 * ones, "held": 0 * ones}
    pp = np.ones(len(ones), dtype=np.int64)
    memory = memory_columns(model, held, 1, RUNTIME_RESERVE_BYTES)
    static = memory.first + memory.last + memory.logits + memory.activations + memory.buffers
    static = static + memory.reserve
    for name, layer in memory.layers.items():
        static = static + model.layer_names.count(name) * (layer.dense + layer.experts)
    cache_bytes = np.zeros(len(ones))
    for tokens in np.unique(length):
        rows = length == tokens
        cache_bytes[rows] = sum(
            model.layer_names.count(name)
            * sequence_cache_bytes(layer, model, int(tokens), degrees["tp"][rows], ones[rows])
            for name, layer in model.layer_types.items()
        )
    room = (pool.gpu.memory_bytes * UTILISATION - static) / np.maximum(cache_bytes, 1.0)
    resident = np.maximum(np.floor(room), 0.0)
    fits = pool.gpu.memory_bytes - static >= cache_bytes
    wanted = columns["concurrency"] / dp
    running = np.minimum(wanted, np.maximum(resident, 1.0))
    waiting = np.maximum(0.0, wanted / np.maximum(resident, 1.0) - 1.0)
    families = lower(model)

    def step(tokens: Floats, sequences: Floats, context: Floats) -> Step:
        load = {"tokens": tokens, "sequences": sequences, "context": context, "logits": sequences}
        constants = calibration.constants
        return step_seconds(model, families, {**degrees, **load}, pp, device, constants)

    batch = np.ceil(running)
    decode = step(batch, batch, columns["input_len"] + columns["output_len"] / 2)
    prefill = step(columns["input_len"], ones, (columns["input_len"] + 1) / 2)
    cycle = decode_cycle(decode, pp, running, dp.astype(np.int64), calibration, engine)
    times = serving_times(
        cycle, prefill, ones, running, waiting, columns["output_len"], calibration, engine
    )
    wide = calibration.interval
    found: dict[str, Any] = {}
    for name, seconds, width in (
        ("ttft", times.ttft_s, wide.ttft),
        ("tpot", times.tpot_s, wide.tpot),
    ):
        found[f"predicted_{name}_ms"] = seconds * 1e3
        found[f"predicted_{name}_ms_low"] = seconds * 1e3 * np.exp(-width)
        found[f"predicted_{name}_ms_high"] = seconds * 1e3 * np.exp(width)
    gpus = columns["tp"] * dp
    rate = columns["concurrency"] * columns["output_len"] / times.request_s / gpus
    found["predicted_tokens_per_s_per_gpu"] = rate
    found["predicted_memory_gib"] = (static + np.minimum(resident, wanted) * cache_bytes) / GIB
    found["resident_sequences"] = resident
    found["feasible"] = fits
    short = "weights, activations and one request's cache do not fit the GPU"
    found["reason"] = np.where(fits, "", short)
    return found
