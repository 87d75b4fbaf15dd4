"""The peak rate of a GPU: which GPU of that memory has it, and in which number format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from optimizer.audit.amounts import show
from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told
from optimizer.spec.cluster import Gpu
from optimizer.spec.formats import FORMATS
from optimizer.spec.presets import preset_paths
from optimizer.spec.reading import read_cluster

SAME_MEMORY = 0.08  # 80 GB and 80 GiB are one size to those who print them
ROUNDING = 0.005  # of datasheets: 1,978.9 TFLOP/s is printed as 1,978 and as 1,979

# FLOP/s of the vector units in FP32, which planners never use and reports print: NVIDIA datasheets.
FP32_FLOPS_PER_S = {
    "a100-pcie": 19.5e12,
    "a100-sxm": 19.5e12,
    "a100-sxm-40": 19.5e12,
    "a30": 10.3e12,
    "h100-pcie": 51e12,
    "h100-sxm": 67e12,
    "h200-sxm": 67e12,
    "l4": 30.3e12,
    "l40s": 91.6e12,
}


def peak_rate(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """The dense rates of every known GPU with as much memory; the model's own format is plain."""
    found = sorted(_rates(case), key=lambda each: len(each.departures))
    memory = show(case.gpu.memory_bytes, "bytes")
    return Answer(tuple(found), () if found else (f"which GPU has {memory}",))


def _rates(case: Case) -> Iterator[Derived]:
    part = "experts" if case.model.moe else "ffn"
    wanted = FORMATS[getattr(case.model.precision, part)].compute
    for name, gpu in _gpus().items():
        if abs(gpu.memory_bytes / case.gpu.memory_bytes - 1) > SAME_MEMORY:
            continue
        rates = {str(kind): rate for kind, rate in gpu.flops_per_s.items()}
        has = ", ".join(f"{kind} {show(rate, 'FLOP/s')}" for kind, rate in rates.items())
        if wanted not in rates:
            has += f"; no {wanted}, in which the model is stated"
        if name in FP32_FLOPS_PER_S:
            rates["fp32"] = FP32_FLOPS_PER_S[name]
        for kind, rate in rates.items():
            label = f"the {kind} rate of {name}"
            text = f"{name}, {kind}: {show(rate, 'FLOP/s')} (its tensor cores: {has})"
            departs = (label,) if kind == wanted else (label, f"not {wanted}")
            near = (rate * (1 - ROUNDING), rate * (1 + ROUNDING))
            yield Derived(rate, text, (label,), departs, True, *near)


@cache
def _gpus() -> Mapping[str, Gpu]:
    return {name: read_cluster(name).pools[0].gpu for name in preset_paths("hardware")}
