"""Golden plans: plans again from the embedded specs and compares what was chosen and predicted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from optimizer.errors import OptimizerError
from optimizer.pipeline import optimize
from optimizer.plan import Plan, load_plan, sealed, write_plan
from optimizer.report.files import write_files
from optimizer.report.table import aligned

OBJECTIVE_TOLERANCE = 1e-6  # relative; a plan repeats to the byte where nothing changed
PREDICTION_TOLERANCE = 1e-6

Verdict = Literal["same", "better", "worse", "changed but equal", "failed"]


class Comparison(NamedTuple):
    """One golden plan beside what is planned now."""

    file: str
    verdict: Verdict
    then: str
    now: str
    differences: tuple[str, ...]
    plan: Plan | None


def regress(paths: Sequence[Path]) -> list[Comparison]:
    """Plans again from each golden file."""
    return [_compare(path) for path in paths]


def _compare(path: Path) -> Comparison:
    golden = load_plan(path)
    try:
        plans = optimize(
            golden.cluster,
            golden.model,
            golden.workload,
            objective=golden.objective,
            top=len(golden.others) + 1,
        )
    except OptimizerError as error:
        return Comparison(path.name, "failed", golden.name, "-", (str(error),), None)
    now = plans.best
    differences = tuple(_differences(golden, now))
    return Comparison(
        path.name, _verdict(golden, now, differences), golden.name, now.name, differences, now
    )


def objective_of(plan: Plan) -> float:
    """The deciding figure of a plan."""
    return plan.proof.value / plan.proof.scale


def _verdict(golden: Plan, now: Plan, differences: tuple[str, ...]) -> Verdict:
    if not differences:
        return "same"
    change = objective_of(now) - objective_of(golden)
    if abs(change) <= OBJECTIVE_TOLERANCE * abs(objective_of(golden)):
        return "changed but equal"
    gain = change if now.proof.sense == "maximize" else -change
    return "better" if gain > 0 else "worse"


def _differences(golden: Plan, now: Plan) -> list[str]:
    """What changed beyond tolerance: choice, objective, bound, status, memory, predictions."""
    found = []
    if golden.name != now.name:
        found.append(f"choice {golden.name} -> {now.name}")
    if golden.deployment.batch != now.deployment.batch:
        found.append("batch")
    if golden.proof.status != now.proof.status:
        found.append(f"status {golden.proof.status} -> {now.proof.status}")
    pairs = {
        now.proof.objective: (objective_of(golden), objective_of(now)),
        "bound": (golden.proof.bound / golden.proof.scale, now.proof.bound / now.proof.scale),
        "memory_bytes": (
            golden.deployment.memory.fullest_bytes,
            now.deployment.memory.fullest_bytes,
        ),
    }
    for name in dict.fromkeys([*golden.predictions, *now.predictions]):
        if name not in golden.predictions or name not in now.predictions:
            found.append(f"prediction {name} appears in one plan only")
        else:
            pairs[name] = (golden.predictions[name].value, now.predictions[name].value)
    for name, (then, value) in pairs.items():
        if abs(value - then) > PREDICTION_TOLERANCE * max(abs(then), 1e-12):
            found.append(f"{name} {then:.6g} -> {value:.6g} ({value / then - 1:+.2%})")
    return found


def regression_table(comparisons: Sequence[Comparison]) -> str:
    """One line a golden plan, and what changed below it."""
    rows = [["golden plan", "verdict", "then", "now"]]
    rows += [[each.file, each.verdict, each.then, each.now] for each in comparisons]
    lines = aligned(rows)
    found = [lines[0]]
    for line, each in zip(lines[1:], comparisons, strict=True):
        found.append(line)
        found += [f"    {difference}" for difference in each.differences]
    return "\n".join(found)


def regression_json(comparisons: Sequence[Comparison]) -> str:
    """regress.json: every comparison without its plan."""
    document = [
        {
            "file": each.file,
            "verdict": each.verdict,
            "then": each.then,
            "now": each.now,
            "differences": list(each.differences),
        }
        for each in comparisons
    ]
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def accept(paths: Sequence[Path], comparisons: Sequence[Comparison], reason: str) -> int:
    """Rewrites each golden file that changed, the reason kept in it; how many were rewritten."""
    count = 0
    for path, each in zip(paths, comparisons, strict=True):
        if each.plan is None or each.verdict == "same":
            continue
        golden = load_plan(path)
        plan = sealed(each.plan.model_copy(update={"accepted": (*golden.accepted, reason)}))
        write_files(path.parent, {path.name: write_plan(plan)})
        count += 1
    return count
