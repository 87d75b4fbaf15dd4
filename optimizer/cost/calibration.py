"""Fitted and stated constants of the cost model, read from configs/calibration."""

from __future__ import annotations

from functools import cache
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from optimizer.cost.corrections import Corrections
from optimizer.operators import Floats
from optimizer.spec.draft import Draft
from optimizer.spec.files import read_document
from optimizer.spec.frozen import Frozen, Name, wrong
from optimizer.spec.presets import locate

Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Column = Floats | float


class Constants(NamedTuple):
    """What each means stands beside its value in configs/calibration/default.yaml; a fit fills them
    with columns, one entry a run."""

    memory_efficiency: Column
    cache_memory_efficiency: Column
    gemm_efficiency: Column
    grouped_gemm_efficiency: Column
    fp8_efficiency: Column
    block_fp8_efficiency: Column
    narrow_columns: Column
    narrow_read_bytes: Column
    kernel_s: Column
    collective_s: Column
    collective_doubling_s: Column
    ring_step_s: Column
    link_efficiency: Column
    gap_s: Column
    meeting_s: Column
    sequence_s: Column
    prefill_work: Column
    first_wave: Column
    bunching: Column
    lockstep: Column
    lockstep_tokens: Column
    align_steps: Column
    ttft_base_s: Column


class EngineMemory(Frozen):
    """What engines take of a GPU beside weights and cache; bytes."""

    usable: Positive
    utilisation: Positive
    tuned_share: Positive
    context_bytes: Positive
    communication_bytes: Positive
    sampler_bytes_per_logit: Positive
    sampler_sequences: Positive
    least_reserve_bytes: Positive


class Interval(Frozen):
    """Half-widths of 80 % intervals in log space: value x exp(+-width)."""

    ttft: Positive
    tpot: Positive
    latency: Positive
    throughput: Positive
    memory: Positive


class Calibration(Frozen):
    """A named set of constants with where they come from; an engine's or a GPU generation's own
    value of a constant stands in for the common one."""

    name: Name
    source: str
    date: str
    rows: int
    error: dict[str, tuple[float, float]] = Field(default_factory=dict)
    constants: dict[str, Positive]
    generations: dict[str, dict[str, Positive]]
    engines: dict[str, dict[str, Positive]]
    memory: EngineMemory
    interval: Interval
    percentiles: dict[str, dict[str, Positive]]
    tables: tuple[str, ...] = ()  # kinds of operators priced by what was timed: cost.silicon
    timed: str = ""  # a file of operators that the user timed
    corrections: Corrections | None = None  # a user's own runs

    @model_validator(mode="after")
    def _constants_are_known(self) -> Calibration:
        known = set(Constants._fields)
        for table in (*self.engines.values(), *self.generations.values()):
            if unknown := sorted(set(table) - known):
                raise wrong(f"names {', '.join(unknown)}; known are {', '.join(known)}", "engines")
        if known != set(self.constants):
            odd = sorted(known ^ set(self.constants))
            raise wrong(f"lacks or does not know {', '.join(odd)}", "constants")
        return self

    def constants_of(self, engine: str, generation: str) -> Constants:
        """The constants of an engine on a GPU generation; one without measurements has the common
        ones."""
        own = {**self.generations.get(generation, {}), **self.engines.get(engine, {})}
        return Constants(**{**self.constants, **own})


@cache
def load_calibration(source: str = "default") -> Calibration:
    """The calibration that ships under a name, or that a file of `optimize calibrate` holds."""
    document = read_document(locate(source, "calibration", ("calibration.yaml",)))
    stated = {**document.data, "date": str(document.data.get("date", ""))}
    found: Calibration = Draft(document).finish(Calibration, stated)
    return found
