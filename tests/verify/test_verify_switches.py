"""Leaf switches and rails: a plan that lies as it is priced, and plans that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from optimizer import optimize
from optimizer.plan import write_plan
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document
from optimizer.spec.reading import read_model, read_workload
from optimizer.verify import verify_plan
from optimizer.verify.checks import run
from optimizer.verify.switches import switches
from optimizer.verify.traffic import floors

Json = dict[str, Any]


def written(strategy: str, **changes: Any) -> str:
    switched = {"leaf": {"nodes": 2, "oversubscription": 4}, "rails": 8}
    cluster = cluster_of(Document(None, {"preset": "h200-sxm", **switched, **changes}))
    workload = read_workload(None, {"input_len": 2048, "output_len": 512})
    model = read_model("deepseek-v3").model
    best = optimize(cluster, model, workload, top=1, strategy=f"canonical:{strategy}").best
    return write_plan(best)


@pytest.fixture(scope="module")
def text() -> str:
    return written("EP32-DP32-x2", nodes=8)


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("EP32-DP32-x2", {"nodes": 8}),
        ("EP16-DP16-x3", {"nodes": 8, "dead": ["node2"]}),
        ("EP16-DP16", {"nodes": 3, "dead": ["node0/gpu1", "node1/gpu0"]}),
        ("PP2-EP8-TP2-DP4-x2", {"nodes": 4}),
        ("PP2-EP4-DP4-x20", {"preset": "gb200", "nodes": 54, "leaf": {"nodes": 18}, "rails": 4}),
        ("PP2-EP8-TP8-x2", {"nodes": 4, "rails": 4}),
        ("EP16-TP16-x2", {"nodes": 4}),
    ],
)
def test_what_the_planner_places_holds(strategy: str, changes: Json) -> None:
    document = json.loads(written(strategy, **changes))
    assert [finding for finding in verify_plan(document) if not finding.ok] == []


def swapped(document: Json, one: str, other: str) -> None:
    """Two GPUs trade places."""
    names = {one: other, other: one}
    placement = document["deployments"][0]["placement"]
    placement["rank_gpu"] = [
        [names.get(gpu, gpu) for gpu in gpus] for gpus in placement["rank_gpu"]
    ]


def nodes_swapped(document: Json) -> None:
    for gpu in range(8):
        swapped(document, f"node0/gpu{gpu}", f"node4/gpu{gpu}")


def rails_swapped(document: Json) -> None:
    swapped(document, "node0/gpu0", "node0/gpu1")


def all_under_one_leaf(document: Json) -> None:
    for phase in document["deployments"][0]["phases"].values():
        for row in phase["rows"]:
            if row["kind"] == "all_to_all":
                row["leaf"] = row["group_size"]


def no_leaf(document: Json) -> None:
    document["deployments"][0]["phases"]["decode"]["rows"] = [
        {key: value for key, value in row.items() if key != "leaf"}
        for row in document["deployments"][0]["phases"]["decode"]["rows"]
    ]


@pytest.mark.parametrize("change", [nodes_swapped, rails_swapped, all_under_one_leaf, no_leaf])
def test_what_lies_or_is_priced_otherwise_is_found(
    text: str, change: Callable[[Json], None]
) -> None:
    document = json.loads(text)
    assert all(finding.ok for finding in run(switches, document))
    change(document)
    assert not all(finding.ok for finding in run(switches, document))


def test_an_exchange_faster_than_the_spine_is_found(text: str) -> None:
    document = json.loads(text)
    assert all(finding.ok for finding in run(floors, document))
    document["cluster"]["pools"][0]["leaf"]["oversubscription"] *= 10
    assert not all(finding.ok for finding in run(floors, document))
