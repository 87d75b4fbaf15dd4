"""`optimize --modes`: prefill and decode together or apart, in one pool or several."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer import Answers, Plan, optimize
from optimizer.answering import read_modes
from optimizer.cli import optimize as command
from optimizer.cost.rows import expand
from optimizer.cost.serving import sustained
from optimizer.errors import InfeasibleError, PlanError, SpecError
from optimizer.fleets import plan_fleet, verify_answers
from optimizer.fleets.composing import fleet_of
from optimizer.fleets.roles import role_workload, short_queues
from optimizer.layout import enumerate_layouts
from optimizer.pipeline import price
from optimizer.plan import load_plan
from optimizer.plan.fleet import FleetPlan
from optimizer.report.answers import answers_csv, answers_guide, answers_text
from optimizer.spec.fleet import Fleet, Mode, Role
from optimizer.spec.reading import read_cluster, read_job, read_model
from optimizer.spec.workload import ServingWorkload
from optimizer.verify.fleet import verify_document

BOTH: tuple[Mode, Mode] = ("aggregated", "disaggregated")
LONG = {"input_len": 4096, "output_len": 512, "ttft": "2 s", "tpot": "30 ms"}
SHORT = {"input_len": 128, "output_len": 512, "ttft": "2 s", "tpot": "100 ms"}
POOLS = """
name: two pools
pools:
  - {preset: h200-sxm, name: h200, nodes: 1}
  - {preset: h100-sxm, name: h100, nodes: 2}
"""


def answers(
    flags: dict[str, Any],
    modes: tuple[Mode, ...] = BOTH,
    hardware: str = "h200-sxm",
    gpus: int | None = 32,
    model: str = "deepseek-v3",
    **options: Any,
) -> Answers:
    job = read_job(hardware, model, flags=flags, gpus=gpus)
    return optimize(job.cluster, job.model, job.workload, modes=modes, **options)


@pytest.fixture(scope="module")
def found() -> Answers:
    return answers(LONG)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    path = tmp_path_factory.mktemp("pools") / "hardware.yaml"
    path.write_text(POOLS)
    return answers(LONG | {"tpot": "40 ms"}, hardware=str(path), gpus=None, model="qwen3-32b")


def test_long_prompts_under_a_tight_tpot_are_served_apart(found: Answers) -> None:
    best = found.best
    assert best.mode == "disaggregated"
    assert isinstance(best.document, FleetPlan)
    together = next(answer for answer in found.answers if answer.mode == "aggregated")
    assert isinstance(together.document, Plan)
    assert "fewer requests/s" in together.why
    assert "tpot" in together.limited_by


def test_short_prompts_are_served_together() -> None:
    short = answers(SHORT)
    assert short.best.mode == "aggregated"
    assert isinstance(short.best.document, Plan)
    assert "disaggregated" in [answer.mode for answer in short.answers]
    assert any("disaggregated prefill" in note for note in short.best.document.notes)


def test_every_answer_is_verified_and_keeps_its_limits(found: Answers, pools: Answers) -> None:
    for ranked, tpot_s in ((found, 0.030), (pools, 0.040)):
        assert [finding for finding in verify_answers(ranked) if not finding.ok] == []
        assert ranked.proof.status == "OPTIMAL"
        assert ranked.proof.value == ranked.proof.bound
        rates = [answer.requests_per_s for answer in ranked.answers]
        assert rates[0] == max(rates)
        for answer in ranked.answers:
            assert answer.ttft_s <= 2.0
            assert answer.tpot_s <= tpot_s


def test_rates_are_matched_by_hand(found: Answers) -> None:
    """Each role holds peak slots, n + 2 sqrt(n) for n in flight; the scarcer role's rate is the
    answer's, and tokens/s are its requests times 512."""
    best = found.best
    capacity = {}
    for share in best.shares:
        batch, layout = share.plan.deployment.batch, share.plan.deployment.layout
        slots = batch.sequences_per_rank * layout.dp * layout.replicas
        capacity[share.role] = share.capacity_per_s
        request_s = share.plan.predictions["request_s"].value
        assert share.capacity_per_s >= sustained(slots) / request_s * (1 - 1e-9)
        in_flight = share.requests_per_s * request_s
        assert in_flight + 2 * in_flight**0.5 <= slots * (1 + 1e-9)
    assert best.requests_per_s == pytest.approx(min(capacity.values()))
    assert {share.requests_per_s for share in best.shares} == {best.requests_per_s}
    assert best.tokens_per_s == pytest.approx(512 * best.requests_per_s)
    moved_s = 61 * 4096 * 576 * 2 / 50e9 + 10e-6
    (first,) = best.of("prefill")
    assert best.ttft_s == pytest.approx(first.plan.predictions["ttft_s"].value + moved_s)


