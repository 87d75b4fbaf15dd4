"""What the cluster has to do: one forward pass of a batch, serving requests, or training."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from optimizer.spec.formats import Format
from optimizer.spec.frozen import Assumption, Count, CountOrZero, Fraction, Frozen, wrong
from optimizer.units import Bytes, Rate, Seconds

_STATISTIC = re.compile(r"mean|p[0-9]{1,3}")

Engine = Literal["any", "vllm", "sglang", "trtllm", "megatron"]


class PrecisionChoice(Frozen):
    """One set of number formats that the search may use in place of the model's own."""

    weights: Format | None = None  # attention, FFN and experts alike
    experts: Format | None = None
    kv_cache: Literal["fp32", "bf16", "fp16", "fp8", "int8"] | None = None


class Limit(Frozen):
    """An upper limit on a latency: on its mean, or on a named percentile."""

    value_s: Seconds = Field(alias="value")
    statistic: Literal["mean", "p50", "p90", "p95", "p99"] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        """Reads "50 ms" and "50 ms p99" too."""
        if isinstance(value, (int, float)):
            return {"value": value}
        if not isinstance(value, str):
            return value
        time, _, last = value.strip().rpartition(" ")
        if _STATISTIC.fullmatch(last):
            return {"value": time, "statistic": last}
        return {"value": value}


class Robust(Frozen):
    """Stated skews that limits must survive under --confidence, as factors."""

    expert_imbalance: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = 1.0
    context: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.0


Load = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]


class _Workload(Frozen):
    """expert_loads: how often each expert of each MoE layer is picked, in any unit; expert_skew:
    the same as Zipf's exponent; expert_imbalance: the hottest rank over the mean, on top of them.
    """

    engine: Engine = "any"
    precisions: tuple[PrecisionChoice, ...] = ()  # allowed beside the model's own
    memory_margin: Fraction = 0.05  # of the GPU's memory, left free
    runtime_reserve_bytes: Bytes | None = Field(default=None, alias="runtime_reserve")
    expert_imbalance: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] | None = None
    expert_loads: tuple[tuple[Load, ...], ...] | None = None  # [MoE layers or 1, experts]
    expert_skew: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    redundant_experts: CountOrZero = 0  # slots of a layer beyond one an expert
    max_context_parallel: Count = 1
    robust: Robust | None = None
    assumptions: tuple[Assumption, ...] = ()

    @model_validator(mode="after")
    def _one_skew(self) -> Self:
        if self.expert_loads is not None:
            if self.expert_skew is not None:
                raise wrong("stands beside expert_loads; give one of the two", "expert_skew")
            if len({len(row) for row in self.expert_loads}) != 1 or not self.expert_loads[0]:
                raise wrong("must have as many experts in every layer", "expert_loads")
            if not all(any(row) for row in self.expert_loads):
                raise wrong("has a layer in which no expert is ever picked", "expert_loads")
        return self


class ForwardWorkload(_Workload):
    """One forward pass over `batch` sequences of `seq_len` tokens each; no cache is kept."""

    kind: Literal["forward"] = "forward"
    batch: Count
    seq_len: Count
    latency: Limit | None = None


class ServingWorkload(_Workload):
    """Requests of input_len -> output_len tokens under continuous batching.

    `concurrency` counts requests in flight over the whole deployment; without it and without a
    request rate the search chooses it. The first prefix_len input tokens are found in the cache.
    """

    kind: Literal["serving"] = "serving"
    input_len: Count
    output_len: Count
    prefix_len: CountOrZero = 0
    concurrency: Count | None = None
    request_rate: Rate | None = None
    ttft: Limit | None = None
    tpot: Limit | None = None

    @model_validator(mode="after")
    def _one_load(self) -> Self:
        if self.concurrency is not None and self.request_rate is not None:
            raise wrong("stands beside concurrency; give one of the two", "request_rate")
        if self.prefix_len >= self.input_len:
            raise wrong(
                f"must be less than input_len, {self.input_len}, not {self.prefix_len}",
                "prefix_len",
            )
        return self


def _several(value: Any) -> Any:
    """One choice may be written without the list around it."""
    return [value] if isinstance(value, str) else value


_SEVERAL = (BeforeValidator(_several), Field(min_length=1))

Recompute = Literal["none", "selective", "full"]
Sharding = Literal["none", "optimizer", "parameters", "hybrid"]
Schedule = Literal["1f1b", "interleaved", "zero_bubble"]
MatrixFormat = Literal["bf16", "fp8", "fp4"]


class TrainingWorkload(_Workload):
    """Steps of `global_batch` sequences of `sequence_length` tokens each, mixed precision.

    recompute, sharding, schedules and precision list what the search may use: sharding of the
    optimizer's state (ZeRO-1, Megatron's distributed optimizer), of parameters too (ZeRO-3, FSDP),
    hybrid (the same inside one domain, copies across); precision is of matrix products' inputs.
    mtp: whether the model's multi-token-prediction layers are trained.
    """

    kind: Literal["training"] = "training"
    global_batch: Count
    sequence_length: Count
    optimizer: Literal["adam"] = "adam"
    micro_batch: Count | None = None  # sequences; None: searched
    sequence_parallel: bool | None = None  # None: searched
    max_context_parallel: Count = 1024
    recompute: Annotated[tuple[Recompute, ...], *_SEVERAL] = ("none", "selective", "full")
    sharding: Annotated[tuple[Sharding, ...], *_SEVERAL] = (
        "none",
        "optimizer",
        "parameters",
        "hybrid",
    )
    schedules: Annotated[tuple[Schedule, ...], *_SEVERAL] = ("1f1b", "interleaved", "zero_bubble")
    precision: Annotated[tuple[MatrixFormat, ...], *_SEVERAL] = ("bf16",)
    mtp: bool = True
    step_time: Limit | None = None

    @model_validator(mode="after")
    def _even_routing(self) -> Self:
        for name in ("expert_loads", "expert_skew", "redundant_experts"):
            if getattr(self, name):
                raise wrong("is of serving; training takes expert_imbalance: 1.5", name)
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        batch, micro = self.global_batch, self.micro_batch
        if micro is not None and batch % micro:
            below = max(n for n in range(1, min(micro, batch) + 1) if batch % n == 0)
            above = next((n for n in range(micro, batch + 1) if batch % n == 0), batch)
            raise wrong(
                f"must divide the global batch of {batch}, and {micro} does not; the nearest that "
                f"do are {below} and {above}",
                "micro_batch",
            )
        return self


Workload = Annotated[
    ForwardWorkload | ServingWorkload | TrainingWorkload, Field(discriminator="kind")
]
WORKLOAD: TypeAdapter[ForwardWorkload | ServingWorkload | TrainingWorkload] = TypeAdapter(Workload)
