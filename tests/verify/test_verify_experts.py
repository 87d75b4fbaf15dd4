"""placement.json: right ones pass, every kind of wrong one is found, and nothing crashes."""

from __future__ import annotations

import ast
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optimizer.verify.experts as verify
from optimizer.search.experts import place_experts
from optimizer.verify.experts import check_expert_placement, unproven_layers

Document = dict[str, Any]


def loads(layers: int, experts: int, spread: float = 1.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(experts)
    return np.round(np.exp(rng.normal(6.0, spread, (layers, experts))))


def document_of(
    gpus: int, slots: int, experts: int, spread: float = 1.0, **options: Any
) -> Document:
    placement = place_experts(loads(3, experts, spread), gpus, slots, **options)
    return dict(json.loads(json.dumps(placement.document())))


DOCUMENTS = {
    "mean": document_of(4, 24, 16),
    "share": document_of(16, 16, 12),
    "sizes": document_of(4, 12, 12),
    "enumeration": document_of(4, 8, 6),
    "enumeration, distinct": document_of(4, 8, 6, distinct=True),
    "groups": document_of(4, 24, 16, nodes=2, groups=8),
    "whole groups": document_of(8, 192, 64, spread=2.5, nodes=4, groups=16),
    "distinct": document_of(4, 24, 16, nodes=2, distinct=True),
    "hall": document_of(20, 40, 32, prove=True),
    "replanned": document_of(4, 24, 16, current=np.tile(np.arange(24) % 16, (3, 1)), max_moves=6),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_we_place_passes(name: str) -> None:
    assert check_expert_placement(DOCUMENTS[name]) == []


def test_every_kind_of_certificate_is_among_them() -> None:
    kinds = {one["kind"] for doc in DOCUMENTS.values() for one in doc["certificates"]}
    kinds |= {
        one["checked"]["kind"]
        for doc in DOCUMENTS.values()
        for one in doc["certificates"]
        if one["kind"] == "solver"
    }
    assert kinds >= {"mean", "share", "sizes", "enumeration", "hall", "groups", "whole_groups"}


def test_a_bound_that_only_a_solver_vouches_for_is_named() -> None:
    certificates = [{"kind": "mean"}, {"kind": "solver"}, {"kind": "hall"}]
    assert unproven_layers({"certificates": certificates}) == [1]


def changed(name: str, *path: Any, to: Any) -> list[str]:
    """What the checks say once the value at `path` is replaced, or mapped by `to`."""
    document = copy.deepcopy(DOCUMENTS[name])
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to
    return [what for what, _ in check_expert_placement(document)]


def test_each_wrong_number_is_found_where_it_stands() -> None:
    assert changed("mean", "counts", 0, 0, to=lambda n: n + 1) == ["counts"]
    assert changed("mean", "gpu_loads", 1, 2, to=lambda x: x * 1.01) == ["gpu_loads"]
    assert changed("mean", "gaps", 0, to=lambda x: x + 0.01) == ["gaps"]
    assert changed("mean", "crossing", 0, to=0.5) == ["crossing"]
    assert "bounds" in changed("mean", "bounds", 2, to=lambda x: x * 1.001)
    assert "bounds" in changed("mean", "bounds", 2, to=lambda x: x * 0.9)
    assert "largest" in changed("mean", "largest", 0, to=lambda x: x * 0.99)
    assert changed("replanned", "max_moves", to=1) == ["max_moves"] * 3
    assert changed("groups", "free_largest", 0, to=lambda x: x * 2) == ["free_largest"]


def test_a_missing_expert_and_a_stranger_are_named() -> None:
    document = copy.deepcopy(DOCUMENTS["mean"])
    row = document["physical_to_logical_map"][1]
    document["physical_to_logical_map"][1] = [0 if expert == 5 else expert for expert in row]
    assert check_expert_placement(document) == [
        ("physical_to_logical_map", "layer 1: expert 5 lies nowhere")
    ]
    assert "physical_to_logical_map" in changed("mean", "physical_to_logical_map", 0, 0, to=16)


def test_whether_copies_must_lie_apart_is_stated() -> None:
    document = {**DOCUMENTS["distinct"], "distinct": None}
    assert {what for what, _ in check_expert_placement(document)} == {"distinct"}


def test_an_expert_twice_on_a_gpu_breaks_the_distinct_rule() -> None:
    document = copy.deepcopy(DOCUMENTS["mean"])
    document["distinct"] = True
    row = document["physical_to_logical_map"][0]
    twin = next(slot for slot in range(1, len(row)) if row.count(row[slot]) > 1)
    other = next(slot for slot in range(len(row)) if slot != twin and row[slot] == row[twin])
    beside = twin - 1 if twin % 6 else twin + 1  # six slots a GPU
    row[beside], row[other] = row[other], row[beside]
    assert "distinct" in {what for what, _ in check_expert_placement(document)}


def test_a_group_on_two_nodes_is_found() -> None:
    document = copy.deepcopy(DOCUMENTS["groups"])
    row = document["physical_to_logical_map"][0]
    row[0], row[-1] = row[-1], row[0]
    assert any(
        what == "groups" and text.endswith("lies on two nodes")
        for what, text in check_expert_placement(document)
    )


@pytest.mark.parametrize("name", ["share", "sizes", "enumeration", "enumeration, distinct", "hall"])
def test_no_certificate_proves_a_higher_bound(name: str) -> None:
    # the placement is made worse too, so that only the certificate can tell
    document = copy.deepcopy(DOCUMENTS[name])
    for layer, bound in enumerate(document["bounds"]):
        document["bounds"][layer] = bound * 1.02
        certificate = document["certificates"][layer]
        if certificate["kind"] == "solver":
            certificate["checked"]["bound"] *= 1.02
            document["bounds"][layer] = certificate["checked"]["bound"]
    wrong = {what for what, _ in check_expert_placement(document)}
    assert wrong & {"bounds", "certificates"}
    for layer in range(3):
        said = [text for _, text in check_expert_placement(document)]
        assert any(text.startswith(f"layer {layer}:") for text in said)


def test_a_share_certificate_of_another_expert_proves_nothing() -> None:
    said = changed("share", "certificates", 0, "copies", to=lambda n: n + 3)
    assert "certificates" in said or "bounds" in said


def test_hall_needs_more_than_some_prices() -> None:
    for layer, certificate in enumerate(DOCUMENTS["hall"]["certificates"]):
        path = (
            ("certificates", layer, "checked")
            if certificate["kind"] == "solver"
            else (
                "certificates",
                layer,
            )
        )
        inner = certificate.get("checked", certificate)
        if inner["kind"] == "hall":
            assert "certificates" in changed(
                "hall", *path, "weights", to=lambda weights: [0.0] * len(weights)
            )
            assert "certificates" in changed(
                "hall", *path, "sizes", to=lambda sizes: sizes[::-1]
            ) or (len(inner["sizes"]) == 1)
            return
    raise AssertionError("no hall certificate to change")


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, the first entries only of long lists."""
    here = [path] if path else []
    if isinstance(value, dict):
        return here + [p for key, inner in value.items() for p in paths(inner, (*path, key))]
    if isinstance(value, list):
        return here + [p for i, inner in enumerate(value[:2]) for p in paths(inner, (*path, i))]
    return here


PLACES = [(name, path) for name, document in DOCUMENTS.items() for path in paths(document)]
ODD = [None, True, -1, 0, 3, 10**400, 1e300, float("nan"), "x", [], [[]], {}, [1.5], {"a": 1}]


@given(place=st.sampled_from(PLACES), odd=st.sampled_from(ODD))
def test_a_broken_document_is_reported_and_never_crashes(place: Any, odd: Any) -> None:
    name, path = place
    document = copy.deepcopy(DOCUMENTS[name])
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = odd
    findings = check_expert_placement(document)
    assert all(isinstance(what, str) and isinstance(text, str) for what, text in findings)


def test_it_imports_the_standard_library_only() -> None:
    for path in Path(verify.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert module.partition(".")[0] in sys.stdlib_module_names or module.startswith(
                    "optimizer.verify.experts"
                )
            elif isinstance(node, ast.Import):
                assert all(alias.name in sys.stdlib_module_names for alias in node.names)
