"""`optimize audit`: judge what somebody claims of a deployment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from optimizer.errors import EXIT_CHECK


def finish(audit: Any, options: dict[str, Any]) -> None:
    """Writes and prints an audit; exit code 4 when anything is refuted."""
    from optimizer.audit.writing import audit_files, audit_table
    from optimizer.report.files import write_files

    files = audit_files(audit)
    folder = options["out"]
    write_files(folder, files)
    if options["as_json"]:
        click.echo(files["audit.json"], nl=False)
    elif not options["quiet"]:
        click.echo(audit_table(audit))
        click.echo(f"\nwritten to {folder}/")
    if audit.refuted:
        sys.exit(EXIT_CHECK)


@click.command()
@click.argument(
    "claims", nargs=-1, type=click.Path(path_type=Path), required=True, metavar="CLAIMS..."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/audit"),
    show_default=True,
    help="Folder to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def audit(claims: tuple[Path, ...], **options: Any) -> None:
    """Judge the claims of deployment reports: each confirmed, refuted or unverifiable, and why."""
    from optimizer.audit.job import audit as judge

    finish(judge(claims), options)
