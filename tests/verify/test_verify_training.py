"""Training plans verify, and no single number of one changes unseen."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from test_verify_mutations import changed, leaves
from training_instances import cluster, model, workload

from optimizer.pipeline import optimize
from optimizer.plan import write_plan
from optimizer.spec.reading import read_job
from optimizer.verify import verify_plan
from optimizer.verify.checks import TRAINING_CHECKS, run
from optimizer.verify.document import content_hash
from optimizer.verify.identity import identity

Document = dict[str, Any]
ONE = {"micro_batch": 1, "max_context_parallel": 1, "recompute": ["none", "full"]}


def plan_of(strategy: str | None, experts: bool) -> Document:
    small = model(6, experts=True, lead=1) if experts else model(8)
    place = cluster((4,), "1.4 GB") if not experts else cluster((2, 2), "4 GB")
    plans = optimize(place, small, workload(8, **ONE), strategy=strategy, top=2)
    document: Document = json.loads(write_plan(plans.best))
    return document


@pytest.fixture(scope="module")
def by_layer() -> Document:
    return plan_of("PP4", False)


@pytest.fixture(scope="module")
def experts() -> Document:
    return plan_of("PP2-VP2-EP2-DP2", True)


def failures(document: Document) -> list[str]:
    document = {**document, "hash": content_hash(document)}
    return [finding.check for finding in verify_plan(document) if not finding.ok]


@pytest.mark.parametrize("name", ["by_layer", "experts"])
def test_a_training_plan_verifies(name: str, request: pytest.FixtureRequest) -> None:
    assert failures(request.getfixturevalue(name)) == []


def test_recomputation_differs_by_layer_where_memory_binds(by_layer: Document) -> None:
    training = by_layer["deployments"][0]["training"]
    assert set(training["recompute"]) == {"none", "full"}
    assert training["joint"]["status"] == "OPTIMAL"
    assert training["joint"]["solved"] > 0


def change_training(key: str, value: Any) -> Callable[[Document], None]:
    def apply(plan: Document) -> None:
        plan["deployments"][0]["training"][key] = value

    return apply


def move_a_layer(plan: Document) -> None:
    chunks = plan["deployments"][0]["training"]["block_chunk"]
    chunks[chunks.index(1)] = 0


def forget_activations(plan: Document) -> None:
    stage = plan["deployments"][0]["memory"]["stages"][0]
    stage["total_bytes"] -= stage["components"]["activations"] / 2
    stage["components"]["activations"] /= 2


def halve_the_state(plan: Document) -> None:
    for stage in plan["deployments"][0]["memory"]["stages"]:
        stage["total_bytes"] -= stage["components"]["optimizer state"] / 2
        stage["components"]["optimizer state"] /= 2


def use_a_dead_gpu(plan: Document) -> None:
    plan["cluster"]["pools"][0]["dead"] = ["node0/gpu1"]


def hide_the_bubble(plan: Document) -> None:
    seconds = plan["deployments"][0]["training"]["step_seconds"]
    seconds["other"] += seconds["bubble"]
    seconds["bubble"] = 0.0


def claim_more_flops(plan: Document) -> None:
    plan["deployments"][0]["training"]["model_flops"] *= 1.5
    for end in ("value", "low", "high"):
        plan["predictions"]["mfu"][end] *= 1.5


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (change_training("schedule", "interleaved"), "schedule rules"),
        (change_training("micro_batches", 9), "training batch"),
        (change_training("micro_batch", 2), "training batch"),
        (change_training("sequence_parallel", True), "schedule rules"),
        (change_training("sharding", "parameters"), "schedule rules"),
        (change_training("recompute", ["none"] * 8), "training memory"),
        (change_training("recompute", ["none"] * 7), "blocks"),
        (change_training("in_flight", [1.0] * 4), "training memory"),
        (move_a_layer, "blocks"),
        (forget_activations, "training memory"),
        (halve_the_state, "training memory"),
        (use_a_dead_gpu, "gpu counts"),
        (hide_the_bubble, "pipeline"),
        (claim_more_flops, "training flops"),
    ],
)
def test_a_wrong_claim_is_found_by_its_check(
    by_layer: Document, change: Callable[[Document], None], check: str
) -> None:
    plan = copy.deepcopy(by_layer)
    change(plan)
    assert check in failures(plan)


@pytest.mark.parametrize("name", ["by_layer", "experts"])
def test_no_number_of_step_batch_placement_or_prediction_changes_unseen(
    name: str, request: pytest.FixtureRequest
) -> None:
    plan = request.getfixturevalue(name)
    checks = [check for check in TRAINING_CHECKS if check is not identity]
    unseen = []
    for path, value in leaves(plan):
        if path[0] not in ("predictions", "limits", "deployments"):
            continue
        if path[0] == "deployments" and path[2] not in ("layout", "batch", "training", "memory"):
            continue
        for other in list(changed(value))[-1:]:
            edited = copy.deepcopy(plan)
            inner: Any = edited
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = other
            if all(finding.ok for check in checks for finding in run(check, edited)):
                unseen.append((path, value, other))
    assert unseen == []


def test_a_plan_of_512_gpus_is_checked_in_a_second() -> None:
    flags = {"global_batch": 1536, "sequence_length": 2048}
    job = read_job("a100-sxm", "gpt3-175b", flags=flags, gpus=512)
    plans = optimize(job.cluster, job.model, job.workload, top=1)
    assert failures(json.loads(write_plan(plans.best))) == []
    assert plans.best.deployment.gpus == 512
    assert plans.best.deployment.training is not None
    assert plans.best.deployment.training.joint.status == "OPTIMAL"
