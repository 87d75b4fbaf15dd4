"""`optimize why` and `optimize remedies`: what keeps a layout from winning, what would help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from optimizer.cli.job import OBJECTIVES, job_of, job_options
from optimizer.cli.sections import SectionedCommand


@click.command(cls=SectionedCommand)
@job_options
@click.option("--objective", type=click.Choice(OBJECTIVES), default="throughput", show_default=True)
@click.option("--strategy", metavar="NAME", help="The layout in question.")
@click.option("--plan", type=click.Path(path_type=Path), help="A plan file in place of all else.")
def why(**options: Any) -> None:
    """Say why a layout is not the winner, and what would make it win."""
    from optimizer.explaining import why as explain
    from optimizer.plan import load_plan

    if options["plan"] is not None:
        beside = [name for name in ("hardware", "model", "strategy") if options[name] is not None]
        if beside:
            raise click.UsageError(f"--plan stands in place of --{beside[0]}; give one of the two")
        plan = load_plan(options["plan"])
        layout = plan.deployment.layout
        answer = explain(plan.cluster, plan.model, plan.workload, layout, plan.objective)
    else:
        job = job_of(options)
        strategy = options["strategy"] or job.strategy
        if strategy is None:
            raise click.UsageError("--strategy is missing; write for example --strategy EP8_TP4")
        answer = explain(job.cluster, job.model, job.workload, strategy, options["objective"])
    click.echo(answer.text())


@click.command(
    cls=SectionedCommand, short_help="Price remedies, each alone: batch=64, weights=fp16 ..."
)
@job_options
@click.option("--strategy", metavar="NAME", help="The layout to try them on [the best one].")
@click.argument("remedies", nargs=-1, required=True, metavar="REMEDY...")
def remedies(remedies: tuple[str, ...], **options: Any) -> None:
    """Price remedies, each alone: batch=64, weights=fp16, kv_cache=fp8, gpus=32, recompute ..."""
    from optimizer.repairing import Job, price_remedies, render_remedies

    job = job_of(options)
    asked = Job(job.cluster, job.model, job.workload, options["strategy"])
    click.echo(render_remedies(price_remedies(asked, remedies)))
