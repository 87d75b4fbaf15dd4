"""What the terminal shows: a table that a person reads in ten seconds, and the winner's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from optimizer.plan import Joint, Plan, Plans, Robustness, Training
from optimizer.units import BYTES, figure, gib, milliseconds, parse

NEAR = 0.9  # share of a limit that is nearly all of it


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, every column as wide as its widest cell; the first is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def tightest(plan: Plan) -> str:
    """The limit with the least relative slack: what stops this plan from doing more. That all GPUs
    are used is said only where no other limit is nearly reached."""
    limits = [limit for limit in plan.limits if limit.limit > 0]
    near = [each for each in limits if each.name != "GPUs" and each.need >= NEAR * each.limit]
    nearest = min(near or limits, key=lambda limit: limit.slack / limit.limit)
    return f"{nearest.name} ({nearest.need / nearest.limit:.0%})"


TIMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency", "step_s": "step"}


def plan_table(plans: Plans) -> str:
    """The ranked plans."""
    shown = {name: word for name, word in TIMES.items() if name in plans.best.predictions}
    trains = "step_s" in shown
    pools = len(plans.best.cluster.pools) > 1
    head = [
        "rank",
        "plan",
        *(["pools"] if pools else []),
        "GPUs",
        "micro-batches" if trains else "at once",
        *shown.values(),
    ]
    head += ["tokens/s/GPU", *(["MFU"] if trains else []), "memory", "limited by"]
    rows = [head]
    for plan in plans.plans:
        value = {name: prediction.value for name, prediction in plan.predictions.items()}
        memory = plan.deployment.memory
        rows.append(
            [
                str(plan.rank),
                plan.name,
                *([plan.pools] if pools else []),
                str(sum(deployment.gpus for deployment in plan.deployments)),
                at_once(plan),
                *(milliseconds(value[name]) for name in shown),
                f"{value['tokens_per_s_per_gpu']:,.0f}",
                *([f"{value['mfu']:.1%}"] if trains else []),
                f"{gib(memory.fullest_bytes)} of {gib(memory.gpu_bytes)}",
                tightest(plan),
            ]
        )
    return "\n".join(aligned(rows))


def at_once(plan: Plan) -> str:
    """Requests in flight; of training its micro-batches: "64 x 3 sequences"."""
    training = plan.deployment.training
    if training is None:
        return f"{plan.deployment.batch.concurrency:,.0f}"
    return f"{training.micro_batches:,} x {training.micro_batch}"


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
        f"{proof.status}: {proof.objective} {figure(value)}, bound {figure(bound)}, "
        f"gap {proof.gap:.2%}; {proof.candidates:,} candidates of {proof.layouts:,} layouts: "
        f"{proof.infeasible:,} broke a limit{f' ({broken})' if broken else ''}, "
        f"{proof.dominated:,} dominated, {proof.given:,} given to the solver"
    )


def training_lines(plan: Plan, training: Training) -> str:
    """How the best plan's step runs and what its seconds go to."""
    layout = plan.deployment.layout
    parallel = ", sequence parallelism" if training.sequence_parallel else ""
    over = f" over {training.shard_ranks}" if training.shard_ranks > 1 else ""
    rows = [
        ["a step", milliseconds(plan.predictions["step_s"].value)],
        ["  schedule", f"{training.schedule}, pp {layout.pp}, vp {layout.vp}{parallel}"],
        ["  micro-batches", f"{training.micro_batches} of {training.micro_batch} sequences"],
        ["  sharding", f"{training.sharding}{over}, {training.optimizer}, {training.compute}"],
        ["  recompute", recompute_text(training)],
        ["  layers by chunk", chunk_text(plan)],
        *(
            [f"  {name}", milliseconds(seconds)]
            for name, seconds in training.step_seconds.items()
            if seconds
        ),
    ]
    rows.append(["  layers and recompute", joint_text(training.joint)])
    return "\n".join(aligned(rows))


def recompute_text(training: Training) -> str:
    """Layers by what they recompute: "none" or "mlp x 12, none x 84"."""
    counts = Counter(training.recompute)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{mode} x {many}" for mode, many in sorted(counts.items()))


def chunk_text(plan: Plan) -> str:
    """Layers of the chunks in order, runs folded: "5 x 2, 6"."""
    sizes = [stop - first for first, stop in plan.deployment.placement.stage_layers]
    runs = [(size, len(list(group))) for size, group in groupby(sizes)]
    return ", ".join(f"{many} x {size}" if many > 1 else str(size) for size, many in runs)


def joint_text(joint: Joint) -> str:
    """What the joint model of layers and recomputation proved."""
    return (
        f"{joint.status}: of {joint.within_reach:,} choices that memory binds {joint.bounded:,} "
        f"beaten by a bound, {joint.solved:,} solved by layer, {joint.better:,} better"
    )


def robustness_line(plan: Plan, robustness: Robustness) -> str:
    """What robustness costs, and which limits ask for it."""
    shares = ", ".join(
        f"{name} {1 / (robustness.interval[name] * robustness.stress[name]):.0%}"
        for name in robustness.interval
    )
    forced = ", ".join(robustness.binding) or "no limit: the nominal best keeps all of them"
    return (
        f"robust at {robustness.confidence:.0%}: costs {robustness.cost:.1%} of "
        f"{plan.proof.objective} against the nominal best {robustness.nominal_name}, forced by "
        f"{forced}; "
        f"figures may fill so much of their limits: {shares}"
    )


def assumption_lines(plan: Plan) -> str:
    """What nobody stated."""
    rows = [[f"  {each.key}", _readable(each.value), each.why] for each in plan.assumptions]
    if not rows:
        return "assumptions: none"
    return "\n".join(["assumptions:", *aligned(rows)])


def _readable(value: str) -> str:
    """An assumed value as a reader has it: bytes in GiB."""
    number, _, unit = value.rpartition(" ")
    is_bytes = unit == "B" and number.replace(".", "", 1).isdigit()
    return gib(parse(value, BYTES, value)) if is_bytes else value


def summary_text(plans: Plans) -> str:
    """All that a run prints."""
    best = plans.best
    shown = {plan.rank for plan in plans.plans}
    lost = [
        f"  {other.rank}. {other.name}: {other.why}" for other in best.others if other.rank in shown
    ]
    parts = [plan_table(plans), memory_lines(best), proof_line(best)]
    if best.deployment.training is not None:
        parts.insert(1, training_lines(best, best.deployment.training))
    if lost:
        parts.append("\n".join(["why the others lost:", *lost]))
    if best.robustness is not None:
        parts.append(robustness_line(best, best.robustness))
    notes = [*(f"{best.model.name}: {note}" for note in best.model.notes), *best.notes]
    if notes:
        parts.append("\n".join(["notes:", *(f"  {note}" for note in notes)]))
    parts.append(assumption_lines(best))
    return "\n\n".join(parts)
