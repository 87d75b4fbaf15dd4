"""Plans under load: folding, faults, roles, the command, and input that is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from optimizer.cli import optimize
from optimizer.errors import OptimizerError, PlanError, SpecError
from optimizer.plan import Plan, load_plan, sealed, write_plan
from optimizer.simulate.faults import Death, Slow, gpu_name, read_deaths, read_slow
from optimizer.simulate.serving.arrivals import read_trace
from optimizer.simulate.serving.asked import asked_load
from optimizer.simulate.serving.serve import Conditions, serve
from optimizer.simulate.serving.steps import table_skew
from optimizer.simulate.serving.summary import summarize, summary_json
from optimizer.spec.workload import ServingWorkload

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"
DEEPSEEK = GOLDEN / "deepseek-v3-on-16-h200.json"
PIPELINE = GOLDEN / "llama-3.1-405b-on-22-h100.json"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(DEEPSEEK)


def _summary(plan: Plan, conditions: Conditions | None = None, **asked: Any) -> dict[str, Any]:
    return summarize(serve(plan, asked_load(plan, **asked), conditions or Conditions()))


def test_one_replica_stands_for_all_that_are_equal(plan: Plan) -> None:
    folded = _summary(plan, requests=8192, spread=0.0)
    healthy = Conditions(slow=(Slow("node0/gpu0", 1.0),))  # says nothing, but forbids to fold
    whole = _summary(plan, healthy, requests=8192, spread=0.0)
    assert (folded["each_stands_for"], whole["each_stands_for"]) == (2, 1)
    for name in ("finished", "tokens_per_s", "requests_per_s", "in_flight_mean", "steps"):
        assert folded[name] == pytest.approx(whole[name])
    for name in ("ttft_s", "tpot_s", "request_s"):
        assert folded[name] == pytest.approx(whole[name])


def test_a_straggler_slows_its_own_replica_alone(plan: Plan) -> None:
    asked = {"arrivals": "poisson", "rate": "4 req/s", "requests": 200}
    healthy = _summary(plan, **asked)
    slow = _summary(plan, Conditions(slow=(Slow("node1/gpu3", 0.5),)), **asked)
    assert slow["tpot_s"]["p99"] > 1.3 * healthy["tpot_s"]["p99"]
    assert slow["tpot_s"]["p50"] < 1.3 * healthy["tpot_s"]["p50"]


def test_skewed_experts_cost_time_where_experts_are_apart(plan: Plan) -> None:
    asked = {"arrivals": "poisson", "rate": "4 req/s", "requests": 100}
    even, skewed = _summary(plan, **asked), _summary(plan, Conditions(skew=2.0), **asked)
    assert skewed["tpot_s"]["mean"] > 1.02 * even["tpot_s"]["mean"]
    dense = load_plan(PIPELINE)
    asked["requests"] = 30
    assert _summary(dense, Conditions(skew=2.0), **asked) == _summary(dense, **asked)


def test_a_skew_that_the_table_holds_already_changes_nothing() -> None:
    """The cases of MoE models state no loads, so that their tables are even."""
    plan = load_plan(DEEPSEEK)
    assert table_skew(plan.model, plan.deployment) == pytest.approx(1.0)
    asked = {"arrivals": "poisson", "rate": "4 req/s", "requests": 50}
    assert _summary(plan, Conditions(skew=1.0), **asked) == _summary(plan, **asked)


def test_a_dying_gpu_sends_its_requests_elsewhere(plan: Plan) -> None:
    asked = {"arrivals": "poisson", "rate": "8 req/s", "requests": 300}
    healthy = _summary(plan, **asked)
    dying = _summary(plan, Conditions(deaths=(Death("node1/gpu5", 20.0),)), **asked)
    assert (dying["finished"], dying["lost"]) == (300, 0)
    assert dying["request_s"]["p99"] > healthy["request_s"]["p99"]


def test_where_no_replica_is_left_requests_are_lost(plan: Plan) -> None:
    deaths = (Death("node0/gpu0", 20.0), Death("node1/gpu0", 20.0))
    found = _summary(
        plan, Conditions(deaths=deaths), arrivals="poisson", rate="8 req/s", requests=300
    )
    assert found["finished"] + found["lost"] == 300
    assert found["lost"] > 200


def test_where_nothing_ever_ends_what_waited_is_still_counted(plan: Plan) -> None:
    deaths = (Death("node0/gpu0", 0.01), Death("node1/gpu0", 0.01))
    found = _summary(plan, Conditions(deaths=deaths), arrivals="burst", requests=20)
    assert (found["finished"], found["lost"], found["tokens_per_s"]) == (0, 20, 0.0)
    assert found["in_flight_mean"] <= 20


def test_an_idle_gpu_may_die_without_harm() -> None:
    plan = load_plan(PIPELINE)
    used = {gpu for gpus in plan.deployment.placement.rank_gpu for gpu in gpus}
    idle = next(g for d in plan.cluster.domains for g in d.gpus if g not in used)
    asked = {"arrivals": "burst", "requests": 20}
    found = _summary(plan, Conditions(deaths=(Death(idle, 1.0),)), **asked)
    assert found["notes"] == [f"{idle} is idle in this plan: that it dies changes nothing"]
    assert found["finished"] == 20


def _apart(plan: Plan) -> Plan:
    """The same plan with its two replicas as one that prefills and one that decodes."""
    deployment = plan.deployment
    halves = []
    for number, role in enumerate(("prefill", "decode")):
        placement = deployment.placement
        changed = placement.model_copy(update={"rank_gpu": (placement.rank_gpu[number],)})
        layout = deployment.layout.model_copy(update={"replicas": 1})
        phases = {role: deployment.phases[role]}
        halves.append(
            deployment.model_copy(
                update={"role": role, "placement": changed, "layout": layout, "phases": phases}
            )
        )
    return plan.model_copy(update={"deployments": tuple(halves)})


def test_disaggregated_prefill_leaves_decoding_alone(plan: Plan) -> None:
    """Apart, no prompt interrupts decoding, and the first answer waits for one prefill only."""
    asked = {"arrivals": "poisson", "rate": "2 req/s", "requests": 150}
    together, apart = _summary(plan, **asked), _summary(_apart(plan), **asked)
    assert apart["finished"] == 150
    assert apart["tpot_s"]["p99"] / apart["tpot_s"]["p50"] < 1.15
    assert apart["request_s"]["mean"] > apart["ttft_s"]["mean"] > 0
    assert together["finished"] == 150
    closed = _summary(_apart(plan), requests=300)
    assert closed["finished"] == 300


def test_a_prefill_deployment_alone_is_refused(plan: Plan) -> None:
    halves = _apart(plan)
    with pytest.raises(PlanError, match="needs a deployment that decodes"):
        _summary(halves.model_copy(update={"deployments": halves.deployments[:1]}))


def test_the_same_seed_gives_the_same_bytes(plan: Plan) -> None:
    asked = {"arrivals": "poisson", "rate": "8 req/s", "requests": 100, "spread": 0.2}
    texts = [summary_json(_summary(plan, seed=seed, **asked)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_pipeline_overlaps_its_micro_batches() -> None:
    """Four micro-batches on four stages: a token takes one round trip of a batch, not four."""
    found = _summary(load_plan(PIPELINE), arrivals="burst", requests=384)
    assert found["tpot_s"]["p50"] < 2 * load_plan(PIPELINE).predictions["tpot_s"].value


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(optimize, ["simulate", *arguments])


def test_the_command_writes_a_timeline_and_a_summary(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0.5,100,20\n0,300,5\n")
    out = tmp_path / "out"
    found = _run(str(DEEPSEEK), "--arrivals", str(trace), "--out", str(out))
    assert found.exit_code == 0, found.output
    assert "2 finished" in found.output
    summary = json.loads((out / "simulation.json").read_text())
    assert summary["load"] == {"arrivals": "trace", "clients": None, "requests": 2}
    events = json.loads((out / "timeline.json").read_text())
    kinds = {event["ph"] for event in events}
    assert kinds == {"M", "X", "C"}
    slices = [event for event in events if event["ph"] == "X"]
    assert sum(event["args"]["prompt tokens"] for event in slices) == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slow", "gpu99=0.8"], "no GPU 'gpu99'; its GPUs are node0/gpu0 ... node1/gpu7"),
        (["--slow", "gpu3=fast"], "write for example gpu3=0.8"),
        (["--slow", "gpu3=0"], "write for example gpu3=0.8"),
        (["--die", "node9/gpu0@1s"], "no GPU 'node9/gpu0'"),
        (["--die", "gpu3@soon"], "write for example gpu5@10s"),
        (["--arrivals", "poisson"], "--rate: is missing"),
        (["--rate", "fast"], "write for example '20 req/s'"),
        (["--arrivals", "closed", "--rate", "2 req/s"], "a closed loop sets its own rate"),
        (["--arrivals", "nowhere.csv"], "a CSV belongs here"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = _run(str(DEEPSEEK), *arguments, "--out", str(out))
    assert isinstance(found.exception, OptimizerError)
    assert message in str(found.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("time,input,output\n", "column missing: arrival_s, input_tokens, output_tokens"),
        ("arrival_s,input_tokens,output_tokens\n", "holds no request"),
        ("arrival_s,input_tokens,output_tokens\n0,5,5\n-1,5,5\n", ":3: arrival_s is -1"),
        ("arrival_s,input_tokens,output_tokens\nnan,5,5\n", ":2: arrival_s is nan"),
        ("arrival_s,input_tokens,output_tokens\n0,0,5\n", ":2: input_tokens is 0"),
        ("arrival_s,input_tokens,output_tokens\n0,5\n", ":2: needs seconds and two counts"),
    ],
)
def test_a_wrong_trace_is_refused_line_by_line(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(lines)
    with pytest.raises(SpecError, match=message):
        read_trace(path)


def test_a_request_that_never_fits_is_refused(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,90000000,5\n")
    with pytest.raises(SpecError, match="is longer than the cache of one rank"):
        serve(plan, read_trace(path))


def test_a_plan_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(DEEPSEEK.read_text().replace('"count": 58', '"count": 57', 1))
    found = _run(str(path), "--out", str(out))
    assert isinstance(found.exception, PlanError)
    assert "hash does not match" in str(found.exception)
    assert not out.exists()


def test_a_row_that_counts_other_layers_than_the_stages_is_named(plan: Plan) -> None:
    deployment = plan.deployment
    source = deployment.phases["decode"]
    first = source.rows[0].model_copy(update={"count": source.rows[0].count + 1})
    table = source.model_copy(update={"rows": (first, *source.rows[1:])})
    phases = {**deployment.phases, "decode": table}
    broken = plan.model_copy(
        update={"deployments": (deployment.model_copy(update={"phases": phases}),)}
    )
    with pytest.raises(PlanError, match=f"{re.escape(first.name)} stands for {first.count} runs"):
        serve(broken, asked_load(broken, requests=1))


def test_faults_are_read_by_name_or_by_count(plan: Plan) -> None:
    assert read_slow(["gpu11=0.8"], plan.cluster) == (Slow("node1/gpu3", 0.8),)
    assert read_deaths(["node1/gpu3@500ms"], plan.cluster) == (Death("node1/gpu3", 0.5),)
    degraded = load_plan(PIPELINE).cluster
    with pytest.raises(SpecError, match="dead in this cluster already"):
        gpu_name("node1/gpu3", degraded, "--slow")


TOLERANCE = {"tpot_s": 0.10, "tokens_per_s": 0.10, "latency_s": 0.01}


SERVED = sorted(path for path in GOLDEN.glob("*.json") if "trained" not in path.name)


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
def test_predictions_of_golden_plans_are_confirmed(path: Path) -> None:
    """The tolerances and the table of differences stand in the README. Lengths that are all equal
    keep the micro-batches of a pipeline in step, which no plan counts on."""
    plan = load_plan(path)
    forward = plan.deployment.role == "forward"
    spreads = [None] if forward or plan.deployment.layout.pp > 1 else [None, 0.0]
    for spread in spreads:
        beside = _summary(plan, spread=spread)["beside_the_plan"]
        assert beside.keys() & {"tpot_s", "latency_s"}
        for name in TOLERANCE.keys() & beside.keys():
            assert abs(beside[name]["difference"]) < TOLERANCE[name], (name, beside[name])
        if "ttft_s" in beside:  # ten turns of every client: the first of them all begin at once
            most = 0.25 if plan.name == "TP1" and spread is None else 0.20
            assert abs(beside["ttft_s"]["difference"]) < most, beside["ttft_s"]


def test_lengths_of_a_closed_loop_are_drawn_around_the_plans_own(plan: Plan) -> None:
    load = asked_load(plan)
    workload = plan.workload
    assert isinstance(workload, ServingWorkload)
    tokens = [request.input_tokens for request in load.requests]
    assert min(tokens) >= 0.8 * workload.input_len > 0.8 * 0.99 * min(tokens)
    assert sum(tokens) / len(tokens) == pytest.approx(workload.input_len, rel=0.01)
    assert load.planned
    assert {each.input_tokens for each in asked_load(plan, spread=0.0).requests} == {
        workload.input_len
    }


def test_drawn_lengths_stay_within_the_models_context(plan: Plan) -> None:
    workload = plan.workload
    assert isinstance(workload, ServingWorkload)
    model = plan.model.model_copy(update={"max_context": workload.input_len + workload.output_len})
    short = plan.model_copy(update={"model": model})
    assert serve(short, asked_load(short, requests=8)).record.lost == 0


def test_a_disaggregated_plan_runs_from_its_file(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(write_plan(sealed(_apart(plan))))
    found = _run(str(path), "--requests", "50", "--out", str(tmp_path / "out"))
    assert found.exit_code == 0, found.output
