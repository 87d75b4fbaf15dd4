"""`optimize fleet`: several models on one cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from optimizer.cli.job import WITHIN
from optimizer.errors import EXIT_CHECK, EXIT_TIME


@click.command(short_help="Serve several models on one cluster.")
@click.argument("fleet", metavar="FLEET.yaml", type=click.Path(path_type=Path))
@click.option(
    "--out",
    default=Path("results/fleet.json"),
    type=click.Path(path_type=Path),
    show_default=True,
    help="File to write.",
)
@click.option(
    "--current",
    type=click.Path(path_type=Path),
    metavar="FLEET.json",
    help="Stay close to the fleet that runs; what moves is written to moves.json beside the fleet.",
)
@WITHIN
@click.option("--quiet", is_flag=True, help="Print nothing.")
def fleet(fleet: Path, out: Path, current: Path | None, within: float, quiet: bool) -> None:
    """Serve several models' request rates at the fewest GPUs, least money, or as far as they go."""
    from optimizer.fleets import plan_fleet, plan_fleet_near, summary, verify, verify_moves
    from optimizer.plan.fleet import load_fleet, write_fleet
    from optimizer.report.files import write_files
    from optimizer.spec.fleet_file import read_fleet

    if current is None:
        found, beside = plan_fleet(read_fleet(fleet)), {}
        findings = verify(found)
    else:
        runs = load_fleet(current)
        found, moves = plan_fleet_near(read_fleet(fleet), runs, within)
        findings = [*verify(found), *verify_moves(found, runs, moves)]
        beside = {"moves.json": moves}
    bad = [finding for finding in findings if not finding.ok]
    write_files(out.parent, {out.name: write_fleet(found), **beside})
    if not quiet:
        click.echo(f"{summary(found)}\n\nwritten to {out}")
    for finding in bad[:10]:
        click.echo(f"verify: {finding.check}: {finding.detail}", err=True)
    if bad:
        sys.exit(EXIT_CHECK)
    if found.proof.status == "FEASIBLE" and found.proof.gap > (found.proof.within or 0.0):
        click.echo("the time limit ran out: the fleet is feasible, its gap is stated", err=True)
        sys.exit(EXIT_TIME)
