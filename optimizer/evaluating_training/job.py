"""Training rows in, predictions beside them out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.cost.training import (
    MODULES,
    Job,
    Rates,
    load_training_calibration,
    mfu,
    model_flops,
    price,
    rates_of,
)
from optimizer.cost.training.layouts import TrainingLayouts
from optimizer.errors import OptimizerError
from optimizer.evaluating_training.blanks import UNSTATED, Facts, read_row
from optimizer.units import GIB

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("model", "gpu_type", "seq_len", "global_batch", "gpus", "layers", "hidden")
PREDICTIONS = (
    "predicted_step_s",
    "predicted_step_s_low",
    "predicted_step_s_high",
    "predicted_tokens_per_s_per_gpu",
    "predicted_mfu",
    "predicted_mem_gb",
)
OUTPUTS = (*PREDICTIONS, "feasible", "reason")


def is_training(rows: pd.DataFrame) -> bool:
    """Whether a table's columns are those of training rows."""
    return {"global_batch", "seq_len"} <= set(rows.columns)


def evaluate_training(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows in order with predictions beside them.

    predicted_mem_gb (2^30 bytes) reads what the row's source reads: the framework's allocated or
    reserved bytes, or nvidia-smi's; predicted_mfu counts what of causal attention that source
    counts, over the dense 16-bit peak. reason says why there is no prediction, what does not fit,
    and what was chosen for blank cells: the fastest that fits.
    """
    missing = [name for name in NEEDED if name not in rows.columns]
    found: list[dict[str, Any]] = []
    for record in rows.to_dict("records"):
        answer: dict[str, Any] = dict.fromkeys(PREDICTIONS, np.nan)
        answer |= {"feasible": False, "reason": ""}
        try:
            if missing:
                raise OptimizerError(f"column missing: {', '.join(missing)}")
            facts = read_row({str(name): value for name, value in record.items()})
            answer |= predicted(facts)
        except OptimizerError as error:
            answer["reason"] = str(error).splitlines()[0]
        found.append(answer)
    columns = {name: [answer[name] for answer in found] for name in OUTPUTS}
    return rows.assign(**columns)


def predicted(facts: Facts) -> dict[str, Any]:
    """Predictions of the fastest layout that fits, or of the fastest when none does."""
    calibration = load_training_calibration()
    constants = calibration.values()
    job = facts.job
    rates = rates_of(constants, facts.pool, facts.software)
    priced = price(facts.model, facts.layouts, rates, job)
    limit = facts.pool.gpu.memory_bytes
    fits = priced.memory.needed <= limit
    best = int(np.lexsort((priced.step.step_s, ~fits))[0])
    step_s = float(priced.step.step_s[best])
    rescue = None if fits[best] else sparing(facts, best, rates, job)
    wide = calibration.interval.moe_step if facts.model.moe else calibration.interval.dense_step
    shown = getattr(priced.memory, facts.source.memory)
    tokens = facts.global_batch * job.sequence_length
    whole = facts.source.attention == "whole"
    flops = model_flops(facts.model, job, facts.global_batch, full_attention=whole)
    reason = []
    if not fits[best]:
        needed = f"needs {priced.memory.needed[best] / GIB:.1f} of {limit / GIB:.1f} GiB"
        reason.append(f"{needed}, recompute {rescue} fits" if rescue else needed)
    if facts.blank:
        reason.append(f"chosen: {chosen(facts.layouts, best, facts.blank)}")
    share = mfu(flops, np.array([step_s]), facts.gpus, rates.peak_flops_16)
    return {
        "predicted_step_s": step_s,
        "predicted_step_s_low": step_s * np.exp(-wide),
        "predicted_step_s_high": step_s * np.exp(wide),
        "predicted_tokens_per_s_per_gpu": tokens / step_s / facts.gpus,
        "predicted_mfu": float(share[0]),
        "predicted_mem_gb": float(shown[best]) / GIB,
        "feasible": bool(fits[best]) or rescue is not None,
        "reason": "; ".join(reason),
    }


def sparing(facts: Facts, row: int, rates: Rates, job: Job) -> str | None:
    """What an unstated recomputation must at least be for the layout to fit; None: none is enough.

    Publishers who rarely recompute are priced without it even where that does not fit: their steps
    say so, and what they offload instead is not stated.
    """
    if "recompute" not in facts.blank:
        return None
    layout = facts.layouts.take(np.array([row]))
    for bits in UNSTATED:
        other = replace(layout, recompute=np.array([bits]))
        if price(facts.model, other, rates, job).memory.needed[0] <= rates.memory_bytes:
            return words(bits)
    return None


def words(recompute: int) -> str:
    """Megatron's names of recompute bits."""
    return " + ".join(name for name, bit in MODULES.items() if recompute & bit) or "none"


def chosen(layouts: TrainingLayouts, row: int, names: tuple[str, ...]) -> str:
    """The values of blank columns, in words: "micro_batch 2, recompute none"."""

    def word(name: str) -> str:
        value = int(getattr(layouts, name)[row])
        return f"{name} {words(value) if name == 'recompute' else value}"

    return ", ".join(word(name) for name in names)
