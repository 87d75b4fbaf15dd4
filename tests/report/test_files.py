"""What a run writes for a person: table, guide, CSV, plot."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree

import pytest

from optimizer import Plans, optimize
from optimizer.report.files import ranked_csv, run_files, run_name
from optimizer.report.guide import guide
from optimizer.report.pareto import pareto_csv, pareto_svg, ticks
from optimizer.report.table import aligned, summary_text
from optimizer.spec.reading import read_job


@pytest.fixture(scope="module")
def plans() -> Plans:
    job = read_job("h200-sxm", "qwen3-235b-a22b", flags={"tpot": "60ms"}, gpus=7)
    return optimize(job.cluster, job.model, job.workload, top=3)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]


def test_the_terminal_says_why_a_gpu_stays_idle(plans: Plans) -> None:
    text = summary_text(plans)
    assert "1 of 7 GPUs idle" in text
    assert "gap 0.00%" in text
    assert plans.best.name in text


def test_the_guide_names_every_rank_and_its_gpu(plans: Plans) -> None:
    text = guide(plans)
    for replica in plans.best.deployment.placement.rank_gpu:
        for gpu in replica:
            assert gpu in text


def test_the_ranking_as_csv_has_a_row_a_plan_with_units(plans: Plans) -> None:
    rows = list(csv.DictReader(io.StringIO(ranked_csv(plans))))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["tpot_s"]) <= 0.06
    assert rows[1]["why"]


def test_the_front_is_written_as_csv_and_as_well_formed_svg(plans: Plans) -> None:
    assert plans.front is not None
    rows = list(csv.DictReader(io.StringIO(pareto_csv(plans.front))))
    assert len(rows) == len(plans.front)
    rates = [float(row["tokens_per_s"]) for row in rows if row["most_tokens_to_latency_s"]]
    assert rates == sorted(rates)
    picture = ElementTree.fromstring(pareto_svg(plans.front, "a < b"))
    assert picture.tag.endswith("svg")
    assert len(picture.findall(".//{*}circle")) >= len(rows)


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.9, 21) == [1, 2, 5, 10, 20]


def test_a_run_is_named_after_model_and_cluster(plans: Plans) -> None:
    best = plans.best
    assert run_name(best.model.name, best.cluster.name) == "qwen3-235b-a22b-on-h200-sxm"
    assert set(run_files(plans, [])) >= {"optimal_parallel_strategy.json", "pareto.svg"}
