"""`optimize fleet --current`: what stays, what moves, from where, and what is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer.cli import optimize
from optimizer.errors import OptimizerError
from optimizer.fleets import plan_fleet, plan_fleet_near, verify, verify_moves
from optimizer.plan.fleet import FleetPlan, write_fleet
from optimizer.spec.fleet import Fleet
from optimizer.spec.fleet_file import read_fleet

MIXED = Path("configs/fleets/mixed.yaml")
WEIGHTS_BYTES = 2 * 8_030_261_248  # Llama 3.1 8B in bf16, as its model card counts


@cache
def mixed(**rates: float) -> Fleet:
    """The shipped fleet of three models on three pools, some at other rates."""
    fleet = read_fleet(MIXED)
    demands = tuple(
        demand.model_copy(
            update={
                "workload": demand.workload.model_copy(
                    update={"request_rate": rates.get(demand.name, demand.wanted_per_s)}
                )
            }
        )
        for demand in fleet.demands
    )
    return fleet.model_copy(update={"demands": demands})


@cache
def current() -> FleetPlan:
    return plan_fleet(mixed())


@cache
def unchanged() -> tuple[FleetPlan, str]:
    return plan_fleet_near(mixed(), current())


def fleet_of(tmp_path: Path, text: str) -> Fleet:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return read_fleet(path)


ONE = """
hardware: {preset: h100-sxm, nodes: 2}
models:
  - {model: MODEL, workload: {input_len: 512, output_len: 128, tpot: 20 ms, request_rate: RATE}}
"""


def one(tmp_path: Path, rate: str, model: str = "llama-3.1-8b") -> Fleet:
    return fleet_of(tmp_path, ONE.replace("RATE", rate).replace("MODEL", model))


def gpus_by_part(fleet: FleetPlan) -> dict[tuple[str, str, str], set[str]]:
    return {(part.demand, part.role, part.pool): set(part.gpus) for part in fleet.parts}


def test_the_same_demand_moves_nothing() -> None:
    found, text = unchanged()
    moves = json.loads(text)
    assert moves["chosen"]["moved_bytes"] == 0
    assert moves["chosen"]["seconds"] == 0
    assert gpus_by_part(found) == gpus_by_part(current())
    assert all(finding.ok for finding in [*verify(found), *verify_moves(found, current(), text)])


def loaded_gpus(before: FleetPlan, after: FleetPlan) -> int:
    """GPUs that run another rank of another layout, model or number formats than before."""

    def ranks(fleet: FleetPlan) -> dict[str, object]:
        return {
            f"{part.pool}/{gpu}": (plan.model.name, plan.deployment.precision, part.name, rank)
            for part in fleet.parts
            for plan in [fleet.plans[part.plan]]
            for replica in plan.deployment.placement.rank_gpu
            for rank, gpu in enumerate(replica)
        }

    known = ranks(before)
    return sum(1 for gpu, rank in ranks(after).items() if known.get(gpu) != rank)


def test_a_changed_demand_moves_less_than_a_fresh_fleet() -> None:
    changed = mixed(**{"qwen3-235b-a22b": 8.0})
    fresh = plan_fleet(changed)
    found, text = plan_fleet_near(changed, current(), within=0.1)
    moves = json.loads(text)
    assert fresh.price_per_hour is not None
    assert found.price_per_hour is not None
    assert fresh.price_per_hour <= found.price_per_hour <= 1.1 * fresh.price_per_hour
    assert moves["best"]["money"] == pytest.approx(fresh.price_per_hour)
    assert 0 < moves["chosen"]["moved_bytes"] <= moves["best"]["moved_bytes"]
    assert loaded_gpus(current(), found) < loaded_gpus(current(), fresh)
    assert all(finding.ok for finding in [*verify(found), *verify_moves(found, current(), text)])


def test_another_replica_loads_the_weights_once_from_its_neighbour(tmp_path: Path) -> None:
    """One more TP1 replica of an 8B model on its node: all weights over one GPU's NVLink."""
    before = plan_fleet(one(tmp_path, "20 req/s"))
    more = one(tmp_path, "40 req/s")
    found, text = plan_fleet_near(more, before)
    assert {part.name.split("-")[0] for part in (*before.parts, *found.parts)} == {"TP1"}
    moves = json.loads(text)
    added = found.gpus - before.gpus
    assert added >= 1
    assert gpus_by_part(before).popitem()[1] < gpus_by_part(found).popitem()[1]
    assert moves["chosen"]["moved_bytes"] == pytest.approx(added * WEIGHTS_BYTES, rel=1e-9)
    near = sum(row["same domain"] for row in moves["gpus"].values())
    assert near == pytest.approx(moves["chosen"]["moved_bytes"])
    assert moves["chosen"]["seconds"] == pytest.approx(WEIGHTS_BYTES / 450e9, rel=1e-9)


