"""A plan's operator table between and beyond its points, and tables that are broken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import PlanError
from optimizer.plan import GridPoint, Plan, load_plan
from optimizer.simulate.table import COLLECTIVES, StepTable, bracket, step_table

GOLDEN = Path(__file__).resolve().parents[2] / "results" / "golden"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(GOLDEN / "deepseek-v3-on-16-h200.json")


def _decode(plan: Plan) -> StepTable:
    return step_table(plan.cluster, plan.deployment, "decode")


def test_a_point_of_the_grid_gives_back_the_plans_own_seconds(plan: Plan) -> None:
    table, source = _decode(plan), plan.deployment.phases["decode"]
    own = [i for i, row in enumerate(table.rows) if row.kind not in COLLECTIVES]
    for index, point in enumerate(source.grid):
        found = table.at("seconds", point.tokens, point.context)[own]
        assert found == pytest.approx([source.rows[i].seconds[index] for i in own], rel=1e-12)


def test_halfway_between_two_points_is_their_mean(plan: Plan) -> None:
    table = _decode(plan)
    low, high = table.tokens[1], table.tokens[2]
    context = table.columns[0].contexts[0]
    ends = table.at("bytes", low, context) + table.at("bytes", high, context)
    assert table.at("bytes", (low + high) / 2, context) == pytest.approx(ends / 2, rel=1e-9)


def test_beyond_the_grid_the_last_slope_goes_on_and_below_it_nothing_falls(plan: Plan) -> None:
    table = _decode(plan)
    most, context = table.tokens[-1], table.columns[-1].contexts[0]
    step = table.tokens[-1] - table.tokens[-2]
    slope = table.total_seconds(most, context) - table.total_seconds(most - step, context)
    beyond = table.total_seconds(most + step, context)
    assert beyond == pytest.approx(table.total_seconds(most, context) + slope, rel=1e-9)
    assert table.total_seconds(0.25, context) == table.total_seconds(1, context)


def test_collectives_are_derived_from_their_bytes_and_not_read(plan: Plan) -> None:
    deployment = plan.deployment
    source = deployment.phases["decode"]
    rows = tuple(
        row.model_copy(update={"seconds": (9.0,) * len(row.seconds)})
        if row.kind in COLLECTIVES
        else row
        for row in source.rows
    )
    phases = {**deployment.phases, "decode": source.model_copy(update={"rows": rows})}
    changed = deployment.model_copy(update={"phases": phases})
    point = source.grid[0]
    found = step_table(plan.cluster, changed, "decode").at("seconds", point.tokens, point.context)
    assert np.array_equal(found, _decode(plan).at("seconds", point.tokens, point.context))


def test_brackets_reach_beyond_both_ends() -> None:
    assert bracket((1.0, 3.0, 7.0), 5.0) == (1, 0.5)
    assert bracket((1.0, 3.0, 7.0), 9.0) == (1, 1.5)
    assert bracket((1.0, 3.0, 7.0), 0.0) == (0, -0.5)
    assert bracket((4.0,), 9.0) == (0, 0.0)


def _broken(plan: Plan, **change: object) -> Plan:
    deployment = plan.deployment
    table = deployment.phases["decode"].model_copy(update=change)
    phases = {**deployment.phases, "decode": table}
    changed = deployment.model_copy(update={"phases": phases})
    return plan.model_copy(update={"deployments": (changed,)})


def test_a_hole_in_the_grid_is_named(plan: Plan) -> None:
    source = plan.deployment.phases["decode"]
    names = ("flops", "bytes", "payload_bytes", "seconds", "m", "n", "k")
    rows = tuple(
        row.model_copy(update={name: getattr(row, name)[:-1] for name in names})
        for row in source.rows
    )
    with pytest.raises(PlanError, match="no point of 512 tokens at a context of 2048"):
        _decode(_broken(plan, grid=source.grid[:-1], rows=rows))


def test_a_row_without_all_its_values_is_named(plan: Plan) -> None:
    source = plan.deployment.phases["decode"]
    first = source.rows[0].model_copy(update={"seconds": source.rows[0].seconds[:-1]})
    with pytest.raises(
        PlanError, match=f"{re.escape(first.name)} has 10 seconds for 11 grid points"
    ):
        _decode(_broken(plan, rows=(first, *source.rows[1:])))


def test_negative_seconds_and_missing_phases_are_named(plan: Plan) -> None:
    source = plan.deployment.phases["decode"]
    first = source.rows[0].model_copy(update={"seconds": (-1.0,) * len(source.grid)})
    with pytest.raises(PlanError, match="negative seconds"):
        _decode(_broken(plan, rows=(first, *source.rows[1:])))
    bare = plan.deployment.model_copy(update={"phases": {}})
    with pytest.raises(PlanError, match="decode: the plan has none"):
        step_table(plan.cluster, bare, "decode")


def test_a_point_that_stands_twice_is_refused(plan: Plan) -> None:
    source = plan.deployment.phases["decode"]
    twice: tuple[GridPoint, ...] = (*source.grid[:-1], source.grid[0])
    with pytest.raises(PlanError, match="stands twice"):
        _decode(_broken(plan, grid=twice))
