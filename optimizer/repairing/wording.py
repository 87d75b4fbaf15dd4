"""Refusals and remedies for a reader, and for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from optimizer.plan import write_plan
from optimizer.repairing.refusing import BeforeAfter, Refusal, Repair
from optimizer.repairing.remedies import Remedy, State
from optimizer.report.table import aligned
from optimizer.search.relaxing import COSTS
from optimizer.search.wording import UNITS, amount
from optimizer.units import gib, milliseconds

SCHEMA_VERSION = "1.0"


def render(refusal: Refusal) -> str:
    """All that is printed where there is no plan."""
    job = refusal.job
    subject = f" with {job.strategy}" if job.strategy else ""
    subject += f" at confidence {job.confidence:g}" if job.confidence is not None else ""
    parts = [f"no plan of {job.model.name} on {job.cluster.name}{subject}"]
    if refusal.reading:
        parts[0] += f"\n{refusal.reading}"
    if refusal.problems:
        parts.append("\n".join(["before any limit:", *(f"  {each}" for each in refusal.problems)]))
    if refusal.conflicts:
        lines = ["limits in conflict (no candidate keeps all limits of a line):"]
        lines += [f"  {conflict}" for conflict in refusal.conflicts]
        if any(each.limit == "memory" for one in refusal.conflicts for each in one.limits):
            lines += [f"  {line}" for line in _margins(refusal)]
        parts.append("\n".join(lines))
    parts.append(_repairs(refusal.repairs))
    if refusal.unproven:
        lines = ["changes that were tried and did not hold:"]
        parts.append("\n".join([*lines, *(f"  {each}" for each in refusal.unproven)]))
    return "\n\n".join(parts)


def _margins(refusal: Refusal) -> list[str]:
    margin = refusal.job.workload.memory_margin
    sizes = dict.fromkeys(pool.gpu.memory_bytes for pool in refusal.job.cluster.pools)
    return [
        f"(memory there is {gib(size)} of a GPU less the margin of {100 * margin:.3g} %)"
        for size in sizes
    ]


def _repairs(repairs: Sequence[Repair]) -> str:
    if not repairs:
        return "repairs: none found among single changes and pairs"
    lines = ["repairs, cheapest first; each is a plan that passed every check of verify:"]
    for number, repair in enumerate(repairs, start=1):
        lines.append(f"  {number}. {repair.text}   [cost {repair.cost:.1f}]")
        plan = repair.plan
        rate = plan.predictions["tokens_per_s"].value
        size = f"{plan.name} on {plan.deployment.gpus:,} GPUs, {rate:,.0f} tokens/s"
        lines.append(f"     {size}: {_moves(repair)}")
    kinds = dict.fromkeys(change.kind for repair in repairs for change in repair.changes)
    lines += ["cost of change (a launch flag, set and checked, is about 1):"]
    rows = [
        [f"  {kind}", f"{cost.base:g} + {cost.per_octave:g} a doubling", cost.why]
        for kind in kinds
        for cost in [COSTS[kind]]
    ]
    return "\n".join([*lines, *aligned(rows)])


def _moves(repair: Repair) -> str:
    """Memory, and each limit that was broken or has moved."""
    shown = [
        each
        for each in repair.limits
        if each.limit == "memory"
        or each.before is None
        or each.before[0] > each.before[1]
        or each.before[1] != each.after[1]
    ]
    return "; ".join(_move(each) for each in shown)


def _move(each: BeforeAfter) -> str:
    """A limit of a repair's plan, after what it was before where that was too much."""
    after = f"{amount(each.limit, each.after[0])} of {amount(each.limit, each.after[1])}"
    if each.before is None or each.before[0] <= each.before[1]:
        return f"{each.limit} {after}"
    before = f"{amount(each.limit, each.before[0])} of {amount(each.limit, each.before[1])}"
    return f"{each.limit} {before} -> {after}"


def refusal_files(refusal: Refusal) -> dict[str, str]:
    """infeasible.json, and the plan of each repair in a file of its own."""
    document = json.dumps(refusal_json(refusal), indent=1, ensure_ascii=False) + "\n"
    plans = {
        _plan_file(number): write_plan(repair.plan)
        for number, repair in enumerate(refusal.repairs, start=1)
    }
    return {"infeasible.json": document, **plans}


def _plan_file(number: int) -> str:
    return f"repair_{number}.json"


def refusal_json(refusal: Refusal) -> dict[str, Any]:
    """The refusal as plain values; plans stand beside it (see refusal_files)."""
    job = refusal.job
    return {
        "schema_version": SCHEMA_VERSION,
        "cluster": {"name": job.cluster.name, "live_gpus": job.cluster.num_live_gpus},
        "model": job.model.name,
        "workload": job.workload.model_dump(mode="json", by_alias=True),
        "strategy": job.strategy,
        "objective": job.objective,
        "confidence": job.confidence,
        "reading": refusal.reading,
        "problems": list(refusal.problems),
        "conflicts": [
            [
                {
                    "limit": each.limit,
                    "need": each.need,
                    "there": each.there,
                    "unit": UNITS.get(each.limit, "s"),
                    "where": each.where,
                }
                for each in conflict.limits
            ]
            for conflict in refusal.conflicts
        ],
        "costs": {kind: cost._asdict() for kind, cost in COSTS.items()},
        "repairs": [
            _repair_json(repair, number) for number, repair in enumerate(refusal.repairs, start=1)
        ],
        "unproven": list(refusal.unproven),
    }


def _repair_json(repair: Repair, number: int) -> dict[str, Any]:
    return {
        "cost": repair.cost,
        "changes": [
            {"kind": each.kind, "what": each.what, "text": each.text, "cost": each.cost}
            for each in repair.changes
        ],
        "plan": {"name": repair.plan.name, "file": _plan_file(number), "hash": repair.plan.hash},
        "gpus": repair.plan.deployment.gpus,
        "predictions": {
            name: prediction.value for name, prediction in repair.plan.predictions.items()
        },
        "limits": [
            {
                "limit": each.limit,
                "unit": UNITS.get(each.limit, "s"),
                "before": each.before,
                "after": each.after,
            }
            for each in repair.limits
        ],
        "checks": repair.checks,
    }


def render_remedies(remedies: Sequence[Remedy]) -> str:
    """A table of remedies: verdict, bytes of the fullest GPU before and after, time, what moved."""
    if not remedies:
        return "no remedies"
    before = remedies[0].before
    head = [f"before: {_state(before)}"]
    rows = [["remedy", "verdict", "fullest GPU", "time", "what it does"]]
    for remedy in remedies:
        after = remedy.after
        change = after.gpu_bytes - before.gpu_bytes
        sign = "+" if change >= 0 else "-"
        rows.append(
            [
                remedy.name,
                remedy.verdict,
                f"{gib(after.gpu_bytes)} ({sign}{gib(abs(change))})",
                milliseconds(after.seconds),
                "; ".join([remedy.text, *_components(remedy), *after.broken]),
            ]
        )
    return "\n".join([*head, *aligned(rows)])


def _state(state: State) -> str:
    limits = "; ".join(state.broken) or "every limit holds"
    sizes = f"{gib(state.gpu_bytes)} of {gib(state.allowed_bytes)} allowed"
    return f"{sizes} on the fullest GPU, {milliseconds(state.seconds)}; {limits}"


def _components(remedy: Remedy) -> list[str]:
    """The components of memory that change."""
    return [
        f"{name} {gib(old)} -> {gib(new)}"
        for name, old in remedy.before.components.items()
        if (new := remedy.after.components[name]) != old
    ]
