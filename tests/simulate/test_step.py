"""Steps of golden plans, operator by operator: beside the planner, with faults, as a timeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from optimizer.cli import optimize
from optimizer.errors import OptimizerError, SpecError
from optimizer.plan import Plan, load_plan, sealed, write_plan
from optimizer.simulate.engine import run_graph
from optimizer.simulate.faults import Death, Slow
from optimizer.simulate.graph.build import Wanted, plan_graph
from optimizer.simulate.serving.serve import Conditions
from optimizer.simulate.step import StepRun, steps
from optimizer.simulate.step_summary import step_summary

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"
PLANS = sorted(path.name for path in GOLDEN.glob("*.json") if load_plan(path).deployment.phases)
DEEPSEEK = GOLDEN / "deepseek-v3-on-16-h200.json"
TOLERANCE = 0.03  # the two sides derive collectives apart; all else is the plan's own table


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(DEEPSEEK)


def phase(plan: Plan, name: str, conditions: Conditions | None = None) -> StepRun:
    return next(s for s in steps(plan, conditions or Conditions()) if s.phase == name)


@pytest.mark.parametrize("name", PLANS)
def test_steps_take_what_the_planner_predicts(name: str) -> None:
    """Time within the tolerance; memory within what was planned; every second accounted for."""
    for step in steps(load_plan(GOLDEN / name)):
        assert step.step_s == pytest.approx(step.planned_s, rel=TOLERANCE)
        length = step.run.seconds
        times = step.ranks
        assert times.compute_s + times.exposed_s + times.idle_s == pytest.approx(
            np.full(len(times.idle_s), length)
        )
        peak = step.memory.peak_bytes.max()
        assert 0 < peak <= step.deployment.memory.fullest_bytes - step.static_bytes


def test_equal_ranks_run_like_the_one_that_stands_for_them(plan: Plan) -> None:
    for wanted in (Wanted(("decode",)), Wanted(("prefill",))):
        folded = run_graph(plan_graph(plan, wanted))
        whole = run_graph(plan_graph(plan, wanted._replace(all_ranks=True)))
        assert folded.seconds == pytest.approx(whole.seconds)


def test_all_wait_for_a_straggler(plan: Plan) -> None:
    """One of eight ranks computes at 0.8: its 1/0.8 of compute paces all, the others idle."""
    healthy = phase(plan, "decode")
    slow = phase(plan, "decode", Conditions(slow=(Slow("node0/gpu3", 0.8),)))
    compute = healthy.ranks.compute_s[0] / 3  # of three turns
    assert slow.step_s - healthy.step_s == pytest.approx(compute / 4, rel=0.01)
    assert slow.ranks.idle_s.argmin() == 3
    assert (np.delete(slow.ranks.idle_s, 3) > 0.1 * slow.run.seconds).all()


def test_a_faster_speed_is_never_slower(plan: Plan) -> None:
    found = [
        phase(plan, "decode", Conditions(slow=(Slow("node1/gpu0", speed),))).step_s
        for speed in (0.5, 1.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(phase(plan, "decode").step_s)


def test_skewed_experts_make_the_hot_rank_pace_the_others(plan: Plan) -> None:
    even, skewed = phase(plan, "prefill"), phase(plan, "prefill", Conditions(skew=2.0))
    assert skewed.step_s > 1.1 * even.step_s
    assert skewed.ranks.idle_s.argmin() == 0
    with pytest.raises(SpecError, match="more than all of 8 expert ranks"):
        steps(plan, Conditions(skew=9.0))


def test_a_dying_gpu_stops_its_replica_and_says_where(plan: Plan) -> None:
    step = phase(plan, "decode", Conditions(deaths=(Death("node0/gpu3", 0.02),)))
    found = step_summary(step)
    assert found["step_s"] is None
    waits = found["stopped"]["waits_for"]
    assert len(waits) == 8
    assert {text.split(",")[1] for text in waits.values()} == {waits["node0/gpu0"].split(",")[1]}
    assert found["stopped"]["micro_batches_done"] == 0
    assert found["simulated_seconds"] >= 0.02


def run(*arguments: object) -> Result:
    return CliRunner().invoke(optimize, ["simulate", *map(str, arguments)])


def test_the_command_writes_timelines_that_sum_up(tmp_path: Path, plan: Plan) -> None:
    found = run(DEEPSEEK, "--step", "--out", tmp_path, "--json")
    assert found.exit_code == 0, found.output
    summary = json.loads((tmp_path / "steps.json").read_text())
    assert json.loads(found.output) == summary
    events = json.loads((tmp_path / "timeline-decode.json").read_text())
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    tracks = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"compute", "collectives", "transfers"} < tracks
    compute = sum(e["dur"] for e in events if e["ph"] == "X" and e["tid"] == 0) / 1e6
    step = next(each for each in summary["steps"] if each["phase"] == "decode")
    rank = step["ranks"][0]
    assert rank["stands_for"] == 16
    assert compute == pytest.approx(rank["compute_share"] * step["simulated_seconds"])
    peak = max(event["args"]["bytes"] for event in events if event["ph"] == "C")
    assert peak == rank["transient_peak_bytes"]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        assert (
            run(DEEPSEEK, "--step", "--slow", "gpu3=0.8", "--out", tmp_path / name).exit_code == 0
        )
        files = sorted((tmp_path / name).iterdir())
        texts.append([(file.name, file.read_bytes()) for file in files])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slow", "gpu99=0.8"], "no GPU 'gpu99'"),
        (["--arrivals", "poisson"], "--arrivals: belongs to a load"),
        (["--skew", "100"], "more than all of 8 expert ranks"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = run(DEEPSEEK, "--step", *arguments, "--out", out)
    assert isinstance(found.exception, OptimizerError)
    assert message in str(found.exception)
    assert not out.exists()


@pytest.mark.parametrize("command", [["simulate", "--step"], ["dag"]])
def test_a_plan_without_an_operator_table_is_refused(command: list[str], tmp_path: Path) -> None:
    plan = load_plan(DEEPSEEK)
    bare = plan.deployments[0].model_copy(update={"phases": {}})
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(write_plan(sealed(plan.model_copy(update={"deployments": (bare,)}))))
    found = CliRunner().invoke(optimize, [*command, str(path), "--out", str(out)])
    assert isinstance(found.exception, OptimizerError)
    assert "no operator table" in str(found.exception)
    assert not out.exists()
