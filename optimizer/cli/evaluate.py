"""`optimize evaluate`: price what ran."""

from __future__ import annotations

from pathlib import Path

import click

from optimizer.errors import Problem, SpecError


@click.command()
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def evaluate(rows: Path, out: Path) -> None:
    """Price given serving or training layouts, a row of a CSV each, without searching."""
    import pandas as pd

    from optimizer.evaluating_training import evaluate_training, is_training
    from optimizer.evaluation import evaluate as evaluate_serving
    from optimizer.report.files import write_files

    try:
        table = pd.read_csv(rows)
    except (OSError, ValueError) as error:
        raise SpecError(Problem(f"no table of rows: {error}", str(rows))) from None
    training = is_training(table)
    found = evaluate_training(table) if training else evaluate_serving(table)
    write_files(out.parent, {out.name: found.to_csv(index=False, lineterminator="\n")})
    priced = int((found["predicted_step_s"].notna() if training else found["reason"] == "").sum())
    click.echo(f"{priced:,} of {len(found):,} rows priced; written to {out}")
