"""Plans as values: round trips, schema, hash."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from optimizer import Plans, optimize
from optimizer.errors import PlanError
from optimizer.plan import content_hash, plan_schema, read_plan, write_plan
from optimizer.spec.data import configs_root
from optimizer.spec.reading import read_job


@pytest.fixture(scope="module")
def plans() -> Plans:
    case = configs_root() / "cases" / "d"
    job = read_job(case / "hardware.yaml", case / "model.yaml")
    return optimize(job.cluster, job.model, job.workload, top=3)


def test_reading_a_written_plan_back_gives_an_equal_plan(plans: Plans) -> None:
    for plan in plans.plans:
        assert read_plan(write_plan(plan)) == plan


def test_the_same_input_gives_the_same_bytes(plans: Plans) -> None:
    best = plans.best
    again = optimize(best.cluster, best.model, best.workload, top=3)
    assert [write_plan(plan) for plan in again.plans] == [write_plan(p) for p in plans.plans]


def test_the_shipped_schema_is_the_generated_one() -> None:
    shipped = (configs_root() / "schema" / "plan.json").read_text(encoding="utf-8")
    assert shipped == plan_schema()


def test_a_plan_fits_its_schema(plans: Plans) -> None:
    document = json.loads(write_plan(plans.best))
    jsonschema.validate(document, json.loads(plan_schema()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "rank": "first"}, json.loads(plan_schema()))


def test_a_changed_plan_is_refused(plans: Plans) -> None:
    document = json.loads(write_plan(plans.best))
    document["deployments"][0]["gpus"] += 1
    with pytest.raises(PlanError, match="hash"):
        read_plan(json.dumps(document))


def test_a_plan_of_another_version_is_refused_by_its_version(plans: Plans) -> None:
    document = json.loads(write_plan(plans.best))
    document["schema_version"] = "0.1"
    document["hash"] = content_hash(document)
    with pytest.raises(PlanError, match=r"schema version '0\.1'"):
        read_plan(json.dumps(document))


def test_ranked_plans_are_different_layouts_in_order(plans: Plans) -> None:
    values = [plan.proof.value for plan in plans.plans]
    assert values == sorted(values, reverse=True)
    assert len({replace_replicas(plan.name) for plan in plans.plans}) == len(plans.plans)
    assert list(plans.frame()["rank"]) == [1, 2, 3]


def replace_replicas(name: str) -> str:
    return name.split("-x")[0]


def test_a_plan_is_itself_a_valid_input(plans: Plans, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(write_plan(plans.best), encoding="utf-8")
    job = read_job(path, path)
    assert (job.cluster, job.model, job.workload) == (
        plans.best.cluster,
        plans.best.model,
        plans.best.workload,
    )
