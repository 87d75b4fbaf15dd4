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
GOLDEN = Path("results/golden/fleets/mixed.json")


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


def test_the_golden_fleet_is_still_the_best(mixed: FleetPlan) -> None:
    assert write_fleet(mixed) == GOLDEN.read_text(encoding="utf-8")


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