def test_fewer_replicas_load_nothing(tmp_path: Path) -> None:
    before = plan_fleet(one(tmp_path, "40 req/s"))
    found, text = plan_fleet_near(one(tmp_path, "20 req/s"), before)
    assert found.gpus < before.gpus
    assert json.loads(text)["chosen"]["moved_bytes"] == 0


def test_a_replica_whose_gpu_died_is_loaded_again(tmp_path: Path) -> None:
    text = ONE.replace("RATE", "40 req/s").replace("MODEL", "llama-3.1-8b")
    before = plan_fleet(fleet_of(tmp_path, text))
    lost = before.parts[0].gpus[0]
    fewer = text.replace("nodes: 2}", f"nodes: 2, dead: [{lost}]}}")
    found, told = plan_fleet_near(fleet_of(tmp_path, fewer), before)
    assert lost not in found.parts[0].gpus
    assert json.loads(told)["chosen"]["moved_bytes"] == pytest.approx(WEIGHTS_BYTES, rel=1e-9)


def spoil(document: dict[str, Any], what: str) -> None:
    if what == "bytes of a GPU":
        row = next(row for row in document["gpus"].values() if row["kept"])
        row["kept"], row["storage"] = row["kept"] / 2, row["kept"] / 2
    elif what == "bytes of a part":
        document["parts"][0]["moved_bytes"] += 1e6
    elif what == "seconds":
        document["chosen"]["seconds"] += 1
    elif what == "another fleet":
        document["from"]["hash"] = "0" * 64
    elif what == "a dearer choice":
        document["best"]["money"] /= 2


@pytest.mark.parametrize(
    "what", ["bytes of a GPU", "bytes of a part", "seconds", "another fleet", "a dearer choice"]
)
def test_verify_finds_what_was_changed(what: str) -> None:
    found, text = unchanged()
    document = json.loads(text)
    spoil(document, what)
    assert not all(each.ok for each in verify_moves(found, current(), json.dumps(document)))


def run(tmp_path: Path, fleet: Path, now: Path) -> tuple[int, str]:
    """(exit code, all that is printed) of the command."""
    arguments = ["fleet", str(fleet), "--current", str(now), "--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(optimize, arguments)
    if isinstance(result.exception, OptimizerError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("edited", "the hash does not match"),
        ("a plan of one model", "a plan of one model"),
        ("not JSON", "not JSON"),
        ("no fleet", "no fleet"),
        ("another version", "schema version"),
        ("missing", "cannot be read"),
    ],
)
def test_what_is_no_fleet_that_runs_is_refused(tmp_path: Path, what: str, says: str) -> None:
    now = tmp_path / "now.json"
    document = json.loads(write_fleet(current()))
    if what == "edited":
        document["gpus"] += 1
    elif what == "another version":
        document["schema_version"] = "0.1"
    texts = {
        "a plan of one model": Path("results/golden/case-d.json").read_text(),
        "not JSON": "{",
        "no fleet": "[]",
    }
    if what != "missing":
        now.write_text(texts.get(what, json.dumps(document)))
    code, output = run(tmp_path, MIXED, now)
    assert code == 2
    assert says in output
    assert not (tmp_path / "out.json").exists()


def test_a_fleet_of_other_models_is_refused(tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    now.write_text(write_fleet(plan_fleet(one(tmp_path, "5 req/s"))))
    code, output = run(tmp_path, MIXED, now)
    assert code == 2
    assert "nothing of it can stay; leave --current out" in output


def test_the_command_writes_what_moves_beside_the_fleet(tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    now.write_text(write_fleet(current()))
    code, output = run(tmp_path, MIXED, now)
    assert code == 0
    assert json.loads((tmp_path / "moves.json").read_text())["chosen"]["moved_bytes"] == 0
    assert "stay where they are" in output
