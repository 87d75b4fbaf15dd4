"""`optimize fleet`, from the file to the verified answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import InfeasibleError, SpecError
from optimizer.fleets import plan_fleet, summary, verify
from optimizer.plan.fleet import FleetPlan, write_fleet
from optimizer.spec.fleet_file import read_fleet
from optimizer.verify.fleet import verify_fleet

MIXED = Path("configs/fleets/mixed.yaml")
GOLDEN = Path("results/golden/fleets")


@pytest.fixture(scope="module")
def mixed() -> FleetPlan:
    return plan_fleet(read_fleet(MIXED))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


ONE = """
hardware: {preset: h100-sxm, nodes: NODES}
objective: OBJECTIVE
models:
  - {model: llama-3.1-8b, workload: {input_len: 512, output_len: 128, request_rate: RATE}}
"""


def one(tmp_path: Path, rate: str, objective: str = "gpus", nodes: int = 1) -> Path:
    text = ONE.replace("RATE", rate).replace("OBJECTIVE", objective).replace("NODES", str(nodes))
    return written(tmp_path, text)


@pytest.mark.parametrize("name", ["mixed", "disaggregated"])
def test_a_golden_fleet_is_still_the_best(name: str) -> None:
    fleet = plan_fleet(read_fleet(Path("configs/fleets") / f"{name}.yaml"))
    golden = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    assert write_fleet(fleet) == golden


def test_every_part_and_plan_is_verified(mixed: FleetPlan) -> None:
    assert [finding for finding in verify(mixed) if not finding.ok] == []


def test_no_dead_gpu_serves(mixed: FleetPlan) -> None:
    used = {gpu for part in mixed.parts for gpu in part.gpus}
    assert "h100/node1/gpu3" not in used
    assert not any(gpu.startswith("h100/node3/") for gpu in used)


def test_summary_names_every_part(mixed: FleetPlan) -> None:
    text = summary(mixed)
    for part in mixed.parts:
        assert part.name in text


def change(document: dict[str, Any], what: str) -> None:
    first, second = document["parts"][:2]
    if what == "a GPU twice":
        second["gpus"][0] = first["gpus"][0]
    elif what == "a dead GPU":
        first["gpus"][0] = "h100/node3/gpu0"
    elif what == "the rate":
        first["share_per_s"] *= 1.01
    elif what == "the capacity":
        first["capacity_per_s"] = first["share_per_s"] / 2
    elif what == "the price":
        document["price_per_hour"] += 0.01
    elif what == "the objective":
        document["proof"]["value"] -= 100
    elif what == "an idle GPU":
        document["idle_gpus"].pop()
    elif what == "the replicas":
        first["replicas"] += 1
    elif what == "faster GPUs":
        document["plans"][0]["cluster"]["pools"][0]["gpu"]["memory"] = "999 GB"


@pytest.mark.parametrize(
    "what",
    [
        "a GPU twice",
        "a dead GPU",
        "the rate",
        "the capacity",
        "the price",
        "the objective",
        "an idle GPU",
        "the replicas",
        "faster GPUs",
    ],
)
def test_verify_finds_what_was_changed(mixed: FleetPlan, what: str) -> None:
    document = json.loads(write_fleet(mixed))
    change(document, what)
    assert not all(finding.ok for finding in verify_fleet(document))


def test_more_is_asked_than_the_cluster_serves(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="even alone") as caught:
        plan_fleet(read_fleet(one(tmp_path, "100000 req/s")))
    assert "at most from one layout" in str(caught.value)


def test_what_cannot_be_served_in_full_is_served_as_far_as_it_goes(tmp_path: Path) -> None:
    fleet = plan_fleet(read_fleet(one(tmp_path, "100000 req/s", "served")))
    assert fleet.idle_gpus == ()
    assert 0 < fleet.served[0].served_per_s < 100000


def test_demands_that_fit_alone_but_not_together_say_what_each_needs(tmp_path: Path) -> None:
    text = ONE.replace("RATE", "200 req/s").replace("OBJECTIVE", "gpus").replace("NODES", "1")
    entry = text[text.index("  - {model") :]
    alone = plan_fleet(read_fleet(one(tmp_path, "200 req/s"))).gpus
    assert alone <= 8 < 2 * alone
    path = written(tmp_path, text + entry.replace("{model", "{name: second, model"))
    with pytest.raises(InfeasibleError, match="together") as caught:
        plan_fleet(read_fleet(path))
    assert f"second: {alone} GPUs at least" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("objective: gpus", "objective: speed", "objective"),
        ("objective: gpus", "objective: money", "price_per_hour"),
        ("request_rate: 5 req/s", "concurrency: 5", "request_rate"),
        ("request_rate: 5 req/s", "request_rate: 5", "20 req/s"),
        ("llama-3.1-8b", "llama-9", "llama-9"),
        ("models:", "model:", "models"),
        ("input_len: 512, output_len: 128, request_rate: 5 req/s", "batch: 3, seq_len: 4", "serv"),
        ("preset: h100-sxm", "preset: h100-sxl", "h100-sxl"),
        ("  - {model", "  - {weight: -1, model", "weight"),
    ],
)
def test_wrong_fleets_name_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = one(tmp_path, "5 req/s")
    text = path.read_text()
    assert old in text
    with pytest.raises(SpecError, match=says) as caught:
        read_fleet(written(tmp_path, text.replace(old, new)))
    assert "fleet.yaml" in str(caught.value)


APART = """
hardware: {preset: h200-sxm, nodes: 16}
models:
  - model: deepseek-v3
    modes: [MODES]
    workload: {input_len: 4096, output_len: 512, request_rate: 20 req/s, ttft: TTFT, tpot: 30 ms}
