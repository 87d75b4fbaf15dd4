"""A claims file: whose plan it is, and each claim as quantity, value, unit and reading.

case: A
hardware: hardware.yaml          # a file beside this one, or a preset
model: model.yaml
phase: forward                   # forward, serving, training, or "not stated"
strategy: EP64_TP2_PP1           # any spelling; else the one in the model file
claims:
  - claim: 32.0 MB of expert weights on each GPU
    quantity: memory_per_gpu
    component: expert weights
    value: "32.0"                # quoted: the printed zeros say how exact it is
    unit: MB                     # or both in one: value: 32.0 MB
    reading: after the TP split  # where the report says which
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from optimizer.audit.amounts import UNITS, Printed, printed
from optimizer.audit.terms import figure_of
from optimizer.spec.frozen import Count, Frozen, Name

Value = Annotated[str, Field(min_length=1, max_length=60)]
RATES = ("throughput", "compute_rate")  # whose units may end in /GPU; compute is of one GPU anyway
PER_GPU = "per GPU"  # the component of a rate over all GPUs
Comparison = Literal["equal", "above", "below", "not"]
Text = Annotated[str, Field(min_length=1, max_length=300)]


def _as_text(value: Any) -> Any:
    """Numbers as they are printed; words as they are."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Change(Frozen):
    """What is changed, everything else held."""

    batch: Count | None = None
    precision: Literal["fp32", "bf16", "fp16", "fp8", "int8"] | None = None
    recompute: bool | None = None
    strategy: Name | None = None


class Claim(Frozen):
    """One claim; a figure has a value and a unit, a statement of an effect at least a direction."""

    claim: Text
    id: Name | None = None  # by which later claims name it among their terms
    quantity: Name
    component: Name | None = None
    value: Annotated[Value | None, BeforeValidator(_as_text)] = None
    unit: Name | None = None
    about: bool = False
    comparison: Comparison = "equal"
    direction: Literal["less", "more", "same"] | None = None
    reading: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] = ()
    terms: tuple[Annotated[str, Field(max_length=120)], ...] = ()  # ids, or "80 GB"
    change: Change | None = None
    baseline: Name | None = None  # a strategy: what stood before, or what is compared with
    strategy: Name | None = None  # where it is not the file's

    @model_validator(mode="before")
    @classmethod
    def _written_together(cls, data: Any) -> Any:
        """Reads `value: 57.17 MB` too, and `3,210 tokens/s/GPU` as a rate per GPU."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key in ("value", "unit"):
            text = data.get(key)
            if data.get("quantity") in RATES and isinstance(text, str) and text.endswith("/GPU"):
                data[key] = text.removesuffix("/GPU")
                if data["quantity"] == "throughput":
                    data.setdefault("component", PER_GPU)
        if isinstance(data.get("value"), str) and not data.get("unit"):
            found = figure_of(data["value"])
            if found is not None:
                data["value"], data["unit"] = found
        return data

    @property
    def figure(self) -> Printed | None:
        """The value as printed; what is counted is exact."""
        found = printed(self.value) if self.value is not None else None
        counted = self.unit in UNITS and UNITS[self.unit].dimension == "count"
        return found._replace(half_step=Decimal(0)) if found and counted else found


class ClaimsFile(Frozen):
    """The file as it stands."""

    case: Name
    hardware: Name
    gpus: Count | None = None  # of the cluster, in place of the hardware file's
    model: Name
    workload: dict[str, Any] | None = None
    phase: Literal["forward", "serving", "training", "not stated"] = "not stated"
    strategy: Name | None = None
    claims: tuple[Claim, ...] = Field(min_length=1, max_length=10_000)