@pytest.mark.parametrize("model", ["qwen3-8b", "gpt-oss-120b"])
def test_both_modes_are_brute_forces_over_every_priced_row(model: str) -> None:
    """On one node of four: every replica size, number of replicas and row of each role."""
    flags = LONG | {"tpot": "20 ms"}
    job = read_job("h100-sxm", model, flags=flags, gpus=4)
    assert isinstance(job.workload, ServingWorkload)
    fleet = fleet_of(job.cluster, job.model, job.workload, BOTH, 1.0, "served")
    best = {role: every_rate(fleet, role) for role in ("serving", "prefill", "decode")}
    together = max(rate for gpus, rate in best["serving"].items() if gpus <= 4)
    apart = max(min(best["prefill"][first], best["decode"][4 - first]) for first in range(1, 4))
    ranked = answers(flags, gpus=4, hardware="h100-sxm", model=model)
    found = {answer.mode: answer for answer in reversed(ranked.answers)}
    assert found["aggregated"].requests_per_s == pytest.approx(together, rel=1e-5)
    assert found["disaggregated"].requests_per_s == pytest.approx(apart, rel=1e-5)
    assert ranked.best is found["aggregated" if together > apart else "disaggregated"]


def every_rate(fleet: Fleet, role: Role) -> dict[int, float]:
    """The highest rate of one layout in so many GPUs at most."""
    (demand,) = fleet.demands
    workload = role_workload(fleet.cluster, demand, role)
    assert workload is not None
    space = enumerate_layouts(fleet.cluster, 0, demand.model, workload)
    rows_of = short_queues if role == "prefill" else expand
    rows = price(fleet.cluster, demand.model, workload, [space], rows_of=rows_of).candidates
    able = rows.take(rows.broken() == 0)
    found = dict.fromkeys(range(1, 5), 0.0)
    for size, slots, request_s in zip(
        able.gpus_per_replica.tolist(), able.concurrency, able.latency_s, strict=True
    ):
        for many in range(1, 4 // size + 1):
            rate = sustained(float(slots) * many) / float(request_s)
            for gpus in range(size * many, 5):
                found[gpus] = max(found[gpus], rate)
    return found


def test_with_a_rate_the_fewest_gpus_are_those_of_the_fleet() -> None:
    flags = LONG | {"request_rate": "5 req/s"}
    ranked = answers(flags, objective="gpus")
    job = read_job("h200-sxm", "deepseek-v3", flags=flags, gpus=32)
    fleet = plan_fleet(fleet_of(job.cluster, job.model, job.workload, BOTH, 5.0, "gpus"))
    assert ranked.best.gpus == fleet.gpus == ranked.proof.value
    assert all(answer.requests_per_s == pytest.approx(5.0) for answer in ranked.answers)
    gpus = [answer.gpus for answer in ranked.answers[:5]]
    assert gpus == sorted(gpus)


def test_the_highest_rate_is_one_that_the_fleet_can_be_asked_for(found: Answers) -> None:
    """Asked for that rate the same GPUs serve it; asked for 1 % more they do not."""
    rate = found.best.requests_per_s
    assert answers(LONG | {"request_rate": f"{rate * 0.9999:.6f} req/s"}).best.gpus <= 32
    with pytest.raises(InfeasibleError, match="at most from one layout"):
        answers(LONG | {"request_rate": f"{rate * 1.01:.6f} req/s"})


def test_an_aggregated_winner_is_the_plan_that_the_main_search_finds_at_its_rate() -> None:
    best = answers(SHORT, ("aggregated",)).best
    assert isinstance(best.document, Plan)
    flags = SHORT | {"request_rate": f"{best.requests_per_s!r} req/s"}
    job = read_job("h200-sxm", "deepseek-v3", flags=flags, gpus=32)
    assert optimize(job.cluster, job.model, job.workload, top=1).best.name == best.document.name


def test_pools_share_the_work(pools: Answers) -> None:
    """Prefill in one pool and decode in another, or aggregated serving side by side."""
    best = pools.best
    assert isinstance(best.document, FleetPlan)
    assert len({share.pool for share in best.shares}) == 2
    beside = next(answer for answer in pools.answers if answer.mode == "aggregated")
    assert {share.pool for share in beside.shares} == {"h200", "h100"}
    assert " on h200, " in beside.name
    assert beside.requests_per_s == pytest.approx(
        sum(share.requests_per_s for share in beside.shares)
    )


def test_replicas_that_span_pools_stand_in_the_same_ranking(tmp_path: Path) -> None:
    """281 GB of weights on four GPUs of 80 GB leave a pool little room for caches: one replica over
    both pools holds many times the requests of a replica in each."""
    path = tmp_path / "pools.yaml"
    path.write_text(
        "name: small\npools: [{preset: h100-sxm, name: a, node_sizes: [4]}, "
        "{preset: h100-sxm, name: b, node_sizes: [4]}]\n"
    )
    flags = {"input_len": 2048, "output_len": 512}
    ranked = answers(flags, ("aggregated",), str(path), None, "mixtral-8x22b", top=2)
    best, second = ranked.answers
    assert isinstance(best.document, Plan)
    assert best.document.deployment.shares is not None
    assert best.name.endswith((" on a and b", " on b and a"))
    assert {share.pool for share in second.shares} == {"a", "b"}
    assert all(finding.ok for finding in verify_answers(ranked))
    assert any("span pools" in note for note in ranked.notes)


def test_more_gpus_never_serve_less() -> None:
    few, many = (answers(LONG, gpus=gpus, top=1).best.requests_per_s for gpus in (32, 48))
    assert many >= few


def test_a_mode_without_an_answer_is_named_beside_the_one_that_has_one() -> None:
    """One replica of DeepSeek-V3 takes eight H200s, or seven as a pipeline: two do not fit."""
    ranked = answers(SHORT, gpus=8)
    assert {answer.mode for answer in ranked.answers} == {"aggregated"}
    (note,) = (note for note in ranked.notes if note.startswith("disaggregated: "))
    assert "10 GPUs at least for both" in note
    assert isinstance(ranked.best.document, Plan)
    assert note in ranked.best.document.notes


def test_no_way_to_serve_says_what_each_mode_lacks() -> None:
    with pytest.raises(InfeasibleError) as caught:
        answers(LONG | {"tpot": "1 ms"})
    reasons = "; ".join(caught.value.reasons)
    assert "aggregated: serving finds no replica" in reasons
    assert "decode finds no replica" in reasons


@pytest.mark.parametrize(
    ("flags", "options", "says"),
    [
        (LONG | {"concurrency": 64}, {}, "fixed concurrency"),
        ({"batch": 8, "seq_len": 128}, {}, "forward"),
        (LONG, {"objective": "latency"}, "throughput or gpus"),
        (LONG, {"objective": "balanced"}, "throughput or gpus"),
        (LONG, {"objective": "gpus"}, "request_rate, such as 20 req/s"),
        (LONG, {"strategy": "EP8"}, "leave out strategy or modes"),
    ],
)
def test_what_has_no_sound_meaning_is_refused(
    flags: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        answers(flags, **options)


def test_modes_are_read_by_the_words_of_fleet_files() -> None:
    assert read_modes("aggregated, disaggregated") == BOTH
    assert read_modes("disaggregated,disaggregated") == ("disaggregated",)
    with pytest.raises(SpecError, match="not 'apart'"):
        read_modes("apart")


def test_what_a_reader_gets(found: Answers, pools: Answers) -> None:
    for ranked in (found, pools):
        text, guide = answers_text(ranked), answers_guide(ranked)
        rows = list(csv.DictReader(io.StringIO(answers_csv(ranked))))
        assert len(rows) == len(ranked.answers) == len(ranked.frame())
        for row, answer in zip(rows, ranked.answers, strict=True):
            assert answer.name in text
            assert float(row["tokens_per_s"]) == pytest.approx(512 * float(row["requests_per_s"]))
            assert int(row["gpus"]) == answer.gpus
        for share in ranked.best.shares:
            assert f"## {share.role.capitalize()}: {share.plan.name}" in guide
            for replica in share.plan.deployment.placement.rank_gpu[:4]:
                assert all(gpu in guide for gpu in replica)
        assert "--disaggregation-mode prefill" in guide


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments)


def test_the_command_writes_what_verify_and_simulate_read(tmp_path: Path) -> None:
    words = "--hardware h200-sxm --gpus 32 --model deepseek-v3 --input-len 4096 --output-len 512"
    asked = [*words.split(), "--ttft", "2s", "--tpot", "30ms", "--modes", ",".join(BOTH)]
    done = run(*asked, "--top", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "why the others lost" in done.output
    plan = tmp_path / "optimal_parallel_strategy.json"
    verified = [sys.executable, "-I", "-S", str(tmp_path / "verify_strategy.py"), str(plan)]
    assert subprocess.run(verified, capture_output=True, check=False).returncode == 0
    simulated = run("simulate", str(plan), "--requests", "200", "--out", str(tmp_path / "run"))
    assert "200 finished" in simulated.output
    with pytest.raises(PlanError, match="several plans side by side"):
        load_plan(plan)
    assert read_cluster(plan).num_live_gpus == 32
    with pytest.raises(SpecError, match="name the model itself"):
        read_model(plan)
    document = json.loads(plan.read_text())
    document["served"][0]["served_per_s"] *= 1.1
    plan.write_text(json.dumps(document))
    assert subprocess.run(verified, capture_output=True, check=False).returncode == 4


@pytest.mark.parametrize(
    "option", [("--strategy", "EP8"), ("--survive", "gpu"), ("--explain", "2")]
)
def test_options_of_one_layout_do_not_go_with_modes(option: tuple[str, str]) -> None:
    done = run("--hardware", "h200-sxm", "--model", "qwen3-8b", "--modes", "aggregated", *option)
    assert "leave out it or --modes" in done.output


@pytest.mark.parametrize("what", ["parts", "plans", "served", "proof", "cluster"])
@pytest.mark.parametrize("value", [[5], {}, None])
def test_verify_reads_any_broken_answer_and_finds_it(
    found: Answers, what: str, value: object
) -> None:
    assert isinstance(found.best.document, FleetPlan)
    document = found.best.document.model_dump(mode="json", by_alias=True)
    document[what] = value
    del document["hash"]
    bad = {each.check for each in verify_document(document) if not each.ok}
    assert bad - {"identity"}


def test_several_pools_share_a_load_that_is_not_fixed_without_being_told(tmp_path: Path) -> None:
    (tmp_path / "pools.yaml").write_text(POOLS)
    words = f"--hardware {tmp_path}/pools.yaml --model qwen3-32b --input-len 4096 --tpot 40ms"
    asked = [*words.split(), "--output-len", "512", "--out", str(tmp_path), "--top", "2"]
    done = run(*asked)
    assert (done.exit_code, "why the others lost" in done.output) == (0, True)
    document = json.loads((tmp_path / "optimal_parallel_strategy.json").read_text())
    assert {part["pool"] for part in document["parts"]} == {"h200", "h100"}
    assert run(*asked, "--concurrency", "32", "--quiet").exit_code == 0
    plan = load_plan(tmp_path / "optimal_parallel_strategy.json")
    assert plan.deployment.batch.concurrency == 32


def test_what_no_replicas_in_one_pool_serve_is_left_to_plans_of_one_layout(tmp_path: Path) -> None:
    """281 GB of weights, 240 GB of memory in each pool: only replicas that span both are left."""
    (tmp_path / "pools.yaml").write_text(
        "name: tight\npools: [{preset: h100-sxm, name: a, node_sizes: [3]}, "
        "{preset: h100-sxm, name: b, node_sizes: [3]}]\n"
    )
    words = f"--hardware {tmp_path}/pools.yaml --model mixtral-8x22b --input-len 256"
    done = run(*words.split(), "--output-len", "32", "--out", str(tmp_path), "--top", "1")
    assert done.exit_code == 0
    assert "in one pool each keeps every limit" in done.output
    plan = load_plan(tmp_path / "optimal_parallel_strategy.json")
    assert plan.deployment.shares is not None


def test_stated_loads_of_experts_are_placed_for_each_role(tmp_path: Path) -> None:
    words = "--hardware h200-sxm --gpus 24 --model deepseek-v3 --input-len 4096 --output-len 512"
    asked = [*words.split(), "--tpot", "40ms", "--modes", "disaggregated", "--expert-skew", "0.5"]
    assert run(*asked, "--top", "1", "--out", str(tmp_path), "--quiet").exit_code == 0
    document = json.loads((tmp_path / "optimal_parallel_strategy.json").read_text())
    for part in document["parts"]:
        experts = document["plans"][part["plan"]]["deployments"][0]["layout"]["ep"]
        placed = tmp_path / f"{part['role']}-on-pool-placement.json"
        assert placed.exists() == (experts > 1)
