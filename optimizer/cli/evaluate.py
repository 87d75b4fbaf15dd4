"""`optimize evaluate`: price what ran."""

from __future__ import annotations

from pathlib import Path

import click

from optimizer.errors import Problem, SpecError


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def evaluate(rows: Path, out: Path) -> None:
    """Price given serving layouts, a row of a CSV each, without searching."""
    import pandas as pd

    from optimizer.evaluation import evaluate as price
    from optimizer.report.files import write_files

    try:
        table = pd.read_csv(rows)
    except (OSError, ValueError) as error:
        raise SpecError(Problem(f"no table of rows: {error}", str(rows))) from None
    found = price(table)
    write_files(out.parent, {out.name: found.to_csv(index=False, lineterminator="\n")})
    priced = int((found["reason"] == "").sum())
    click.echo(f"{priced:,} of {len(found):,} rows priced; written to {out}")
