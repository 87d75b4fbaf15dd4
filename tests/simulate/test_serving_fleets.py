"""Fleets under load: each demand's parts together, prefill and decode apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from optimizer.cli import optimize
from optimizer.errors import PlanError
from optimizer.simulate.serving.asked import asked_load
from optimizer.simulate.serving.fleets import read_served
from optimizer.simulate.serving.serve import serve, transfer_seconds
from optimizer.simulate.serving.summary import summarize
from optimizer.spec.cluster import Cluster, Leaf

FLEETS = Path(__file__).resolve().parents[2] / "results" / "golden" / "fleets"


def test_a_disaggregated_fleet_does_as_predicted() -> None:
    (plan,) = read_served(FLEETS / "disaggregated.json").values()
    assert {each.role for each in plan.deployments} == {"prefill", "decode"}
    found = summarize(serve(plan, asked_load(plan)))
    beside = found["beside_the_plan"]
    ttft = beside["ttft_s"]  # predicted for a closed loop, simulated under Poisson arrivals
    assert ttft["low"] < ttft["simulated"] < ttft["high"]
    assert abs(beside["tpot_s"]["difference"]) < 0.15
    assert (found["finished"], found["lost"]) == (1000, 0)


def test_a_cache_is_as_full_as_the_replica_that_holds_it_says() -> None:
    """Ranks that decode have more than twice the cache of those that prefill."""
    (plan,) = read_served(FLEETS / "disaggregated.json").values()
    outcome = serve(plan, asked_load(plan))
    decoding = outcome.num_blocks.index(max(outcome.num_blocks))
    used = max(span.used_blocks for span in outcome.record.spans if span.replica >= decoding)
    found = summarize(outcome)["cache"]
    assert found["blocks_of_a_rank"] == outcome.num_blocks[decoding] > 2 * outcome.num_blocks[0]
    assert found["fullest_share"] == pytest.approx(used / outcome.num_blocks[decoding])


def test_each_demand_of_a_fleet_is_a_plan_of_all_its_parts() -> None:
    served = read_served(FLEETS / "mixed.json")
    document = json.loads((FLEETS / "mixed.json").read_text())
    assert list(served) == [each["demand"] for each in document["served"]]
    for demand, plan in served.items():
        parts = [part for part in document["parts"] if part["demand"] == demand]
        used = {g for each in plan.deployments for gpus in each.placement.rank_gpu for g in gpus}
        assert used == {gpu for part in parts for gpu in part["gpus"]}


def test_the_command_writes_a_summary_for_each_demand(tmp_path: Path) -> None:
    arguments = ["simulate", str(FLEETS / "mixed.json"), "--requests", "20"]
    found = CliRunner().invoke(optimize, [*arguments, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    names = read_served(FLEETS / "mixed.json")
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}-{name}.json" for kind in ("simulation", "timeline") for name in names
    }


def test_a_fleet_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    document = json.loads((FLEETS / "mixed.json").read_text())
    path.write_text(json.dumps({**document, "name": "another"}))
    with pytest.raises(PlanError, match="hash does not match"):
        read_served(path)
    path.write_text("{")
    with pytest.raises(PlanError, match="not JSON"):
        read_served(path)


def test_a_cache_sent_to_another_leaf_takes_its_share_of_the_spine() -> None:
    (plan,) = read_served(FLEETS / "disaggregated.json").values()

    def send_s(tokens: int, leaf: Leaf | None) -> float:
        pools = tuple(pool.model_copy(update={"leaf": leaf}) for pool in plan.cluster.pools)
        cluster = Cluster(name=plan.cluster.name, pools=pools)
        return transfer_seconds(plan.model_copy(update={"cluster": cluster}), tokens)

    latency_s = send_s(0, None)
    near, one = send_s(1000, None), send_s(1000, Leaf(nodes=1000, oversubscription=4))
    apart = send_s(1000, Leaf(nodes=1, oversubscription=4))
    assert near == one > latency_s
    assert apart - latency_s == pytest.approx(4 * (near - latency_s))
