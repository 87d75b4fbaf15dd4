"""Given layouts priced as they ran: every row an answer or a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from optimizer.cost.calibration import load_calibration
from optimizer.cost.fitting import held_out
from optimizer.evaluation import evaluate, measured_runs

MEASURED = Path(__file__).resolve().parent.parent / "benchmarks" / "data" / "serving.csv"


def row(**changes: object) -> dict[str, object]:
    return {
        "model": "qwen3-235b-a22b",
        "hardware": "h200-sxm",
        "engine": "vllm",
        "precision": "fp8",
        "input_len": 1024,
        "output_len": 1024,
        "concurrency": 32,
        "gpus": 8,
        "tp": 8,
        "dp": 1,
        "etp": 8,
        "ep": 1,
        **changes,
    }


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    return evaluate(pd.read_csv(MEASURED))


def test_every_measured_run_is_priced_and_none_is_called_infeasible(measured: pd.DataFrame) -> None:
    assert (measured["reason"] == "").all()
    assert measured["feasible"].all()


def test_runs_of_a_model_left_out_are_predicted_as_the_readme_says() -> None:
    rows = pd.read_csv(MEASURED)
    rows = rows[rows["suspect"].isna()].reset_index(drop=True)
    base = load_calibration()
    runs = measured_runs(rows, base)
    assert len(runs.members) == base.rows == 1481
    left = held_out(runs.prepared, runs.ttft_s, runs.tpot_s, rows["model"].tolist(), base)
    for name, seconds, measured in (
        ("tpot", left.tpot_s, runs.tpot_s),
        ("ttft", left.ttft_s, runs.ttft_s),
    ):
        far = np.abs(seconds / measured - 1)
        assert (far.mean(), np.median(far)) == pytest.approx(base.error[name], abs=2e-3)
        width = getattr(base.interval, name)
        assert 0.75 < (np.abs(np.log(seconds / measured)) <= width).mean() < 0.85
    assert base.error["tpot"] < (0.12, 0.08)
    assert base.error["ttft"][0] < 0.38
    assert np.sinh(base.interval.tpot) < 0.20


def test_requests_that_fit_are_those_that_vllm_reports() -> None:
    known = pd.read_csv(MEASURED.parent / "vllm_memory.csv")
    load = {"engine": "vllm", "precision": "bf16", "output_len": 1, "concurrency": 1}
    asked = known.assign(hardware=known["gpu"], input_len=known["seq_len"] - 1, **load)
    layers = {"llama-3.1-8b": 32, "qwen3-0.6b": 28, "qwen3-32b": 64}
    a_token = 2 * 8 * 128 * 2 * known["model"].map(layers) / known["tp"]
    reported = known["kv_gib"] * 2**30 / a_token / known["seq_len"]
    assert evaluate(asked)["resident_sequences"].to_numpy() == pytest.approx(reported, rel=0.05)


def test_the_shape_of_a_model_prices_as_its_preset() -> None:
    shape = {"layers": 32, "hidden": 4096, "ffn_hidden": 14336, "heads": 32, "kv_heads": 8}
    named = row(model="llama-3.1-8b", precision="bf16")
    found = evaluate(pd.DataFrame([named, {**named, "model": "x", "vocab": 128256, **shape}]))
    assert found["predicted_tpot_ms"][0] == found["predicted_tpot_ms"][1]
    short = evaluate(pd.DataFrame([{**named, **shape}]))
    assert "lacks vocab" in short["reason"][0]
    routed = {"vocab": 32000, "experts": 8, "topk": 2, "moe_ffn_hidden": 14336}
    found = evaluate(pd.DataFrame([row(**shape, **routed), row(**{**shape, "heads": 7}, **routed)]))
    assert np.isfinite(found["predicted_tpot_ms"][0])
    assert "shape of" in found["reason"][1]


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("gpt-oss-120b", "fp4"),
        ("qwen3-235b-a22b", "fp8"),
        ("kimi-k2.5", "int4"),
        ("kimi-k2.5", "fp4"),
        ("llama-3.1-70b", "fp8"),
        ("glm-5", "fp8"),
        ("glm-5", "fp4"),
    ],
)
def test_models_that_no_run_was_fitted_on_are_priced_sensibly(model: str, precision: str) -> None:
    grid = [
        row(model=model, precision=precision, hardware="b200-sxm", engine=engine, concurrency=load)
        for engine in ("vllm", "sglang", "trtllm")
        for load in (4, 16, 64, 256)
    ]
    found = evaluate(pd.DataFrame(grid))
    assert (found["reason"] == "").all()
    assert found["feasible"].all()
    assert found["predicted_tpot_ms"].between(1.5, 80).all()
    assert found["predicted_ttft_ms"].between(20, 20_000).all()
    for _, part in found.groupby("engine", sort=False):
        assert part["predicted_tpot_ms"].is_monotonic_increasing
        assert part["predicted_tokens_per_s_per_gpu"].is_monotonic_increasing


def test_rows_come_back_in_order_with_their_columns() -> None:
    given = pd.DataFrame([row(concurrency=64), row(concurrency=4)])
    found = evaluate(given)
    assert list(found["concurrency"]) == [64, 4]
    assert found["predicted_tpot_ms"][0] > found["predicted_tpot_ms"][1]
    assert list(given.columns) == list(found.columns[: len(given.columns)])


def test_a_row_that_cannot_be_priced_says_why_and_stops_nothing() -> None:
    found = evaluate(
        pd.DataFrame(
            [
                row(model="nope"),
                row(pp=1),
                row(tp=0),
                row(precision="fp7"),
                row(input_len="many"),
                row(pp=2),
            ]
        )
    )
    assert np.isfinite(found["predicted_tpot_ms"][1])
    for index, word in ((0, "nope"), (2, "tp"), (3, "fp7"), (4, "input_len"), (5, "pp")):
        assert word in found["reason"][index]
        assert np.isnan(found["predicted_tpot_ms"][index])


def test_a_model_too_large_for_its_gpus_is_infeasible() -> None:
    found = evaluate(pd.DataFrame([row(model="llama-3.1-405b", gpus=1, tp=1, precision="bf16")]))
    assert not found["feasible"][0]
    assert "do not fit" in found["reason"][0]


def test_more_requests_are_never_quicker_a_token() -> None:
    rows = [row(concurrency=count) for count in (1, 4, 16, 64, 256, 1024)]
    found = evaluate(pd.DataFrame(rows))["predicted_tpot_ms"]
    assert list(found) == sorted(found)
