"""The ranking, simulated: confirmed winners, changed rankings, limits that do not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from optimizer.cli import optimize
from optimizer.plan import Plan, load_plan
from optimizer.simulate.confirming import confirm, confirmation_csv, confirmation_text
from optimizer.spec.workload import Limit

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(GOLDEN / "gpt-oss-120b-on-1-h100.json")


def _copy(plan: Plan, rank: int, seconds: float = 1.0, **change: Any) -> Plan:
    """The same plan at another rank, its operators so many times as slow."""
    deployment = plan.deployment
    phases = {
        name: table.model_copy(
            update={
                "rows": tuple(
                    row.model_copy(
                        update={"seconds": tuple(value * seconds for value in row.seconds)}
                    )
                    for row in table.rows
                )
            }
        )
        for name, table in deployment.phases.items()
    }
    changed = deployment.model_copy(update={"phases": phases})
    return plan.model_copy(
        update={"rank": rank, "name": f"plan{rank}", "deployments": (changed,), **change}
    )


def test_a_winner_that_stays_ahead_is_confirmed(plan: Plan) -> None:
    found = confirm([_copy(plan, 1), _copy(plan, 2, 1.2)])
    assert found.confirmed
    assert [each.plan.rank for each in found.ranked] == [1, 2]
    assert "plan1 is confirmed as the best of 2" in confirmation_text(found)


def test_a_faster_runner_up_changes_the_ranking(plan: Plan) -> None:
    found = confirm([_copy(plan, 1), _copy(plan, 2, 0.8), _copy(plan, 3, 1.1)])
    assert not found.confirmed
    text = confirmation_text(found)
    assert "the ranking changed: plan2, planned 2, beats plan1" in text
    rows = confirmation_csv(found).splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "2"], ["2", "1"], ["3", "3"]]


def test_a_tie_is_no_change(plan: Plan) -> None:
    assert confirm([_copy(plan, 1, 1.001), _copy(plan, 2)]).confirmed


def test_a_winner_that_breaks_a_limit_in_simulation_is_told(plan: Plan) -> None:
    strict = plan.workload.model_copy(update={"tpot": Limit.model_validate("25 ms p99")})
    slow, fast = _copy(plan, 1, 1.0, workload=strict), _copy(plan, 2, 0.7, workload=strict)
    text = confirmation_text(confirm([slow, fast]))
    assert "plan1 breaks a limit, plan2 keeps them all" in text
    assert "breaks tpot p99" in text


@pytest.mark.parametrize("objective", ["throughput", "latency", "gpus", "balanced"])
def test_every_objective_ranks_the_simulated(plan: Plan, objective: str) -> None:
    plans = [_copy(plan, rank, seconds, objective=objective) for rank, seconds in ((1, 1), (2, 2))]
    assert confirm(plans).confirmed


def test_the_option_simulates_the_best_plans(tmp_path: Path) -> None:
    case = GOLDEN.parents[1] / "configs" / "cases" / "d"
    files = ["--hardware", str(case / "hardware.yaml"), "--model", str(case / "model.yaml")]
    found = CliRunner().invoke(
        optimize, [*files, "--simulate-top", "6", "--out", str(tmp_path)], catch_exceptions=False
    )
    assert "simulated: TP1-x128 is confirmed as the best of 6" in found.output
    assert len((tmp_path / "simulated_strategies.csv").read_text().splitlines()) == 7
