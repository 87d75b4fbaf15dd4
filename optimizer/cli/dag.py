"""`optimize dag`: a plan's execution graph in formats that other tools read."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("json", "graphml", "dot", "svg", "chakra")


@click.command(short_help="Write a plan's execution graph.")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(FORMATS), default="json", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write [standard output]; chakra: a folder [results/chakra].",
)
@click.option("--all-ranks", is_flag=True, help="Every rank of every replica; else equals are one.")
@click.option(
    "--phase", metavar="NAME", help="prefill, decode or training; else all of the plan's."
)
@click.option("--layers", metavar="RANGE", help='Only these layers: "3" or "0-3".')
@click.option("--micro-batches", type=click.IntRange(1, 100_000), metavar="N", help="Only so many.")
@click.option(
    "--turns", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Decode steps."
)
def dag(
    plan: Path,
    format_: str,
    out: Path | None,
    all_ranks: bool,
    phase: str | None,
    layers: str | None,
    micro_batches: int | None,
    turns: int,
) -> None:
    """Write the execution graph of a plan: operators on ranks, and what each waits for."""
    from optimizer.plan import load_plan
    from optimizer.report.files import write_files
    from optimizer.simulate.graph.build import Wanted
    from optimizer.simulate.graph.written import graph_files

    given = load_plan(plan)
    phases = (phase,) if phase else ()
    wanted = Wanted(phases, all_ranks or format_ == "chakra", micro_batches, turns)
    files = graph_files(given, format_, wanted, layers)
    if format_ == "chakra":
        folder = out or Path("results") / "chakra"
        write_files(folder, files)
        click.echo(f"{len(files) - 1} traces and their groups written to {folder}/")
    elif out is None:
        for piece in next(iter(files.values())):
            click.echo(piece, nl=False)
    else:
        write_files(out.parent, {out.name: next(iter(files.values()))})
        click.echo(f"written to {out}")
