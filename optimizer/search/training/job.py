"""What prices training candidates: one pool, a model in mixed precision, a workload."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations
from typing import Final

import numpy as np

from optimizer.cost.training.calibration import (
    Software,
    TrainingCalibration,
    load_training_calibration,
    rates_of,
)
from optimizer.cost.training.layouts import MODULES, NOTHING
from optimizer.cost.training.lowering import Job as Step
from optimizer.cost.training.rates import Rates
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import LatentAttention, ModelSpec, MoeFfn, Precision
from optimizer.spec.workload import MatrixFormat, TrainingWorkload

BITS: Final[dict[MatrixFormat, int]] = {"bf16": 16, "fp8": 8, "fp4": 4}


class TrainingJob:
    """One pool of a cluster and one format of matrix products; `model` in the formats it trains in.

    Weights, gradients and activations rest in 16 bits, the optimizer's state in 32 (mixed
    precision, Micikevicius et al., 2018); the format is that of matrix products' inputs.
    """

    def __init__(
        self,
        cluster: Cluster,
        pool: int,
        model: ModelSpec,
        workload: TrainingWorkload,
        bits: int,
        vp: int | None = None,
    ) -> None:
        self.cluster, self.pool, self.workload, self.bits = cluster, pool, workload, bits
        self.vp = vp  # chunks of a stage; None: searched
        activations = "bf16" if bits == 16 else "fp8"
        self.model = model.with_precision(Precision.model_validate({"activations": activations}))

    @cached_property
    def calibration(self) -> TrainingCalibration:
        return load_training_calibration()

    @cached_property
    def software(self) -> Software:
        return self.calibration.software.get("megatron", Software())

    @cached_property
    def rates(self) -> Rates:
        """What this pool's GPUs reach."""
        pool = self.cluster.pools[self.pool]
        return rates_of(self.calibration.values(), pool, self.software)

    @cached_property
    def step(self) -> Step:
        """What all layouts share beside the model."""
        workload, model = self.workload, self.model
        predicted = model.mtp.num_layers if model.mtp is not None and workload.mtp else 0
        return Step(
            sequence_length=workload.sequence_length,
            flash=self.software.flash,
            mtp_layers=predicted,
            imbalance=workload.expert_imbalance or 1.0,
        )

    @property
    def memory_limit_bytes(self) -> float:
        """What a plan may fill of one GPU: its memory less the workload's margin and the context
        that no framework sees."""
        gpu = self.cluster.pools[self.pool].gpu
        return gpu.memory_bytes * (1.0 - self.workload.memory_margin)

    @property
    def reserve_bytes(self) -> float:
        """Context and communication libraries."""
        stated = self.workload.runtime_reserve_bytes
        return float(np.max(self.rates.context_bytes)) if stated is None else stated

    @cached_property
    def modes(self) -> dict[str, int]:
        """What a layer may recompute, the cheapest to repeat first as a rule: nothing, one module,
        all of them, the whole layer; name -> bits of MODULES. Modules that the model lacks are left
        out."""
        allowed = self.workload.recompute
        found = {"none": NOTHING} if "none" in allowed else {}
        if "selective" in allowed:
            names = self._modules()
            for many in sorted({1, len(names)}):
                for chosen in combinations(names, many):
                    found["+".join(chosen)] = sum(MODULES[name] for name in chosen)
        if "full" in allowed:
            found["full"] = MODULES["full"]
        return found

    def _modules(self) -> list[str]:
        kinds = list(self.model.layer_types.values())
        names = ["layernorm"]
        if not self.software.flash:
            names.append("core_attn")
        if any(isinstance(kind.ffn, MoeFfn) for kind in kinds):
            names.append("moe_act")
        if any(isinstance(kind.attention, LatentAttention) for kind in kinds):
            names.append("mla_up_proj")
        if any(not isinstance(kind.ffn, MoeFfn) for kind in kinds):
            names.append("mlp")
        if any(isinstance(kind.ffn, MoeFfn) for kind in kinds):
            names.append("moe")
        return names


def training_jobs(
    cluster: Cluster, model: ModelSpec, workload: TrainingWorkload, vp: int | None = None
) -> tuple[TrainingJob, ...]:
    """One job for each pool and each allowed format of matrix products."""
    return tuple(
        TrainingJob(cluster, pool, model, workload, BITS[kind], vp)
        for pool in range(len(cluster.pools))
        for kind in workload.precision
    )
