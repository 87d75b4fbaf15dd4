"""`optimize simulate`: run a plan under a load, step by step, or one step operator by operator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--arrivals",
    metavar="KIND",
    help="closed, poisson, burst, or a CSV of arrival_s,input_tokens,output_tokens.",
)
@click.option("--rate", metavar="RATE", help='Requests that arrive, "20 req/s".')
@click.option("--requests", type=click.IntRange(1, 10_000_000), metavar="N", help="How many.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--spread",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Lengths vary evenly from (1 - spread) of the workload's up to it.",
)
@click.option("--slow", multiple=True, metavar="GPU=SPEED", help="A straggler: gpu3=0.8.")
@click.option("--die", multiple=True, metavar="GPU@TIME", help="A GPU that dies: gpu5@10s.")
@click.option(
    "--skew",
    type=click.FloatRange(1, 1000),
    metavar="X",
    help="Load of the hottest expert rank over the mean.",
)
@click.option("--step", is_flag=True, help="One step, operator by operator, instead of a load.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write [results/simulate].")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def simulate(plan: Path, out: Path | None, as_json: bool, step: bool, **options: Any) -> None:
    """Run a plan under a load; writes timeline.json (for Perfetto) and simulation.json.

    --step runs one step of each phase, as a training plan always does; it writes steps.json and a
    timeline of each.
    """
    from optimizer.plan import load_plan
    from optimizer.report.files import write_files
    from optimizer.simulate.faults import read_deaths, read_slow
    from optimizer.simulate.serving.asked import asked_load
    from optimizer.simulate.serving.events import timeline
    from optimizer.simulate.serving.serve import Conditions, serve
    from optimizer.simulate.serving.summary import summarize, summary_json, summary_text

    given = load_plan(plan)
    conditions = Conditions(
        read_slow(options.pop("slow"), given.cluster),
        read_deaths(options.pop("die"), given.cluster),
        options.pop("skew"),
    )
    folder = out or Path("results") / "simulate"
    files: dict[str, str | Iterable[str]]
    if step:
        from optimizer.simulate.step import refuse_load, steps
        from optimizer.simulate.step_summary import steps_json, steps_summary, steps_text
        from optimizer.simulate.timeline import timeline_files

        refuse_load(options)
        runs = steps(given, conditions)
        found = steps_summary(given.name, given.hash, runs)
        document, text = steps_json(found), steps_text(found)
        files = {**timeline_files(runs), "steps.json": document}
    else:
        outcome = serve(given, asked_load(given, **options), conditions)
        found = summarize(outcome)
        document, text = summary_json(found), summary_text(found)
        files = {"timeline.json": timeline(outcome), "simulation.json": document}
    write_files(folder, files)
    click.echo(document if as_json else f"{text}\nwritten to {folder}/", nl=not as_json)
