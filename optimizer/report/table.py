"""What the terminal shows: a table that a person reads in ten seconds, and the winner's memory."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.plan import Plan, Plans, Robustness
from optimizer.units import gib, milliseconds


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, every column as wide as its widest cell; the first is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def tightest(plan: Plan) -> str:
    """The limit with the least relative slack: what stops this plan from doing more."""
    limits = [limit for limit in plan.limits if limit.limit > 0]
    nearest = min(limits, key=lambda limit: limit.slack / limit.limit)
    return f"{nearest.name} ({nearest.need / nearest.limit:.0%})"


def plan_table(plans: Plans) -> str:
    """The ranked plans."""
    serving = "ttft_s" in plans.best.predictions
    head = ["rank", "plan", "GPUs", "at once"]
    head += ["TTFT", "TPOT"] if serving else ["latency"]
    head += ["tokens/s/GPU", "memory", "limited by"]
    rows = [head]
    for plan in plans.plans:
        value = {name: prediction.value for name, prediction in plan.predictions.items()}
        times = ["ttft_s", "tpot_s"] if serving else ["latency_s"]
        memory = plan.deployment.memory
        rows.append(
            [
                str(plan.rank),
                plan.name,
                str(sum(deployment.gpus for deployment in plan.deployments)),
                f"{plan.deployment.batch.concurrency:,.0f}",
                *(milliseconds(value[name]) for name in times),
                f"{value['tokens_per_s_per_gpu']:,.0f}",
                f"{gib(memory.fullest_bytes)} of {gib(memory.gpu_bytes)}",
                tightest(plan),
            ]
        )
    return "\n".join(aligned(rows))


def memory_lines(plan: Plan) -> str:
    """Memory of the fullest GPU by component."""
    memory = plan.deployment.memory
    stage = memory.stages[memory.fullest_stage]
    rows = [["memory of the fullest GPU", f"stage {stage.stage}"]]
    rows += [[f"  {name}", gib(size)] for name, size in stage.components.items() if size]
    rows.append(["  in all", f"{gib(stage.total_bytes)} of {gib(memory.limit_bytes)} allowed"])
    return "\n".join(aligned(rows))


def proof_line(plan: Plan) -> str:
    """How the answer is proven, in one line."""
    proof = plan.proof
    broken = ", ".join(f"{count:,} {name}" for name, count in proof.broken.items() if count)
    value, bound = proof.value / proof.scale, proof.bound / proof.scale
    return (
        f"{proof.status}: {proof.objective} {value:,.6g}, bound {bound:,.6g}, gap {proof.gap:.2%}; "
        f"{proof.candidates:,} candidates of {proof.layouts:,} layouts: {proof.infeasible:,} broke "
        f"a limit{f' ({broken})' if broken else ''}, {proof.dominated:,} dominated, "
        f"{proof.given:,} given to the solver"
    )


def robustness_line(plan: Plan, robustness: Robustness) -> str:
    """What robustness costs, and which limits ask for it."""
    shares = ", ".join(
        f"{name} {1 / (robustness.interval[name] * robustness.stress[name]):.0%}"
        for name in robustness.interval
    )
    forced = ", ".join(robustness.binding) or "no limit: the nominal best keeps all of them"
    return (
        f"robust at {robustness.confidence:.0%}: {robustness.cost:.1%} of {plan.proof.objective} "
        f"against the nominal best {robustness.nominal_name}, forced by {forced}; "
        f"figures may fill so much of their limits: {shares}"
    )


def assumption_lines(plan: Plan) -> str:
    """What nobody stated."""
    rows = [[f"  {known.key}", known.value, known.why] for known in plan.assumptions]
    if not rows:
        return "assumptions: none"
    return "\n".join(["assumptions:", *aligned(rows)])


def summary_text(plans: Plans) -> str:
    """All that a run prints."""
    best = plans.best
    lost = [f"  {other.rank}. {other.name}: {other.why}" for other in best.others]
    parts = [plan_table(plans), memory_lines(best), proof_line(best)]
    if lost:
        parts.append("\n".join(["why the others lost:", *lost]))
    if best.robustness is not None:
        parts.append(robustness_line(best, best.robustness))
    if best.notes:
        parts.append("\n".join(["notes:", *(f"  {note}" for note in best.notes)]))
    parts.append(assumption_lines(best))
    return "\n\n".join(parts)
