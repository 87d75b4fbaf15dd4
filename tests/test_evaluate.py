"""Given layouts priced as they ran: every row an answer or a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from optimizer.evaluation import evaluate

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


def test_errors_over_all_unsuspected_runs_stay_where_they_were_measured(
    measured: pd.DataFrame,
) -> None:
    known = measured[measured["suspect"].isna()]
    errors = {
        name: (known[f"predicted_{name}_ms"] / known[f"measured_{name}_ms"] - 1).abs()
        for name in ("tpot", "ttft")
    }
    assert errors["tpot"].median() < 0.070
    assert errors["ttft"].median() < 0.260
    inside = (known["measured_tpot_ms"] >= known["predicted_tpot_ms_low"]) & (
        known["measured_tpot_ms"] <= known["predicted_tpot_ms_high"]
    )
    assert 0.75 < inside.mean() < 0.9


def test_rows_come_back_in_order_with_their_columns() -> None:
    given = pd.DataFrame([row(concurrency=64), row(concurrency=4)])
    found = evaluate(given)
    assert list(found["concurrency"]) == [64, 4]
    assert found["predicted_tpot_ms"][0] > found["predicted_tpot_ms"][1]
    assert list(given.columns) == list(found.columns[: len(given.columns)])


def test_a_row_that_cannot_be_priced_says_why_and_stops_nothing() -> None:
    found = evaluate(
        pd.DataFrame(
            [row(model="nope"), row(), row(tp=0), row(precision="fp7"), row(input_len="many")]
        )
    )
    assert np.isfinite(found["predicted_tpot_ms"][1])
    for index, word in ((0, "nope"), (2, "tp"), (3, "fp7"), (4, "input_len")):
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
