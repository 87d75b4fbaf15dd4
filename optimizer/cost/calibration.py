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
    expert_memory_efficiency: Positive
    cache_memory_efficiency: Positive
    gemm_efficiency: Positive
    grouped_gemm_efficiency: Positive
    attention_efficiency: Positive
    kernel_s: Positive
    collective_s: Positive
    collective_doubling_s: Positive
    link_efficiency: Positive
    expert_skew: Positive
    sequence_s: Positive
    prefill_step_s: Positive
    prefill_work: Positive
    first_wave: Positive
    ttft_steps: Positive
    cache_wait: Positive


class GenerationFactors(Frozen):
    """Factors on what a GPU generation reaches: of its peak rates, of its 4-bit peak, kernel
    starts."""

    flops: Positive = 1.0
    fp4: Positive = 1.0
    kernel: Positive = 1.0


class EngineConstants(Frozen):
    """What differs between engines: seconds of a decode step, share of the others' prefills that a
    request meets before its first token, and seconds before it is scheduled at all."""

    step_s: Positive
    queued: Positive
    ttft_base_s: Positive


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
    error: dict[str, tuple[float, float]] = Field(default_factory=dict)
    constants: Constants
    generations: dict[str, GenerationFactors]
    engines: dict[str, EngineConstants]
    interval: Interval
    percentiles: dict[str, dict[str, Positive]]

    def engine(self, name: str) -> EngineConstants:
        """An engine's constants; one without measurements has those of any."""
        return self.engines.get(name, self.engines["any"])

    def generation(self, name: str) -> GenerationFactors:
        """A GPU generation's factors; one without measurements has none."""
        return self.generations.get(name, GenerationFactors())


@cache
def load_calibration(name: str = "default") -> Calibration:
    """The calibration that ships under this name."""
    path = configs_root() / "calibration" / f"{name}.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return Calibration.model_validate({**document, "date": str(document["date"])})
