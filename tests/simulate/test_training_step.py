"""Training plans: the step's graph, its run against the plan, slow and dying GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from optimizer.cli import optimize
from optimizer.plan import Plan, load_plan
from optimizer.simulate.faults import read_deaths, read_slow
from optimizer.simulate.serving.serve import Conditions
from optimizer.simulate.step import steps
from optimizer.simulate.training_step import step_graph, training_of

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"
TRAINED = sorted(GOLDEN.glob("*trained*.json"))


@pytest.fixture(scope="module")
def pipeline() -> Plan:
    return load_plan(GOLDEN / "gpt3-175b-trained-on-512-a100.json")


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_a_step_takes_what_the_plan_says(path: Path) -> None:
    """Messages between stages are derived here, the rest of the bubble by running the schedule."""
    plan = load_plan(path)
    (run,) = steps(plan)
    assert run.phase == "training"
    assert run.step_s == pytest.approx(plan.predictions["step_s"].value, rel=0.02)


def test_no_stage_keeps_more_than_the_plan_says(pipeline: Plan) -> None:
    """Activations are kept from each forward pass to its backward, and messages until their pass:
    no stage takes more than planned, and where every layer keeps the same, as much."""
    (run,) = steps(pipeline)
    planned = [each.components["activations"] for each in pipeline.deployments[0].memory.stages]
    held = run.memory.peak_bytes.tolist()
    for most, found in zip(planned, held, strict=True):
        assert 0.9 * most < found < 1.005 * most
    assert max(held) == pytest.approx(max(planned), rel=0.005)


def test_every_micro_batch_passes_every_chunk_both_ways(pipeline: Plan) -> None:
    graph, training = step_graph(pipeline, 0), training_of(pipeline.deployments[0])
    names = [graph.operations[operation].name for operation in graph.operation.tolist()]
    due = len(training.chunks) * training.micro_batches
    assert names.count("forward") == names.count("backward") == due
    hops = (len(training.chunks) - 1) * training.micro_batches * 2
    assert names.count("stage_send") == hops  # every boundary, forwards and backwards


def test_no_step_is_shorter_than_the_busiest_stage(pipeline: Plan) -> None:
    (run,) = steps(pipeline)
    training = training_of(pipeline.deployments[0])
    busiest = max(
        sum(each.forward_s + each.backward_s for each in training.chunks if each.stage == stage)
        for stage in range(pipeline.deployments[0].layout.pp)
    )
    assert run.step_s > busiest * training.micro_batches


def test_one_slow_gpu_slows_the_whole_step(pipeline: Plan) -> None:
    (healthy,) = steps(pipeline)
    slow = Conditions(read_slow(["gpu3=0.5"], pipeline.cluster))
    (hurt,) = steps(pipeline, slow)
    assert 1.5 * healthy.step_s < hurt.step_s < 2.1 * healthy.step_s


def test_a_dying_gpu_stops_the_step(pipeline: Plan) -> None:
    faults = Conditions((), read_deaths(["gpu3@1s"], pipeline.cluster))
    (run,) = steps(pipeline, faults)
    assert not run.run.complete


@pytest.mark.parametrize("kind", ["json", "graphml", "dot", "svg"])
def test_a_step_is_written_as_a_graph(kind: str, tmp_path: Path) -> None:
    out = tmp_path / f"dag.{kind}"
    plan = str(GOLDEN / "gpt3-175b-trained-on-512-a100.json")
    done = CliRunner().invoke(optimize, ["dag", plan, "--format", kind, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.stat().st_size > 10_000


def test_a_training_plan_is_simulated_by_its_step(tmp_path: Path) -> None:
    plan = str(GOLDEN / "case-e-trained.json")
    done = CliRunner().invoke(optimize, ["simulate", plan, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "training step of EP16-TP2-DP8" in done.output
    refused = CliRunner().invoke(optimize, ["simulate", plan, "--arrivals", "poisson"])
    assert "--arrivals" in str(refused.exception)
