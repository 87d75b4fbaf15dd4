"""Golden plans: the choices of this project, held still. A golden changes only with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimizer.plan import load_plan, sealed, write_plan
from optimizer.regression import accept, regress
from optimizer.verify import verify_plan

GOLDEN = sorted((Path(__file__).resolve().parent.parent / "results" / "golden").glob("*.json"))


def test_there_are_golden_plans_for_all_cases_and_clusters() -> None:
    names = {path.stem for path in GOLDEN}
    assert names >= {
        *(f"case-{letter}" for letter in "abcde"),
        "deepseek-v3-on-16-h200",
        "qwen3-235b-a22b-on-7-h200",
        "mixtral-8x22b-on-8-a100",
        "gpt-oss-120b-on-1-h100",
        "llama-3.1-405b-on-22-h100",
        "deepseek-v3-on-8-h100-and-7-a100",
        "case-e-trained",
        "gpt3-175b-trained-on-512-a100",
    }


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_plan_is_planned_again(path: Path) -> None:
    found = regress([path])[0]
    assert found.verdict == "same", found.differences


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_plan_verifies(path: Path) -> None:
    bad = [finding for finding in verify_plan(json.loads(path.read_text())) if not finding.ok]
    assert not bad


def test_a_worse_choice_is_told_and_accepting_keeps_the_reason(tmp_path: Path) -> None:
    golden = load_plan(GOLDEN[0])
    proof = golden.proof.model_copy(update={"value": golden.proof.value * 2})
    path = tmp_path / "golden.json"
    path.write_text(write_plan(sealed(golden.model_copy(update={"proof": proof}))))
    found = regress([path])
    assert found[0].verdict == "worse"
    assert accept([path], found, "the old value was doubled") == 1
    assert load_plan(path).accepted[-1] == "the old value was doubled"
    assert regress([path])[0].verdict == "same"
