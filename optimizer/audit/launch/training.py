"""Training launches to findings: layout, GPUs, Megatron's rules, memory, and the step's seconds."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from typing import NamedTuple

import numpy as np

from optimizer.audit.finding import Audit, Finding, Readiness
from optimizer.audit.launch.capacity import stages_of
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.audit.launch.megatron_sharding import state_bytes
from optimizer.audit.launch.pricing import Best
from optimizer.audit.launch.rules import broken, unjudged
from optimizer.audit.launch.training_plan import beside_best, best_training
from optimizer.audit.launch.training_step import priced_step
from optimizer.cost.memory import layout_bytes
from optimizer.cost.training import (
    Job,
    PricedCut,
    load_training_calibration,
    model_flops,
)
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import Precision
from optimizer.units import GIB, gib, milliseconds

WEIGHT_BYTES, STATE_BYTES = 2, 12  # bf16; fp32 master and two moments


class Held(NamedTuple):
    """Parameters of a stage's rank outside and inside routed experts, what is cut, and the ranks
    that share each."""

    stage: int
    dense: float
    experts: float
    sharding: str
    ranks: int
    expert_ranks: int

    @property
    def bytes(self) -> float:
        """Weights, gradients and optimizer."""
        return (
            self.dense * self._each(self.ranks)[0] + self.experts * self._each(self.expert_ranks)[0]
        )

    def _each(self, ranks: int) -> tuple[float, str]:
        """(bytes of a parameter, as written)."""
        resident, cut, text = state_bytes(self.sharding, ranks)
        share = ranks if cut else 1
        return resident + STATE_BYTES / share, f"({text} + {STATE_BYTES}/{share}) B"

    def arithmetic(self) -> str:
        text = f"stage {self.stage}: {self.dense:,.0f} parameters x {self._each(self.ranks)[1]}"
        if self.experts:
            text += f" + {self.experts:,.0f} of experts x {self._each(self.expert_ranks)[1]}"
        return f"{text} = {gib(self.bytes)} of weights, gradients and optimizer"


def judge_training(launch: TrainingLaunch, cluster: Cluster, known: dict[str, Best]) -> Audit:
    """All that can be said of a training command; `known` keeps best plans between commands."""
    findings = [
        *_layout_findings(launch, cluster),
        *(broken(launch.name, "megatron", rule) for rule in launch.rules),
    ]
    said, step_s = "", None
    if launch.layout is not None and not any(rule.kind == "refused" for rule in launch.rules):
        priced = priced_step(launch, cluster)
        findings.append(_memory_finding(launch, cluster, priced))
        said, step_s = _step_line(launch, cluster, priced), float(priced.step.step_s[0])
    findings += unjudged(launch.name, launch.not_judged)
    limits = tuple(
        f"{found.claim}: {found.arithmetic}"
        for found in findings
        if found.verdict == "refuted" and found.quantity != "layout"  # its broken rule says why
    )
    ready = Readiness(
        case=launch.name,
        strategy=launch.flags,
        phase="training",
        ready=not limits,
        limits=limits,
        arithmetic=said,
    )
    best = best_training(launch, cluster, known)
    better = beside_best(launch, None if limits else step_s, best)
    return Audit(findings=tuple(findings), readiness=(ready,), better=(better,))


def _layout_findings(launch: TrainingLaunch, cluster: Cluster) -> Iterator[Finding]:
    refused = launch.layout is None or any(rule.kind == "refused" for rule in launch.rules)
    yield Finding(
        case=launch.name,
        claim=launch.flags,
        quantity="layout",
        verdict="refuted" if refused else "confirmed",
        derived_value=launch.layout.name if launch.layout is not None else "no layout",
        arithmetic=launch.derivation,
        assumptions=launch.assumptions,
    )
    there = cluster.num_live_gpus
    yield Finding(
        case=launch.name,
        claim=f"{launch.flags}, on {there} GPUs",
        quantity="gpus",
        claimed_value=float(there),
        claimed_unit="GPUs",
        verdict="confirmed" if launch.gpus <= there else "refuted",
        derived_value=float(launch.gpus),
        derived_unit="GPUs",
        arithmetic=f"{launch.gpus} GPUs needed, {there} there",
    )


def parameters_held(launch: TrainingLaunch) -> Held:
    """The parameters of the stage whose ranks hold most."""
    layout = launch.layout
    assert layout is not None
    sharing = (launch.sharding, layout.dp * layout.cp, layout.edp)
    model = launch.model.with_precision(Precision())
    columns = {
        name: np.array([float(getattr(layout, name))]) for name in ("tp", "cp", "ep", "etp", "pp")
    }
    held = layout_bytes(model, columns, 1)
    found = []
    for index, stage in enumerate(stages_of(model, layout.pp, launch.stage_layers)):
        layers = list(
            zip(stage.layers, (held.layers[name] for name in model.layer_types), strict=True)
        )
        dense = sum(count * float(each.dense[0]) for count, each in layers)
        dense += float(held.first[0]) * stage.first + float(held.last[0]) * stage.last
        experts = sum(count * float(each.experts[0]) for count, each in layers)
        found.append(Held(index, dense / WEIGHT_BYTES, experts / WEIGHT_BYTES, *sharing))
    return max(found, key=lambda each: (each.bytes, -each.stage))


def _memory_finding(launch: TrainingLaunch, cluster: Cluster, priced: PricedCut) -> Finding:
    """Weights, gradients and optimizer by hand; activations and the rest by the cost model."""
    total = cluster.pools[0].gpu.memory_bytes
    needed = float(priced.memory.needed[0])
    parts = {
        name.replace("_", " "): float(values[0])
        for name, values in priced.memory.fullest.parts.items()
        if name not in ("weights_and_gradients", "optimizer") and float(values[0]) > 0
    }
    rest = " + ".join(f"{name} {gib(value)}" for name, value in parts.items())
    fits = needed <= total
    return Finding(
        case=launch.name,
        claim=f"{launch.flags}: fits GPUs of {gib(total)}",
        quantity="memory",
        verdict="confirmed" if fits else "refuted",
        derived_value=needed / GIB,
        derived_unit="GiB",
        arithmetic=(
            f"{parameters_held(launch).arithmetic()}; {rest}; at the peak of "
            f"the fullest rank {gib(needed)} of {gib(total)} (cost model of training)"
        ),
        assumptions=launch.assumptions,
    )


def _step_line(launch: TrainingLaunch, cluster: Cluster, priced: PricedCut) -> str:
    """The step with its interval, and the rates that follow; TFLOP/s as Megatron-LM prints them,
    MFU with causal attention."""
    step_s, model = float(priced.step.step_s[0]), launch.model
    interval = load_training_calibration().interval
    width = interval.moe_step if model.moe is not None else interval.dense_step
    tokens = launch.global_batch * launch.seq_length / step_s
    job = Job(launch.seq_length, mtp_layers=launch.mtp_layers)
    own, printed = (
        model_flops(model, job, launch.global_batch, full_attention=whole) / step_s / launch.gpus
        for whole in (False, True)
    )
    share = own / cluster.pools[0].gpu.peak_flops_per_s("bf16")
    return (
        f"predicted step {milliseconds(step_s)} ({milliseconds(step_s * exp(-width))} to "
        f"{milliseconds(step_s * exp(width))}), {tokens:,.0f} tokens/s, "
        f"{tokens / launch.gpus:,.0f} a GPU, {printed / 1e12:,.0f} TFLOP/s a GPU, "
        f"MFU {100 * share:.1f} %"
    )
