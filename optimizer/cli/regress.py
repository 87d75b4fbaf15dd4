"""`optimize regress`: hold golden plans still."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from optimizer.errors import EXIT_CHECK


@click.command(short_help="Plan golden plans again and compare.")
@click.argument("plans", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--accept", metavar="REASON", help="Rewrite changed plans, with the reason in them.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder for regress.json.",
)
def regress(plans: tuple[Path, ...], accept: str | None, out: Path) -> None:
    """Plan golden plans again and compare; exit code 4 where one became worse."""
    from optimizer import regression
    from optimizer.report.files import write_files

    comparisons = regression.regress(plans)
    click.echo(regression.regression_table(comparisons))
    write_files(out, {"regress.json": regression.regression_json(comparisons)})
    if accept is not None:
        count = regression.accept(plans, comparisons, accept)
        click.echo(f"{count} rewritten")
    elif any(each.verdict in ("worse", "failed") for each in comparisons):
        sys.exit(EXIT_CHECK)
