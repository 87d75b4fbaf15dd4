"""implementation_guide.md: what to launch, what lies where, what to watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optimizer.export.megatron import beyond_megatron, chunk_letters, megatron_arguments
from optimizer.export.serving import COMMANDS, NAMES, why_not
from optimizer.plan import Deployment, Plan, Plans, Training
from optimizer.report.table import (
    assumption_lines,
    memory_lines,
    plan_table,
    proof_line,
    recompute_text,
)
from optimizer.spec.workload import ServingWorkload
from optimizer.units import figure, gib, milliseconds

SHOWN_REPLICAS = 4
_UNITS: Mapping[str, Callable[[float], str]] = {"B": gib, "s": milliseconds}


def guide(plans: Plans) -> str:
    """The guide to the best plan, as Markdown."""
    plan = plans.best
    sections = [
        f"# {plan.model.name} on {plan.cluster.name}: {plan.name}",
        _figures(plan),
        *(deployment_section(deployment) for deployment in plan.deployments),
        *([_launch(plan)] if plan.deployment.training is not None else []),
        *([_serve(plan)] if isinstance(plan.workload, ServingWorkload) else []),
        watch_section(plan, "What to watch"),
        "## Ranked plans\n\n```\n" + plan_table(plans) + "\n```\n\n" + proof_line(plan),
        "## Assumptions\n\n```\n" + assumption_lines(plan) + "\n```",
        "## Check it\n\n```\npython verify_strategy.py optimal_parallel_strategy.json\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _figures(plan: Plan) -> str:
    rows = ["| predicted | value | 80 % interval | source |", "|---|---|---|---|"]
    for name, found in plan.predictions.items():
        show = _shower(name)
        rows.append(
            f"| {name} | {show(found.value)} | {show(found.low)} to {show(found.high)} | "
            f"{found.source} |"
        )
    return "\n".join(rows)


def _shower(name: str) -> Callable[[float], str]:
    if name.endswith("_bytes"):
        return gib
    if name == "mfu":
        return lambda value: f"{value:.1%}"
    if "per_s" in name:
        return lambda value: figure(value, 4)
    return milliseconds


def deployment_section(deployment: Deployment, title: str = "Deployment") -> str:
    """What one deployment launches and what lies where."""
    layout, batch, placement = deployment.layout, deployment.batch, deployment.placement
    degrees = ", ".join(
        f"{name} {getattr(layout, name)}"
        for name in ("replicas", "pp", "vp", "tp", "cp", "dp", "ep", "etp", "edp")
        if name not in ("vp", "edp") or deployment.training is not None
    )
    lines = [
        f"## {title}: {deployment.name}{_pools(deployment)}",
        f"- degrees: {degrees}; {deployment.gpus} GPUs, {len(placement.idle_gpus)} idle",
    ]
    if deployment.training is None:
        lines += [
            f"- of each attention rank: {batch.sequences_per_rank} sequences at once"
            + (f", prefill chunks of {batch.prefill_chunk} tokens" if batch.prefill_chunk else "")
            + (f", {batch.micro_batches} micro-batches" if layout.pp > 1 else ""),
            f"- requests at once: {batch.concurrency:,.0f} in all",
        ]
    else:
        lines += _step(deployment.training)
    lines += ["", "| stage | layers | ranks of a replica |", "|---|---|---|"]
    for stage in range(layout.pp):
        chunks = placement.stage_layers[stage :: layout.pp]
        held = ", ".join(f"{first}-{end - 1}" for first, end in chunks if end > first)
        start = stage * layout.width
        lines.append(f"| {stage} | {held} | {start}-{start + layout.width - 1} |")
    lines += ["", "| rank | stage | tp | dp | layers | heads | experts | GPU by replica |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for rank in placement.ranks:
        gpus = [replica[rank.rank] for replica in placement.rank_gpu]
        more = f" ... {gpus[-1]}" if len(gpus) > SHOWN_REPLICAS else ""
        lines.append(
            f"| {rank.rank} | {rank.stage} | {rank.tp} | {rank.dp} | {rank.layers} | "
            f"{rank.heads or rank.linear_heads} | {rank.experts or '-'} | "
            f"{', '.join(gpus[:SHOWN_REPLICAS])}{more} |"
        )
    return "\n".join(lines)


def _pools(deployment: Deployment) -> str:
    """Where its replicas lie, where there is a choice."""
    if deployment.shares is None:
        return f" on pool {deployment.pool}" if deployment.pool != "pool" else ""
    told = [
        f"{share.pool} ({share.stages} stage{'s' * (share.stages > 1)}, {share.layers} layers)"
        for share in deployment.shares
    ]
    return " on pools " + ", then ".join(told)


def _step(training: Training) -> list[str]:
    """What one step runs."""
    return [
        f"- {training.schedule}: {training.micro_batches} micro-batches of "
        f"{training.micro_batch} sequences; blocks by chunk: {chunk_letters(training)}",
        f"- sharding: {training.sharding} over {training.shard_ranks}; optimizer "
        f"{training.optimizer}; products in {training.compute}",
        f"- recompute: {recompute_text(training)}",
    ]


def _serve(plan: Plan) -> str:
    """What each engine is started with for one replica, or why it cannot run the plan."""
    placement, asked = plan.deployment.placement, plan.workload.engine
    nodes = {gpu.rpartition("/")[0] for gpu in placement.rank_gpu[0]}
    lines = ["## Launch", "", "One command a replica, on the GPUs named above."]
    if len(nodes) > 1:
        lines[-1] += f" A replica spans {len(nodes)} nodes: add their addresses."
    for engine in [asked] if asked in COMMANDS else COMMANDS:
        command = COMMANDS[engine](plan, "serving")
        if command is None:
            lines += ["", f"{NAMES[engine]} cannot run it: {why_not(plan, engine)}."]
        else:
            lines += ["", f"{NAMES[engine]}:", "", "```", command, "```"]
    return "\n".join(lines)


def _launch(plan: Plan) -> str:
    """Megatron-LM's arguments of a training plan."""
    lines = ["## Launch with Megatron-LM", "", "```", *megatron_arguments(plan), "```"]
    beyond = beyond_megatron(plan.deployment)
    if beyond:
        lines += ["", "What these arguments do not say:", "", *(f"- {each}" for each in beyond)]
    return "\n".join(lines)


def watch_section(plan: Plan, title: str) -> str:
    """The limits of a plan and what is left of each."""
    lines = [f"## {title}", ""]
    for limit in plan.limits:
        if limit.limit > 0:
            show = _UNITS.get(limit.unit, figure)
            unit = "" if limit.unit in _UNITS or limit.unit == limit.name else f" {limit.unit}"
            lines.append(
                f"- {limit.name}: {show(limit.need)} of {show(limit.limit)}{unit} "
                f"({limit.need / limit.limit:.1%}); {show(limit.slack)} left"
            )
    lines += ["", "```", memory_lines(plan), "```"]
    return "\n".join(lines)
