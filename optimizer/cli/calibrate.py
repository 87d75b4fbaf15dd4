"""`optimize calibrate`: fit to a user's own runs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Draw predictions towards your own runs.")
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write [RUNS.yaml].")
@click.option("--calibration", metavar="FILE", help="What to start from [default].")
def calibrate(runs: Path, out: Path | None, calibration: str | None) -> None:
    """Fit predictions to your own measured runs: a CSV, a run a row.

    Columns as `optimize evaluate` reads them, and measured_ttft_ms, measured_tpot_ms. One run of
    each series (model, GPU, engine, precision, GPU count) at a middling load helps most.
    """
    from optimizer.calibrating import calibrate as fit
    from optimizer.calibrating import calibration_text
    from optimizer.cost.calibration import load_calibration
    from optimizer.evaluation import read_rows
    from optimizer.report.files import write_files

    target = out or runs.with_suffix(".yaml")
    found = fit(read_rows(runs), load_calibration(calibration or "default"), target.stem, str(runs))
    write_files(target.parent, {target.name: calibration_text(found.calibration)})
    for reason, rows in found.unused.items():
        click.echo(f"{rows} rows not used: {reason}")
    for quantity, gain in found.gains.items():
        before, after = gain.before, gain.after
        click.echo(
            f"{quantity.upper()} of {gain.runs} runs, each left out in turn: error "
            f"{before.mean:.1%} mean, {before.median:.1%} median before; "
            f"{after.mean:.1%} and {after.median:.1%} after"
        )
    if not found.gains:
        click.echo("a single run: give more to learn how much it helps")
    click.echo(f"written to {target}; use it with --calibration {target}")
