"""What the terminal shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.pipeline import optimize
from optimizer.plan import Plan
from optimizer.report.table import assumption_lines, summary_text, tightest
from optimizer.spec.reading import read_job
from optimizer.units import figure


@pytest.fixture(scope="module")
def plan() -> Plan:
    job = read_job("h100-sxm", "llama-3.1-8b", flags={"tpot": "20 ms"}, gpus=2)
    return optimize(job.cluster, job.model, job.workload, top=1).best


def test_figures_have_no_exponents() -> None:
    assert [figure(value) for value in (23_762_873.4, 19_118.84, 0.25)] == [
        "23,762,873",
        "19,118.8",
        "0.25",
    ]
    assert figure(13_436.6, 4) == "13,437"


def test_the_limit_that_stops_a_plan_is_named_before_the_number_of_gpus(plan: Plan) -> None:
    limits = {limit.name: limit for limit in plan.limits}
    assert limits["GPUs"].slack == 0
    assert limits["tpot"].need >= 0.9 * limits["tpot"].limit
    assert tightest(plan).startswith("tpot (9")


def test_assumed_bytes_are_told_in_gib(plan: Plan) -> None:
    (line,) = [each for each in assumption_lines(plan).split("\n") if "runtime_reserve" in each]
    assert " 3.5 GiB " in line


def test_what_the_reader_of_a_config_leaves_out_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        '{"model_type": "novel", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128, '
        '"num_attention_heads": 4, "intermediate_size": 128}'
    )
    job = read_job("l4", config, flags={"concurrency": 1}, gpus=1)
    text = summary_text(optimize(job.cluster, job.model, job.workload, top=1))
    assert "model_type 'novel' is not known: read by its fields alone" in text
