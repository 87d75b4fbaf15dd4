"""The second copy of every input number, and what nobody stated."""

from __future__ import annotations

import json
from collections.abc import Iterator

from optimizer.verify.document import (
    Json,
    is_number,
    is_training,
    leaves,
    number,
    quantity,
)
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.memory import RESERVE_BYTES

SPECS = ("cluster", "model", "workload")


def sources(plan: Json) -> Iterator[Outcome]:
    """`sources` lists every number of the embedded specs, each once, and nothing else."""
    held: dict[str, str] = {}
    for name in SPECS:
        spec = {key: value for key, value in plan[name].items() if key != "assumptions"}
        for key, value in leaves(spec, name):
            if is_number(value):
                held[key] = json.dumps(value)
            elif isinstance(value, str) and any(letter.isdigit() for letter in value):
                held[key] = value
    listed = {each["key"]: each["value"] for each in plan["sources"]}
    yield equal("keys, each once", len(plan["sources"]), len(listed))
    yield equal("numbers listed", len(listed), len(held))
    for key in sorted({*held, *listed}):
        if listed.get(key) != held.get(key):
            yield equal(key, listed.get(key), held.get(key))
    unknown = {each["source"] for each in plan["sources"]} - {"stated", "assumed"}
    yield not unknown, f"who stated a number: {sorted(unknown) or 'known for each'}"


def assumptions(plan: Json) -> Iterator[Outcome]:
    """Every assumption of the specs is listed, and those of the planner hold what was used."""
    own = [each for name in SPECS for each in plan[name]["assumptions"]]
    yield equal("assumptions of the specs", plan["assumptions"][: len(own)], own)
    added = {each["key"]: each["value"] for each in plan["assumptions"][len(own) :]}
    yield equal("assumptions added, each once", len(plan["assumptions"]) - len(own), len(added))
    workload = plan["workload"]
    skews = ("expert_imbalance", "expert_loads", "expert_skew")
    due = {
        "workload.expert_imbalance": all(workload[key] is None for key in skews),
        "workload.runtime_reserve": workload["runtime_reserve"] is None,
    }
    missing = sorted({key for key, wanted in due.items() if wanted} - set(added))
    yield not missing, f"assumptions that are not listed: {missing or 'none'}"
    for key, value in added.items():
        if key == "workload.expert_imbalance":
            yield equal(key, number(json.loads(value)), 1.0)
        elif key == "workload.runtime_reserve":
            yield equal(key, quantity(value, "B"), _reserve(plan))
        else:
            plain = not any(letter.isdigit() for letter in value)
            yield plain, f"{key}: {value}, a number that is not known here" if not plain else key


def _reserve(plan: Json) -> float:
    """What is taken for context and libraries: a constant, or in training what the plan holds."""
    if not is_training(plan):
        return RESERVE_BYTES
    stages = plan["deployments"][0]["memory"]["stages"]
    return number(stages[0]["components"]["context"])
