"""`optimize experts`: experts on slots."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from optimizer.errors import EXIT_CHECK


@click.command(short_help="Place experts on slots.")
@click.option(
    "--loads",
    required=True,
    metavar="FILE",
    help="How often experts are picked: CSV, a row a layer; .npy; the engines' JSON.",
)
@click.option("--gpus", required=True, type=click.IntRange(1), help="GPUs that hold the slots.")
@click.option("--slots", required=True, type=click.IntRange(1), help="Expert slots of all GPUs.")
@click.option(
    "--nodes", default=1, type=click.IntRange(1), show_default=True, help="Nodes of those GPUs."
)
@click.option("--groups", type=click.IntRange(1), help="Runs of experts that stay on one node.")
@click.option("--current", metavar="FILE", help="A placement.json to change as little as asked.")
@click.option("--max-moves", type=click.IntRange(0), help="Slots a layer that may change.")
@click.option("--no-duplicates", is_flag=True, help="No two copies of an expert on one GPU.")
@click.option("--prove", is_flag=True, help="Two slots a GPU: close gaps, in seconds a layer.")
@click.option(
    "--out",
    default=Path("results/placement.json"),
    type=click.Path(path_type=Path),
    show_default=True,
    help="File to write; beside it, what the engines read.",
)
def experts(**options: Any) -> None:
    """Place experts on slots, the hottest GPU's load least, with a bound of each layer."""
    from optimizer.placing_experts import place, summary
    from optimizer.report.files import write_files

    placement, files, findings = place(**{key: options[key] for key in options if key != "out"})
    folder, name = options["out"].parent, options["out"].name
    write_files(folder, {name if key == "placement.json" else key: files[key] for key in files})
    click.echo(summary(placement))
    click.echo(f"written to {options['out']}, and as SGLang, TensorRT-LLM and vLLM read it")
    for finding in findings:
        click.echo(f"verify: {finding}", err=True)
    if findings:
        sys.exit(EXIT_CHECK)
