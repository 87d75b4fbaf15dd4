"""`optimize evaluate`: price what ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from optimizer.cli.job import calibration_of, calibration_option


@click.command(short_help="Price layouts that ran, a row of a CSV each.")
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
@calibration_option
def evaluate(rows: Path, out: Path, **named: Any) -> None:
    """Price given serving or training layouts, a row of a CSV each, without searching.

    Serving: columns model, hardware, input_len, output_len, concurrency (of a replica), tp, and
    where they matter engine, precision, dp, ep, etp. Training: those of
    benchmarks/data/training.csv. A row that cannot be priced says why under `reason`.
    """
    from optimizer.errors import Problem, SpecError
    from optimizer.evaluating_training import evaluate_training, is_training
    from optimizer.evaluation import evaluate as evaluate_serving
    from optimizer.evaluation import read_rows
    from optimizer.report.files import write_files

    constants = calibration_of(named)
    table = read_rows(rows)
    training = is_training(table)
    found = evaluate_training(table) if training else evaluate_serving(table, constants)
    priced = int((found["predicted_step_s"].notna() if training else found["reason"] == "").sum())
    if not priced:
        why = found["reason"].iloc[0] if len(found) else "it holds none"
        raise SpecError(Problem(f"no row can be priced: {why}", str(rows)))
    write_files(out.parent, {out.name: found.to_csv(index=False, lineterminator="\n")})
    rest = "" if priced == len(found) else ", the others say why under `reason`"
    click.echo(f"{priced:,} of {len(found):,} rows priced{rest}; written to {out}")