"""


def apart(tmp_path: Path, modes: str, ttft: str = "2 s") -> Path:
    return written(tmp_path, APART.replace("MODES", modes).replace("TTFT", ttft))


def test_prefill_and_decode_apart_stand_in_one_ranking_with_both_together(tmp_path: Path) -> None:
    both = plan_fleet(read_fleet(apart(tmp_path, "aggregated, disaggregated")))
    one = plan_fleet(read_fleet(apart(tmp_path, "aggregated")))
    other = plan_fleet(read_fleet(apart(tmp_path, "disaggregated")))
    assert both.gpus == min(one.gpus, other.gpus)
    assert {part.role for part in other.parts} == {"prefill", "decode"}
    assert all(finding.ok for finding in verify(other))
    for role in ("prefill", "decode"):
        capacity = sum(part.capacity_per_s for part in other.parts if part.role == role)
        assert capacity >= 20


def test_moving_the_cache_takes_its_share_of_the_time_to_first_token(tmp_path: Path) -> None:
    """61 layers x 4,096 tokens x 576 values x 2 B over 50 GB/s and 10 us."""
    other = plan_fleet(read_fleet(apart(tmp_path, "disaggregated")))
    moved_s = 61 * 4096 * 576 * 2 / 50e9 + 10e-6
    assert other.served[0].transfer_s == pytest.approx(moved_s)
    for part in other.parts:
        plan = other.plans[part.plan]
        if part.role == "prefill":
            assert plan.predictions["ttft_s"].value <= 2.0 - moved_s
        else:
            assert plan.predictions["tpot_s"].value <= 0.030


def test_a_cache_that_cannot_be_moved_in_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match=r"moving the cache takes .* of the TTFT limit"):
        plan_fleet(read_fleet(apart(tmp_path, "disaggregated", "5 ms")))


def test_verify_finds_a_cache_that_moves_too_fast(tmp_path: Path) -> None:
    document = json.loads(write_fleet(plan_fleet(read_fleet(apart(tmp_path, "disaggregated")))))
    document["served"][0]["transfer_s"] /= 2
    assert [each.check for each in verify_fleet(document) if not each.ok] == ["apart"]


def test_caches_move_over_the_spine_and_groups_count_on_no_leaf(tmp_path: Path) -> None:
    thin = APART.replace(
        "nodes: 16}", "nodes: 16, leaf: {nodes: 2, oversubscription: 3}, rails: 8}"
    )
    text = thin.replace("MODES", "disaggregated").replace("TTFT", "2 s")
    leafy = plan_fleet(read_fleet(written(tmp_path, text)))
    plain = plan_fleet(read_fleet(apart(tmp_path, "disaggregated")))
    assert all(finding.ok for finding in verify(leafy))
    moved = [fleet.served[0].transfer_s for fleet in (plain, leafy)]
    latency_s = plain.cluster.pools[0].inter_node.latency_s
    assert moved[1] - latency_s == pytest.approx(3 * (moved[0] - latency_s))
    assert leafy.gpus >= plain.gpus
