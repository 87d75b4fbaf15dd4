"""Calibrating to a user's own runs: what a run says about others, and what was gained."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from optimizer.calibrating import calibrate, calibration_text
from optimizer.cli import optimize
from optimizer.cost.calibration import load_calibration
from optimizer.cost.correcting import Series, factors
from optimizer.cost.corrections import MAX_RUNS, Corrections, Run
from optimizer.errors import SpecError
from optimizer.evaluation import evaluate
from optimizer.pipeline import optimize as plan
from optimizer.pipeline import verify
from optimizer.spec.reading import read_job

SERIES = Series("llama-3.1-8b", "H100 SXM", "vllm", "bf16")
RUN = Run(**SERIES._asdict(), gpus=1, concurrency=16, input_len=1000, output_len=100, tpot=1.2)
LOAD = np.array([[1.0, 16.0, 1000.0, 100.0]])
ROWS = pd.DataFrame(
    {
        "model": "llama-3.1-8b",
        "hardware": "h100-sxm",
        "engine": "vllm",
        "precision": "bf16",
        "input_len": 1000,
        "output_len": [100, 200, 400, 800] * 3,
        "concurrency": [4, 16, 64] * 4,
        "tp": 1,
    }
)


@pytest.fixture
def measured() -> pd.DataFrame:
    """Runs of a GPU on which everything takes a quarter longer than predicted."""
    found = evaluate(ROWS)
    for name in ("ttft", "tpot"):
        found[f"measured_{name}_ms"] = found[f"predicted_{name}_ms"] * 1.25
    return found


def test_a_run_draws_its_own_load_by_its_share_of_the_variance() -> None:
    # 0.03^2 + 0.06^2 + 0.08^2 = 0.0109 of signal beside 0.1^2 = 0.01 of noise
    drawn = factors(Corrections(runs=(RUN,)), SERIES, LOAD)
    assert drawn.tpot[0] == pytest.approx(1.2 ** (0.0109 / 0.0209))
    assert drawn.ttft[0] == 1.0  # it measured none


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (SERIES._replace(precision="fp8"), 0.0045),
        (SERIES._replace(model="qwen3-32b"), 0.0009),
        (SERIES._replace(engine="sglang"), 0.0),
        (SERIES._replace(gpu="B200 SXM"), 0.0),
    ],
)
def test_a_run_says_less_about_series_that_share_less_with_it(other: Series, share: float) -> None:
    drawn = factors(Corrections(runs=(RUN,)), other, LOAD)
    assert drawn.tpot[0] == pytest.approx(1.2 ** (share / 0.0209))


def test_a_run_says_less_about_loads_that_are_further_from_it() -> None:
    loads = np.array([[1.0, 16.0 * 4.0**step, 1000.0, 100.0] for step in range(4)])
    drawn = factors(Corrections(runs=(RUN,)), SERIES, loads).tpot
    assert np.all(np.diff(drawn) < 0)
    assert drawn[-1] > 1.0  # what does not fade


def test_runs_left_out_become_better(measured: pd.DataFrame) -> None:
    found = calibrate(measured, load_calibration(), "mine")
    for gain in found.gains.values():
        assert gain.before.mean == pytest.approx(0.2)  # 1 / 1.25
        assert gain.after.mean < 0.05
    again = evaluate(ROWS, found.calibration)
    assert (again["predicted_tpot_ms"] / measured["measured_tpot_ms"]).between(0.95, 1.05).all()


def test_rows_that_cannot_serve_are_counted_with_why(measured: pd.DataFrame) -> None:
    measured.loc[0, "model"] = "no-such-model"
    measured.loc[1, ["measured_ttft_ms", "measured_tpot_ms"]] = np.nan
    measured.loc[2, "measured_tpot_ms"] = -3.0  # its TTFT still serves
    found = calibrate(measured, load_calibration(), "mine")
    assert found.calibration.rows == len(ROWS) - 2
    assert sorted(found.unused.values()) == [1, 1]


def test_a_table_without_measurements_says_what_is_missing() -> None:
    with pytest.raises(SpecError, match=r"no run to calibrate with.*measured_tpot_ms"):
        calibrate(ROWS, load_calibration(), "mine", "runs.csv")


def test_too_many_runs_say_how_many_are_taken(measured: pd.DataFrame) -> None:
    many = pd.concat([measured] * (MAX_RUNS // len(ROWS) + 1), ignore_index=True)
    with pytest.raises(SpecError, match="at most 2,000"):
        calibrate(many, load_calibration(), "mine", "runs.csv")


def test_the_file_serves_evaluate_and_is_named_in_plans_that_hold(
    measured: pd.DataFrame, tmp_path: Path
) -> None:
    runs, file = tmp_path / "runs.csv", tmp_path / "mine.yaml"
    measured.to_csv(runs, index=False)
    ran = CliRunner().invoke(optimize, ["calibrate", str(runs)], catch_exceptions=False)
    assert "written to" in ran.output
    assert "left out" in ran.output
    given = tmp_path / "runs.yaml"
    file.write_text(given.read_text(encoding="utf-8"), encoding="utf-8")
    mine = load_calibration(str(file))
    job = read_job("h100-sxm", "llama-3.1-8b", None, {"engine": "vllm"}, 2)
    plans = plan(job.cluster, job.model, job.workload, calibration=mine, top=1)
    assert "calibration runs of" in plans.best.predictions["tpot_s"].source
    assert plans.best.provenance.calibration == "runs"
    assert [finding for finding in verify(plans) if not finding.ok] == []
    shipped = plan(job.cluster, job.model, job.workload, strategy=plans.best.name, top=1)
    slower = plans.best.predictions["tpot_s"].value / shipped.best.predictions["tpot_s"].value
    assert 1.05 < slower < 1.3


def test_a_calibration_file_is_refused_with_the_key_that_is_wrong(tmp_path: Path) -> None:
    text = calibration_text(load_calibration()).replace("kernel_s:", "kernels_s:", 1)
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=r"bad\.yaml.*kernel"):
        load_calibration(str(tmp_path / "bad.yaml"))
    with pytest.raises(SpecError, match="calibration"):
        load_calibration("no-such-preset")
