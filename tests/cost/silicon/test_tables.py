"""Measured operators as pricers; what needs the tables is skipped where the extra is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from optimizer import optimize
from optimizer.cli import optimize as command
from optimizer.cost.calibration import load_calibration
from optimizer.cost.demand import Device, Timed
from optimizer.cost.fitting import predict
from optimizer.cost.pricers import PRICERS, asks, operator_seconds
from optimizer.cost.silicon import tables, with_tables
from optimizer.errors import SpecError
from optimizer.evaluation import evaluate, measured_runs
from optimizer.operators import Operator
from optimizer.operators.operator import collective
from optimizer.spec.reading import read_cluster, read_job

SILICON = load_calibration("silicon")
CONSTANTS = SILICON.constants_of("vllm", "hopper")
H200 = Device.of(read_cluster("h200-sxm"), 0)
needs_tables = pytest.mark.skipif(
    tables.systems_root() is None, reason=f"the extra is missing: {tables.INSTALL}"
)


def product(m: float, n: float, k: float, kind: str = "gemm") -> Operator:
    flops, moved = np.array([2 * m * n * k]), np.array([2 * (m * n + m * k + n * k)])
    sizes = (np.array([size]) for size in (m, n, k))
    return Operator("product", "ffn", kind, flops, moved, "bf16", 1.0, *sizes)


def rows(**changes: object) -> pd.DataFrame:
    plain = {
        "model": "qwen3-32b",
        "hardware": "h200-sxm",
        "engine": "vllm",
        "precision": "bf16",
        "input_len": 1024,
        "output_len": 1024,
        "concurrency": 16,
        "tp": 4,
        "measured_ttft_ms": 100.0,
        "measured_tpot_ms": 10.0,
    }
    return pd.DataFrame([{**plain, **changes}])


def test_a_timed_operator_costs_its_seconds_and_what_timing_it_alone_leaves_out() -> None:
    timed = Timed(*(np.array([value]) for value in (1.0, 1.0, 2.0, 0.0, 1.0)))
    constants = CONSTANTS._replace(gap_s=0.25, meeting_s=0.125)
    assert PRICERS["measured"](timed, constants) == 1.5


def test_where_a_table_knows_nothing_the_roofline_prices() -> None:
    operator = product(16.0, 4096.0, 4096.0)
    nothing = Timed(*(np.array([value]) for value in (9.0, 1.0, 0.0, 0.0, 0.0)))
    device = H200._replace(timers={"gemm": lambda _: nothing})
    plain = operator_seconds(operator, H200, CONSTANTS)
    assert operator_seconds(operator, device, CONSTANTS) == plain
    absent = H200._replace(timers={"gemm": lambda _: None})
    assert operator_seconds(operator, absent, CONSTANTS) == plain


def test_without_the_extra_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "PACKAGE", "no_such_package_of_tables")
    rows().to_csv(tmp_path / "rows.csv", index=False)
    asked = ["evaluate", str(tmp_path / "rows.csv"), "--silicon", "--out", str(tmp_path / "o.csv")]
    error = CliRunner().invoke(command, asked).exception
    assert isinstance(error, SpecError)
    assert "pip install 'parallel-strategy-optimizer[silicon]'" in str(error)
    assert not (tmp_path / "o.csv").exists()


def test_without_tables_a_row_is_priced_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PACKAGE", "no_such_package_of_tables")
    assert evaluate(rows())["predicted_tpot_ms"].notna().all()


@needs_tables
def test_a_measured_product_takes_what_the_table_says() -> None:
    table = tables.measured_rows("H200 SXM", tables.Source("sglang"), "gemm_perf")
    assert table is not None
    some = table[(table["format"] == "bfloat16") & (table["m"] == 128) & (table["n"] == 4096)]
    k = float(some["k"].max())
    engines = [
        tables.measured_rows("H200 SXM", tables.Source(engine), "gemm_perf")
        for engine in tables.ENGINES
    ]
    fastest = min(
        same["seconds"].min()
        for each in engines
        if each is not None
        and len(
            same := each[
                (each[["m", "n", "k"]] == [128, 4096, k]).all(axis=1)
                & (each["format"] == "bfloat16")
            ]
        )
    )
    device = with_tables(H200, "sglang", ["gemm"])
    first, _ = asks(product(128.0, 4096.0, k), device)
    assert first.demand.seconds == pytest.approx(fastest)
    assert first.demand.label == 0


@needs_tables
def test_other_gpus_and_kinds_without_a_table_keep_the_roofline() -> None:
    amd = Device.of(read_cluster("mi300x"), 0)
    operator = product(16.0, 4096.0, 4096.0)
    assert len(asks(operator, with_tables(amd, "vllm", ["gemm"]))) == 1
    grouped = product(16.0, 4096.0, 4096.0, "grouped_gemm")
    assert len(asks(grouped, with_tables(H200, "vllm", SILICON.tables))) == 1
    unnamed = replace(operator, format="int8")
    assert len(asks(unnamed, with_tables(H200, "vllm", ["gemm"]))) == 1


@needs_tables
def test_only_a_one_shot_all_reduce_inside_a_domain_is_looked_up() -> None:
    device = with_tables(H200, "vllm", ["all_reduce"])
    payload = np.array([65536.0, 65536.0, 2.0**26, 65536.0])
    ranks, inside = np.array([8.0, 16.0, 8.0, 6.0]), np.array([8.0, 8.0, 8.0, 6.0])
    first, rest = asks(collective("c", "all_reduce", "tp", payload, ranks, inside), device)
    assert first.share.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rest.share.tolist() == [0.0, 1.0, 1.0, 1.0]


@needs_tables
def test_evaluate_says_what_share_of_a_step_was_measured() -> None:
    found = evaluate(rows(), SILICON)
    shares = [found[f"decode_{label}_share"][0] for label in ("measured", "interpolated")]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) > 0.5  # a dense model at moderate load is mostly products
    roofline = evaluate(rows(hardware="mi300x"), SILICON)
    assert roofline["decode_measured_share"][0] == 0.0


@needs_tables
def test_the_fit_and_evaluate_price_measured_operators_alike() -> None:
    table = pd.concat([rows(), rows(engine="sglang", tp=8), rows(hardware="b200-sxm", tp=2)])
    table = table.reset_index(drop=True)
    times = predict(measured_runs(table, SILICON).prepared, SILICON)
    found = evaluate(table, SILICON)
    assert times.tpot_s * 1e3 == pytest.approx(found["predicted_tpot_ms"].to_numpy(), rel=1e-12)


@needs_tables
def test_a_plan_names_its_tables_and_is_the_same_every_time() -> None:
    job = read_job("h200-sxm", "llama-3.1-8b", None, {}, 8)
    plans = [
        optimize(job.cluster, job.model, job.workload, top=1, calibration=SILICON).best
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    assert plans[0].provenance.calibration == "silicon"
    timed = {
        row.timed
        for phase in plans[0].deployment.phases.values()
        for row in phase.rows
        if row.timed
    }
    assert any("measured" in each or "interpolated" in each for each in timed)
