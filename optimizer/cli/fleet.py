"""`optimize fleet`: several models on one cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from optimizer.errors import EXIT_CHECK, EXIT_TIME


@click.command()
@click.argument("fleet", metavar="FLEET.yaml", type=click.Path(path_type=Path))
@click.option(
    "--out",
    default=Path("fleet.json"),
    type=click.Path(path_type=Path),
    show_default=True,
    help="File to write.",
)
@click.option("--quiet", is_flag=True, help="Print nothing.")
def fleet(fleet: Path, out: Path, quiet: bool) -> None:
    """Serve several models' request rates at the fewest GPUs, least money, or as far as they go."""
    from optimizer.fleets import plan_fleet, summary, verify
    from optimizer.plan.fleet import write_fleet
    from optimizer.report.files import write_files
    from optimizer.spec.fleet_file import read_fleet

    found = plan_fleet(read_fleet(fleet))
    bad = [finding for finding in verify(found) if not finding.ok]
    write_files(out.parent, {out.name: write_fleet(found)})
    if not quiet:
        click.echo(f"{summary(found)}\n\nwritten to {out}")
    for finding in bad[:10]:
        click.echo(f"verify: {finding.check}: {finding.detail}", err=True)
    if bad:
        sys.exit(EXIT_CHECK)
    if found.proof.status == "FEASIBLE":
        click.echo("the time limit ran out: the fleet is feasible, its gap is stated", err=True)
        sys.exit(EXIT_TIME)
