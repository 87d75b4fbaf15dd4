"""What a reader gets of a training run: table, guide, CSV, comparisons, and refusals."""

from __future__ import annotations

import pytest
from training_instances import cluster, model, workload

from optimizer.errors import SpecError
from optimizer.explaining import why
from optimizer.export.megatron import chunk_letters, megatron_arguments
from optimizer.pipeline import optimize, verify
from optimizer.plan import Plans
from optimizer.repairing import Job, price_remedies, refuse, render
from optimizer.report.files import run_files
from optimizer.report.table import summary_text

PLACE, SMALL = cluster((4,), "1.4 GB"), model(8)
LOAD = workload(8, micro_batch=1, max_context_parallel=1, recompute=["none", "full"])


@pytest.fixture(scope="module")
def plans() -> Plans:
    return optimize(PLACE, SMALL, LOAD, top=3)


def test_the_table_shows_steps_and_what_they_go_to(plans: Plans) -> None:
    text = summary_text(plans)
    for words in ("micro-batches", "MFU", "step", "backward", "recompute", "given to the solver"):
        assert words in text
    assert "solved by layer" in text


def test_the_files_of_a_run_name_megatrons_arguments(plans: Plans) -> None:
    files = run_files(plans, verify(plans))
    assert "--global-batch-size 8" in files["implementation_guide.md"]
    assert files["ranked_strategies.csv"].splitlines()[0].startswith("rank,name,gpus")
    assert "mfu" in files["ranked_strategies.csv"].splitlines()[0]


def test_a_pipeline_is_written_in_megatrons_letters() -> None:
    plan = optimize(PLACE, SMALL, LOAD, strategy="PP4").best
    training = plan.deployment.training
    assert training is not None
    letters = chunk_letters(training)
    assert letters.count("t") == 8
    assert (letters[0], letters[-1], letters.count("|")) == ("E", "L", 3)
    flags = megatron_arguments(plan)
    assert f'--pipeline-model-parallel-layout "{letters}"' in flags
    assert "--pipeline-model-parallel-size 4" in flags


def test_why_says_what_a_layouts_seconds_go_to() -> None:
    winner = optimize(PLACE, SMALL, LOAD, top=1).best
    named = "PP4" if winner.name != "PP4" else "TP4"
    text = why(PLACE, SMALL, LOAD, named).text()
    assert "training step" in text
    assert "bandwidth inside a node" in text


def test_a_batch_that_no_rank_divides_is_refused_with_repairs() -> None:
    refusal = refuse(Job(PLACE, SMALL, LOAD, "DP3"))
    (problem,) = refusal.problems
    assert problem == "global batch 8 cannot be cut by dp 3; the nearest that can: 2 and 4"
    assert refusal.repairs
    assert "global batch 8 -> " in render(refusal)


def test_too_little_memory_is_refused_with_repairs() -> None:
    refusal = refuse(Job(cluster((2,), "0.9 GB"), SMALL, LOAD))
    assert [limit.limit for limit in refusal.conflicts[0].limits] == ["memory"]
    assert any("more GPU" in repair.text for repair in refusal.repairs)


def test_remedies_of_inference_are_not_priced_for_training() -> None:
    with pytest.raises(SpecError, match="remedies are of inference"):
        price_remedies(Job(PLACE, SMALL, LOAD), ["recompute"])
