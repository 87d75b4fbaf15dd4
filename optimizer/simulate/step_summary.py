"""Steps of a plan as figures and as a few lines to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimizer.simulate.step import StepRun
from optimizer.units import gib, milliseconds

STALLED_SHOWN = 8


def steps_summary(plan_name: str, plan_hash: str, runs: Sequence[StepRun]) -> dict[str, Any]:
    """The document steps.json."""
    return {
        "plan": plan_name,
        "plan_hash": plan_hash,
        "steps": [step_summary(run) for run in runs],
    }


def step_summary(step: StepRun) -> dict[str, Any]:
    """One phase: seconds, the plan's own, and each rank's time and memory."""
    run, length = step.run, max(step.run.seconds, 1e-12)
    graph = run.graph
    found: dict[str, Any] = {
        "deployment": step.deployment.name,
        "phase": step.phase,
        "micro_batches": step.micro_batches,
        "step_s": step.step_s if run.complete else None,
        "planned_s": step.planned_s,
        "simulated_seconds": run.seconds,
        "nodes": len(graph),
        "peak_bytes": step.static_bytes + float(step.memory.peak_bytes.max(initial=0.0)),
        "planned_bytes": step.deployment.memory.fullest_bytes,
        "ranks": [
            {
                "gpu": rank.gpu,
                "stage": rank.stage,
                "stands_for": rank.stands_for,
                "compute_share": float(step.ranks.compute_s[place]) / length,
                "exposed_communication_share": float(step.ranks.exposed_s[place]) / length,
                "idle_share": float(step.ranks.idle_s[place]) / length,
                "communication_s": float(step.ranks.communication_s[place]),
                "transient_peak_bytes": float(step.memory.peak_bytes[place]),
            }
            for place, rank in enumerate(graph.ranks)
        ],
        "notes": list(step.notes),
    }
    if not run.complete:
        found["stopped"] = _stopped(step)
    return found


def _stopped(step: StepRun) -> dict[str, Any]:
    """What a death leaves undone: the share of nodes, micro-batches that came through, and the
    first operator that each rank waits for in vain."""
    run, graph = step.run, step.run.graph
    ended = np.isfinite(run.end_s)
    stuck: dict[int, str] = {}
    for node in np.flatnonzero(~ended).tolist():
        operation = graph.operations[graph.operation[node]]
        for rank in graph.teams[graph.team[node]]:
            where = f", layer {graph.layer[node]}" if graph.layer[node] >= 0 else ""
            stuck.setdefault(
                rank, f"{operation.name}{where}, micro-batch {graph.micro_batch[node]}"
            )
    numbers = range(int(graph.micro_batch.max()) + 1)
    whole = [n for n in numbers if ended[(graph.micro_batch == n) & (graph.turn == 0)].all()]
    return {
        "nodes_left_share": float((~ended).mean()),
        "micro_batches_done": len(whole),
        "waits_for": {graph.ranks[rank].gpu: stuck[rank] for rank in sorted(stuck)},
    }


def steps_text(found: dict[str, Any]) -> str:
    """A few lines a phase."""
    lines = []
    for step in found["steps"]:
        ranks = step["ranks"]
        mean = {
            name: sum(rank[f"{name}_share"] for rank in ranks) / len(ranks)
            for name in ("compute", "exposed_communication", "idle")
        }
        time = "stops" if step["step_s"] is None else milliseconds(step["step_s"])
        lines += [
            f"{step['phase']} step of {step['deployment']}: {time}; the plan says "
            f"{milliseconds(step['planned_s'])}",
            f"  compute {mean['compute']:.1%}, exposed communication "
            f"{mean['exposed_communication']:.1%}, idle {mean['idle']:.1%}",
            f"  memory {gib(step['peak_bytes'])} at its peak; the plan says "
            f"{gib(step['planned_bytes'])}",
        ]
        if "stopped" in step:
            waits = list(step["stopped"]["waits_for"].items())
            lines += [f"  {gpu} waits for {what}" for gpu, what in waits[:STALLED_SHOWN]]
            if len(waits) > STALLED_SHOWN:
                lines.append(f"  ... and {len(waits) - STALLED_SHOWN} more")
        lines += [f"  {note}" for note in step["notes"]]
    return "\n".join(lines)
