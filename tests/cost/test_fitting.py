"""The fit: one price for planner, evaluate and fit, and constants found again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from optimizer.cost.calibration import Calibration, load_calibration
from optimizer.cost.fitting import PRIORS, Prior, calibrated, fit, held_out, predict
from optimizer.evaluation import MeasuredRuns, evaluate, measured_runs

BASE = load_calibration()
MODELS = {"llama-3.1-8b": "bf16", "deepseek-v3": "fp8", "glm-5": "fp8", "gpt-oss-120b": "fp4"}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Runs of every kind of layer, predicted as if measured."""
    asked = pd.DataFrame(
        [
            {
                "model": model,
                "precision": precision,
                "hardware": hardware,
                "engine": engine,
                "input_len": 1024 * (1 + 8 * (engine == "sglang")),
                "output_len": 512,
                "concurrency": concurrency,
                "tp": 8,
                "etp": 8,
                "measured_ttft_ms": 1.0,
                "measured_tpot_ms": 1.0,
            }
            for model, precision in MODELS.items()
            for hardware in ("h200-sxm", "b200-sxm")
            for engine in ("vllm", "sglang", "trtllm")
            for concurrency in (2, 64)
        ]
    )
    found = evaluate(asked)
    for name in ("ttft", "tpot"):
        asked[f"measured_{name}_ms"] = found[f"predicted_{name}_ms"]
    return asked


@pytest.fixture(scope="module")
def runs(rows: pd.DataFrame) -> MeasuredRuns:
    return measured_runs(rows, BASE)


def test_the_fit_prices_as_evaluate_does(runs: MeasuredRuns) -> None:
    times = predict(runs.prepared, BASE)
    assert times.tpot_s == pytest.approx(runs.tpot_s, rel=1e-12)
    assert times.ttft_s == pytest.approx(runs.ttft_s, rel=1e-12)


def changed(values: dict[str, float]) -> Calibration:
    return calibrated(BASE, values)


def test_constants_that_made_the_runs_are_found_again(runs: MeasuredRuns) -> None:
    made = {"memory_efficiency": 0.7, "kernel_s": 4e-6, "engines.sglang.ttft_base_s": 8.0}
    times = predict(runs.prepared, changed(made))
    priors = {name: Prior(PRIORS[name].centre, 100.0) for name in made}
    found = fit(runs.prepared, times.ttft_s, times.tpot_s, BASE, priors)
    assert found == pytest.approx(made, rel=1e-2)


def test_a_factor_becomes_an_engines_own_value() -> None:
    found = changed({"ttft_base_s": 0.05, "engines.vllm.ttft_base_s": 2.0})
    assert found.constants_of("vllm", "hopper").ttft_base_s == pytest.approx(0.1)
    assert found.constants_of("megatron", "hopper").ttft_base_s == pytest.approx(0.05)


def test_a_model_left_out_does_not_decide_its_own_prediction(runs: MeasuredRuns) -> None:
    labels = np.repeat(list(MODELS), len(runs.members) // len(MODELS)).tolist()
    spoilt = runs.tpot_s.copy()
    spoilt[:12] *= 5.0
    priors = {"kernel_s": PRIORS["kernel_s"]}
    clean = held_out(runs.prepared, runs.ttft_s, runs.tpot_s, labels, BASE, priors)
    other = held_out(runs.prepared, runs.ttft_s, spoilt, labels, BASE, priors)
    assert other.tpot_s[:12] == pytest.approx(clean.tpot_s[:12], rel=1e-3)
    assert (other.tpot_s[12:] > clean.tpot_s[12:] * 1.0001).all()


def test_runs_keep_the_order_of_their_rows(rows: pd.DataFrame) -> None:
    mixed = rows.sample(frac=1.0, random_state=1).reset_index(drop=True)
    found = measured_runs(mixed, BASE)
    assert found.members.tolist() == list(range(len(rows)))
    assert found.tpot_s * 1e3 == pytest.approx(mixed["measured_tpot_ms"].to_numpy())


def test_common_constants_are_not_named_twice() -> None:
    names = {name.rsplit(".", 1)[-1] for name in PRIORS}
    assert names <= set(BASE.constants)
    assert len(PRIORS) == 21
