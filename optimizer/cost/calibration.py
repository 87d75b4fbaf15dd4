"""Fitted and stated constants of the cost model, read from configs/calibration."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import yaml
from pydantic import Field

from optimizer.spec.data import configs_root
from optimizer.spec.frozen import Frozen, Name

Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Constants(Frozen):
    """What each means stands beside its value in configs/calibration/default.yaml."""

    memory_efficiency: Positive
    gemm_efficiency: Positive
    grouped_gemm_efficiency: Positive
    attention_efficiency: Positive
    kernel_s: Positive
    link_efficiency: Positive
    step_s: Positive
    sequence_s: Positive
    prefill_interference: Positive
    ttft_base_s: Positive
    ttft_steps: Positive
    ttft_queue: Positive


class Interval(Frozen):
    """Half-widths of 80 % intervals in log space: value x exp(+-width)."""

    ttft: Positive
    tpot: Positive
    latency: Positive
    throughput: Positive
    memory: Positive


class Calibration(Frozen):
    """A named set of constants with where they come from."""

    name: Name
    source: str
    date: str
    rows: int
    constants: Constants
    interval: Interval
    percentiles: dict[str, dict[str, Positive]]


@cache
def load_calibration(name: str = "default") -> Calibration:
    """The calibration that ships under this name."""
    path = configs_root() / "calibration" / f"{name}.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return Calibration.model_validate({**document, "date": str(document["date"])})
