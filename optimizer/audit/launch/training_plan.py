"""A training launch beside the best plan on its GPUs, by the planner's own line.

The batch, the sequence length and the number formats stay as the command states them, and
Megatron-LM's rules hold; how a step is run is the planner's to choose.
"""

from __future__ import annotations

from typing import Final

from optimizer.audit.better import NOTABLE, said
from optimizer.audit.finding import BetterPlan
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.audit.launch.pricing import Best, same_gpus
from optimizer.errors import InfeasibleError
from optimizer.pipeline import optimize
from optimizer.spec.cluster import Cluster
from optimizer.spec.workload import MatrixFormat, TrainingWorkload
from optimizer.units import gib, milliseconds

FORMATS: Final[dict[int, MatrixFormat]] = {16: "bf16", 8: "fp8", 4: "fp4"}
MORE_MEMORY = 1 - 1e-6  # of the best plan's step: who is faster than that has no margin to keep


def best_training(launch: TrainingLaunch, cluster: Cluster, known: dict[str, Best]) -> Best:
    """The planner's best on as many GPUs; `known` keeps plans between commands of one job."""
    load = TrainingWorkload(
        engine="megatron",
        global_batch=launch.global_batch,
        sequence_length=launch.seq_length,
        precision=(FORMATS[launch.bits],),
        mtp=launch.mtp_layers > 0,
    )
    key = f"{launch.gpus} {load.model_dump_json()} {launch.model.model_dump_json()}"
    if key not in known:
        try:
            there = same_gpus(cluster, launch.gpus)
            known[key] = optimize(there, launch.model, load, top=1).best
        except InfeasibleError as error:
            known[key] = error
    return known[key]


def beside_best(launch: TrainingLaunch, step_s: float | None, best: Best) -> BetterPlan:
    """The command against the best plan; `step_s` is None where the command cannot run."""
    times = None
    if isinstance(best, InfeasibleError):
        text = f"no plan on {launch.gpus} GPUs: {'; '.join(best.reasons[:3])}"
    else:
        step, gpus = best.predictions["step_s"].value, best.deployment.gpus
        on = "" if gpus == launch.gpus else f" on {gpus} of the {launch.gpus} GPUs"
        memory = gib(best.predictions["memory_bytes"].value)
        text = f"{said(best)}{on}: a step of {milliseconds(step)}, {memory} a GPU"
        if step_s is not None:
            times = step_s / step
            if times < MORE_MEMORY:
                text = f"faster than the best plan that leaves 5 % of the memory free, {text}"
            elif times < NOTABLE:
                text = f"within 1 % of the best plan, {text}"
            else:
                text = f"{times:.2f} x as fast: {text}"
    return BetterPlan(
        case=launch.name,
        strategy=launch.flags,
        phase="training",
        claimed_plan=launch.layout.name if launch.layout is not None and step_s else "",
        plan="" if isinstance(best, InfeasibleError) else best.name,
        times=times,
        comparison=text,
    )
