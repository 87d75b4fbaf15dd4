"""The proof: candidates are accounted for, the bound bounds, and the value is the plan's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from optimizer.verify.counts import layout_name
from optimizer.verify.document import Json, count, degrees, number
from optimizer.verify.finding import Outcome, all_hold, equal

OBJECTIVES = {
    # objective: (what is compared, sense, what breaks ties)
    "throughput": ("tokens/s", "maximize", ["GPUs used", "latency", "canonical order"]),
    "latency": ("latency", "minimize", ["tokens/s", "GPUs used", "canonical order"]),
    "gpus": ("GPUs used", "minimize", ["tokens/s", "latency", "canonical order"]),
    "balanced": ("balanced score", "minimize", ["GPUs used", "latency", "canonical order"]),
}


def proof(plan: Json) -> Iterator[Outcome]:
    """Status, bound and gap agree, and the value is the objective's prediction on the grid."""
    told = plan["proof"]
    value, bound = told["value"], told["bound"]
    whole = all(isinstance(end, int) and not isinstance(end, bool) for end in (value, bound))
    yield whole, f"value {value!r} and bound {bound!r} are whole numbers"
    what, sense, ties = OBJECTIVES[plan["objective"]]
    yield equal("objective", told["objective"], what)
    yield equal("sense", told["sense"], sense)
    yield equal("tie-break", told["tie_break"], ties)
    right = bound >= value if sense == "maximize" else bound <= value
    yield right, f"to {sense} {value}: no plan can reach beyond {bound}"
    yield equal("gap", told["gap"], abs(bound - value) / max(1, abs(value)))
    known = told["status"] in ("OPTIMAL", "FEASIBLE", "GIVEN")
    closed = told["status"] != "OPTIMAL" or bound == value
    yield known and closed, f"{told['status']} with value {value} and bound {bound}"
    scale = number(told["scale"])
    power = scale > 0 and 10.0 ** round(math.log10(scale)) == scale
    yield power, f"scale {scale:.7g}: a power of ten"
    real = _objective_value(plan)
    if real is not None:
        replicas = sum(degrees(each)["replicas"] for each in plan["deployments"])
        near = abs(value - real * scale) <= replicas * 0.5 + abs(value) * 1e-12 + 0.5
        yield near, f"{what}: {value} on the grid, {real * scale:.9g} predicted"


def _objective_value(plan: Json) -> float | None:
    """The deciding quantity; the balanced score compares with plans that are not in this file."""
    predicted = plan["predictions"]
    if plan["objective"] == "throughput":
        return number(predicted["tokens_per_s"]["value"])
    if plan["objective"] == "latency":
        names = ("request_s", "latency_s", "step_s")
        name = next((name for name in names if name in predicted), names[0])
        return number(predicted[name]["value"])
    if plan["objective"] == "gpus":
        return float(sum(count(each["gpus"], 1) for each in plan["deployments"]))
    return None


def candidates(plan: Json) -> Iterator[Outcome]:
    """Each candidate broke a limit, was dominated, or was given to the solver."""
    told = plan["proof"]
    parts = [count(told[name]) for name in ("infeasible", "dominated", "given")]
    yield equal("candidates", count(told["candidates"], 1), sum(parts))
    together = told["broken_together"]
    yield equal("candidates that break a limit", parts[0], sum(map(count, together.values())))
    single: dict[str, int] = dict.fromkeys(told["broken"], 0)
    for names, amount in together.items():
        for name in names.split(" + "):
            single[name] = single.get(name, 0) + amount
    for name, amount in single.items():
        yield equal(f"candidates that break {name}", told["broken"].get(name), amount)
    yield parts[2] > 0, f"{parts[2]} candidates given to the solver"


def others(plan: Json) -> Iterator[Outcome]:
    """Runner-ups are ranked without gaps, ordered by the objective, and differ in layout."""
    told = plan["proof"]
    scale, sign = number(told["scale"]), -1 if told["sense"] == "maximize" else 1
    rows = [(count(plan["rank"], 1), plan["name"], told["value"])]
    for other in plan["others"]:
        rows.append((count(other["rank"], 1), other["name"], other["value"]))
        yield equal(f"{other['name']} objective", other["objective"], other["value"] / scale)
        yield equal(f"{other['name']} GPUs", other["gpus"], gpus_of_name(other["name"]))
    rows.sort()
    yield equal("ranks", [rank for rank, _, _ in rows], list(range(1, len(rows) + 1)))
    yield equal("layouts", len({name for _, name, _ in rows}), len(rows))
    values = [sign * value for _, _, value in rows]
    yield all_hold(
        "ranked by the objective",
        ((a <= b, f"{sign * a} before {sign * b}") for a, b in pairwise(values)),
    )
    names = {layout_name(degrees(each)) for each in plan["deployments"]}
    yield plan["name"] in names or len(names) > 1, f"name {plan['name']}: {sorted(names)}"


def gpus_of_name(name: str) -> int:
    """GPUs of a canonical name: replicas x pp x tp x cp x dp."""
    gpus = 1
    for word in name.split("-"):
        letters = word.rstrip("0123456789")
        if letters in ("PP", "TP", "CP", "DP", "x"):
            gpus *= int(word[len(letters) :])
    return gpus
