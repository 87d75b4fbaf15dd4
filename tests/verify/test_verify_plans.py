"""Good plans pass, and what the planner must not get wrong is found where it is put in."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest

from optimizer.verify import CHECKS, Finding, main, results, verify_plan
from optimizer.verify.document import content_hash

Document = dict[str, Any]


def sealed(document: Document) -> Document:
    return {**document, "hash": content_hash(document)}


def failed(document: Document) -> set[str]:
    return {finding.check for finding in verify_plan(sealed(document)) if not finding.ok}


def test_every_shape_of_plan_passes_every_check(document: Document) -> None:
    findings = verify_plan(document)
    assert [finding for finding in findings if not finding.ok] == []
    names = {check.__name__.replace("_", " ") for check in CHECKS}
    if document["robustness"] is None:
        names.remove("robustness")  # says nothing where no confidence was asked for
    assert {finding.check for finding in findings} == names


def test_results_hold_no_clock_and_no_path(document: Document) -> None:
    once, again = (json.dumps(results(verify_plan(document))) for _ in range(2))
    assert once == again
    assert set(json.loads(once)) == {"ok", "checks"}
    assert set(json.loads(once)["checks"][0]) == {"check", "ok", "detail"}


def test_a_changed_plan_with_its_old_hash_is_found(document: Document) -> None:
    document["name"] = "TP8"
    assert "identity" in {f.check for f in verify_plan(document) if not f.ok}


def move(document: Document, *path: Any) -> Any:
    for key in path:
        document = document[key]
    return document


def swap_gpus(document: Document) -> None:
    """Puts the first GPU of the second node where the first of the first node was."""
    rows = document["deployments"][0]["placement"]["rank_gpu"]
    flat = [gpu for row in rows for gpu in row]
    other = next(gpu for gpu in flat if gpu.startswith("node1"))
    for row in rows:
        for at, gpu in enumerate(row):
            row[at] = {flat[0]: other, other: flat[0]}.get(gpu, gpu)


def half_the_expert_traffic(document: Document) -> None:
    """Leaves out the exchange of tokens, consistently: rows, totals and groups."""
    for table in document["deployments"][0]["phases"].values():
        gone = [row for row in table["rows"] if row["axis"] == "ep"]
        table["rows"] = [row for row in table["rows"] if row["axis"] != "ep"]
        for row in gone:
            for at in range(len(table["grid"])):
                table["total_payload_bytes"][at] -= row["count"] * row["payload_bytes"][at]
                table["total_seconds"][at] -= row["count"] * row["seconds"][at]
        table["by_group"].pop("ep communication", None)


def drop_a_matrix(document: Document) -> None:
    """Forgets one product of the first layer type in the prefill table."""
    table = document["deployments"][0]["phases"]["prefill"]
    row = next(row for row in table["rows"] if row["kind"] == "gemm")
    table["rows"].remove(row)


def use_a_dead_gpu(document: Document) -> None:
    document["deployments"][0]["placement"]["rank_gpu"][0][0] = "node1/gpu2"


def forget_an_expert(document: Document) -> None:
    for part in document["deployments"][0]["placement"]["ranks"]:
        part["experts"] = part["experts"].replace("5", "4").replace("4-4", "4")


def outgrow_the_gpu(document: Document) -> None:
    """Twice the sequences, with their cache and nothing else."""
    deployment = document["deployments"][0]
    deployment["batch"]["sequences_per_rank"] *= 2


def hide_an_assumption(document: Document) -> None:
    document["assumptions"] = [
        each for each in document["assumptions"] if each["key"] != "workload.runtime_reserve"
    ]


@pytest.mark.parametrize(
    ("run", "spoil", "check"),
    [
        ("spread", swap_gpus, "spans"),
        ("spread", half_the_expert_traffic, "traffic"),
        ("staged", drop_a_matrix, "arithmetic"),
        ("staged", use_a_dead_gpu, "gpu counts"),
        ("spread", forget_an_expert, "coverage"),
        ("searched", outgrow_the_gpu, "cache"),
        ("forward", hide_an_assumption, "assumptions"),
    ],
)
def test_a_mistake_is_found_by_the_check_that_is_made_for_it(
    plan_texts: dict[str, str], run: str, spoil: Callable[[Document], None], check: str
) -> None:
    document = json.loads(plan_texts[run])
    spoil(document)
    assert check in failed(document)


def test_a_finding_names_both_numbers(plan_texts: dict[str, str]) -> None:
    document = json.loads(plan_texts["forward"])
    weights = move(document, "deployments", 0, "memory", "stages", 0, "components")
    right = int(weights["dense weights"])
    weights["dense weights"] += 1
    found = [f for f in verify_plan(sealed(document)) if f.check == "weights" and not f.ok]
    assert found == [
        Finding(
            "weights",
            False,
            f"stage 0 dense weights, bytes: the plan says {right + 1:,}, derived {right:,}",
        )
    ]


def test_a_plan_without_deployments_does_not_pass(document: Document) -> None:
    document["deployments"] = []
    assert "gpu counts" in failed(document)


def test_the_command_says_0_for_a_good_plan_and_4_for_a_changed_one(
    plan_texts: dict[str, str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "results.json"
    plan.write_text(plan_texts["forward"], encoding="utf-8")
    assert main([str(plan), "--json", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["ok"] is True
    document = json.loads(plan_texts["forward"])
    document["rank"] += 1
    plan.write_text(json.dumps(sealed(document)), encoding="utf-8")
    assert main([str(plan), "--json", str(out)]) == 4
    assert json.loads(out.read_text(encoding="utf-8"))["ok"] is False
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{}", '{"a": NaN}', "[" * 100_000, '{"schema_version": 1e', "\x00"]
)
def test_what_is_no_plan_gets_one_line_and_exit_code_2(
    text: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text, encoding="utf-8")
    assert main([str(plan)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_wrong_usage_and_missing_files_get_exit_code_2(tmp_path: Any) -> None:
    assert main([]) == 2
    assert main(["--json"]) == 2
    assert main([str(tmp_path / "nothing.json")]) == 2
    assert main([str(tmp_path)]) == 2


JUNK: tuple[Any, ...] = (None, True, -1, 0, 1e308, 10**30, "", "x", [], {}, [[]], float("nan"))


@pytest.mark.parametrize("run", ["forward", "spread"])
def test_whatever_stands_in_a_plan_is_a_finding_and_no_traceback(
    plan_texts: dict[str, str], run: str
) -> None:
    document = json.loads(plan_texts[run])
    junk = cycle(JUNK)

    def walk(value: Any) -> None:
        keys = list(value) if isinstance(value, dict) else list(range(min(2, len(value))))
        for key in keys:
            kept = value[key]
            value[key] = next(junk)
            verify_plan(document)
            value[key] = kept
            if isinstance(kept, dict | list):
                walk(kept)

    walk(document)
    assert [finding for finding in verify_plan(document) if not finding.ok] == []
