"""Why other fleets lost: each alternative is what planning under its own terms finds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from optimizer.fleets import plan_fleet
from optimizer.plan.fleet import FleetPlan
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Fleet
from optimizer.spec.fleet_file import read_fleet


@cache
def mixed() -> Fleet:
    return read_fleet(Path("configs/fleets/mixed.yaml"))


@cache
def best() -> FleetPlan:
    return plan_fleet(mixed())


def noted(start: str) -> str:
    (line,) = (note for note in best().notes if note.startswith(start))
    return line


def price(line: str) -> float:
    return float(line.split(": ")[1].split(" an hour")[0].replace(",", ""))


def test_the_other_mode_of_a_demand_costs_what_planning_with_it_alone_finds() -> None:
    demands = tuple(
        demand.model_copy(update={"modes": ("disaggregated",)})
        if demand.name == "llama-3.1-70b"
        else demand
        for demand in mixed().demands
    )
    other = plan_fleet(mixed().model_copy(update={"demands": demands}))
    line = noted("llama-3.1-70b with prefill and decode apart")
    assert price(line) == pytest.approx(other.price_per_hour)
    assert line.endswith(f"against {best().price_per_hour:,.2f} an hour")


def test_a_pool_less_costs_what_planning_without_it_finds() -> None:
    cluster = mixed().cluster
    kept = tuple(pool for pool in cluster.pools if pool.name != "a100")
    fewer = Cluster(name=cluster.name, pools=kept, inter_pool=cluster.inter_pool)
    other = plan_fleet(mixed().model_copy(update={"cluster": fewer}))
    assert price(noted("without a100")) == pytest.approx(other.price_per_hour)


def test_no_line_stands_for_a_pool_that_is_not_used_and_all_used_ones_have_theirs() -> None:
    used = {part.pool for part in best().parts}
    told = {note.split(":")[0].removeprefix("without ") for note in best().notes}
    assert {pool.name for pool in mixed().cluster.pools} & told == used


def test_a_demand_that_needs_a_pool_says_that_nothing_fits_without_it(tmp_path: Path) -> None:
    text = """
hardware:
  name: two
  pools:
    - {preset: h200-sxm, name: large, nodes: 2}
    - {preset: a100-sxm, name: small, nodes: 1}
models:
  - model: deepseek-v3
    modes: [aggregated]
    workload: {input_len: 512, output_len: 128, request_rate: 1 req/s}
"""
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    assert "without large: the demands do not fit the cluster" in plan_fleet(read_fleet(path)).notes
