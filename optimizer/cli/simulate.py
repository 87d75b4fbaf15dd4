"""`optimize simulate`: run a plan under a load, or one step of it operator by operator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Run a plan or a fleet under a load.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--arrivals",
    metavar="KIND",
    help="closed, poisson, burst, or a CSV of arrival_s,input_tokens,output_tokens.",
)
@click.option("--rate", metavar="RATE", help='Requests that arrive, "20 req/s".')
@click.option("--requests", type=click.IntRange(1, 10_000_000), metavar="N", help="How many.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of arrivals.")
@click.option(
    "--spread",
    type=click.FloatRange(0, 1, max_open=True),
    help="Lengths vary evenly from (1 - spread) to (1 + spread) of the workload's [closed: 0.2].",
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
    """Run a plan, or each demand of a fleet, under a load; writes timeline.json (for Perfetto) and
    simulation.json. --step runs one step of each phase on the streams of its ranks instead, and
    writes a timeline of each and steps.json."""
    from optimizer.report.files import write_files
    from optimizer.simulate.faults import read_deaths, read_slow
    from optimizer.simulate.serving.asked import asked_load
    from optimizer.simulate.serving.events import timeline
    from optimizer.simulate.serving.fleets import read_served
    from optimizer.simulate.serving.serve import Conditions, serve
    from optimizer.simulate.serving.summary import summarize, summary_json, summary_text
    from optimizer.simulate.step import refuse_load, steps
    from optimizer.simulate.step_summary import steps_summary, steps_text
    from optimizer.simulate.timeline import timelines

    slow, die, skew = (options.pop(name) for name in ("slow", "die", "skew"))
    files: dict[str, str | Iterable[str]] = {}
    texts = []
    served = read_served(plan)
    for name, given in served.items():
        stepped = step or given.deployments[0].training is not None
        if stepped:
            refuse_load(options)
        faults = read_slow(slow, given.cluster), read_deaths(die, given.cluster)
        conditions = Conditions(*faults, skew)
        ending = f"-{name}" if len(served) > 1 else ""
        if stepped:
            runs = steps(given, conditions)
            found = steps_summary(given.name, given.hash, runs)
            files |= {f"{file}{ending}.json": text for file, text in timelines(runs).items()}
            files[f"steps{ending}.json"] = summary_json(found)
            texts.append(summary_json(found).rstrip() if as_json else steps_text(found))
            continue
        outcome = serve(given, asked_load(given, **options), conditions)
        found = summarize(outcome)
        files[f"timeline{ending}.json"] = timeline(outcome)
        files[f"simulation{ending}.json"] = summary_json(found)
        texts.append(summary_json(found).rstrip() if as_json else summary_text(found))
    folder = out or Path("results") / "simulate"
    write_files(folder, files)
    click.echo("\n".join(texts if as_json else [*texts, f"written to {folder}/"]))
