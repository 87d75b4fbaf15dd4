"""Launches to findings: layout, GPUs, the engine's rules, memory, cache, speed, the better plan."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, floor

from optimizer.audit.better import rate_of
from optimizer.audit.finding import Audit, BetterPlan, Finding, Readiness
from optimizer.audit.launch.capacity import Capacity, capacity_of, signed_gib
from optimizer.audit.launch.launch import Launch
from optimizer.audit.launch.pricing import Best, Served, best_plan, compared, served, unpriced
from optimizer.audit.launch.rules import broken, unjudged
from optimizer.cost.calibration import load_calibration
from optimizer.plan import Plan
from optimizer.spec.cluster import Cluster
from optimizer.spec.workload import Limit, ServingWorkload
from optimizer.units import GIB, gib, milliseconds

LATENCIES = ("ttft", "tpot")


def judge(
    launch: Launch,
    cluster: Cluster,
    workload: ServingWorkload,
    known: dict[str, Best] | None = None,
) -> Audit:
    """All that can be said of a serving command; `known` keeps best plans between commands."""
    findings = [
        *_layout_findings(launch, cluster),
        *(broken(launch.name, launch.engine, rule) for rule in launch.rules),
    ]
    now: Served | None = None
    capacity: Capacity | None = None
    if launch.layout is not None and len(launch.stage_layers or ()) in (0, launch.layout.pp):
        capacity = capacity_of(launch, cluster.pools[0].gpu.memory_bytes)
        findings += [*_memory_findings(launch, capacity), *_cache_findings(launch, capacity)]
        if launch.gpus <= cluster.num_live_gpus and capacity.room.bytes > 0:
            now = served(launch, cluster, workload, capacity)
    if now is not None:
        findings += _limit_findings(launch, workload, now)
    findings += unjudged(launch.name, launch.not_judged)
    blocking = [
        found
        for found in findings
        if found.verdict == "refuted" and found.quantity != "layout"  # its broken rule says why
    ]
    limits = tuple(f"{found.claim}: {found.arithmetic}" for found in blocking)
    runs = all(found.quantity in LATENCIES for found in blocking)
    ready = Readiness(
        case=launch.name,
        strategy=launch.flags,
        phase="serving",
        ready=not limits,
        limits=limits,
        arithmetic=now.line() if now else _silence(launch, cluster, capacity),
    )
    best = _best(launch, cluster, workload, now, {} if known is None else known)
    better = BetterPlan(
        case=launch.name,
        strategy=launch.flags,
        phase="serving",
        claimed_plan=launch.layout.name if launch.layout is not None else "",
        plan=best.name if isinstance(best, Plan) else "",
        times=rate_of(best) / now.tokens_per_s if isinstance(best, Plan) and now and runs else None,
        comparison=compared(launch, now if runs else None, best),
    )
    return Audit(findings=tuple(findings), readiness=(ready,), better=(better,))


def _silence(launch: Launch, cluster: Cluster, capacity: Capacity | None) -> str:
    """Why nothing is predicted."""
    if launch.layout is None:
        return "no prediction: the degrees make no layout"
    if launch.gpus > cluster.num_live_gpus:
        return f"no prediction: {launch.gpus} GPUs needed, {cluster.num_live_gpus} there"
    if capacity is None or capacity.room.bytes <= 0:
        return "no prediction: nothing is left for the cache"
    if unpriced(launch):
        return f"no prediction: {unpriced(launch)}"
    return "no prediction: no request of the workload fits, or the cost model has no such layout"


def _best(
    launch: Launch,
    cluster: Cluster,
    workload: ServingWorkload,
    now: Served | None,
    known: dict[str, Best],
) -> Best:
    running = now.running if now is not None else workload.concurrency
    key = f"{launch.engine} {launch.gpus} {running} {launch.model.model_dump_json()}"
    if key not in known:
        known[key] = best_plan(launch, cluster, workload, running)
    return known[key]


def _finding(launch: Launch, claim: str, quantity: str, **rest: object) -> Finding:
    fields = {"assumptions": launch.assumptions} if quantity in ("memory", "cache") else {}
    row = {"case": launch.name, "claim": claim, "quantity": quantity, **fields, **rest}
    return Finding.model_validate(row)


def _layout_findings(launch: Launch, cluster: Cluster) -> Iterator[Finding]:
    layout, refused = launch.layout, any(rule.kind == "refused" for rule in launch.rules)
    yield _finding(
        launch,
        launch.flags,
        "layout",
        verdict="refuted" if layout is None or refused else "confirmed",
        derived_value=layout.name if layout is not None else "no layout",
        arithmetic=launch.derivation,
    )
    there = cluster.num_live_gpus
    yield _finding(
        launch,
        f"{launch.flags} on {there} GPUs",
        "gpus",
        claimed_value=float(there),
        claimed_unit="GPUs",
        verdict="confirmed" if launch.gpus <= there else "refuted",
        derived_value=float(launch.gpus),
        derived_unit="GPUs",
        arithmetic=f"{launch.gpus} GPUs needed, {there} there"
        + (
            "" if launch.gpus <= there else f"; if there are more, say so with --gpus {launch.gpus}"
        ),
    )


def _memory_findings(launch: Launch, capacity: Capacity) -> Iterator[Finding]:
    """Weights and working memory against the GPU; the cache has what the budget leaves."""
    held = capacity.static_bytes + capacity.working_bytes
    total, room = capacity.total_bytes, capacity.room
    stated = launch.budget.stated_bytes if launch.budget.kind == "stated" else 0.0
    reasons = []
    if held + stated > total:
        cache = f" + cache {gib(stated)}" if stated else ""
        reasons.append(f"{gib(held)}{cache} of {gib(total)}")
    elif room.bytes <= 0:
        reasons.append(f"no room for the cache: {room.arithmetic}")
    elif launch.budget.kind == "static":
        left = total * (1 - launch.budget.fraction)
        if left < capacity.working_bytes:
            reasons.append(
                f"{launch.budget.flag} leaves {gib(left)} for {gib(capacity.working_bytes)} of "
                "activations, logits, buffers and runtime"
            )
    yield _finding(
        launch,
        f"{launch.budget.flag} on GPUs of {gib(total)}",
        "memory",
        verdict="refuted" if reasons else "confirmed",
        derived_value=held / GIB,
        derived_unit="GiB",
        arithmetic="; ".join([f"{capacity.by_component()} = {gib(held)}", *reasons]),
    )


def _cache_findings(launch: Launch, capacity: Capacity) -> Iterator[Finding]:
    """One request of the longest context, and as many as may run."""
    one = capacity.request_bytes
    holds = (
        f"cache {capacity.room.arithmetic}; {gib(one)} a request of {capacity.context:,} tokens: "
        f"{capacity.requests:.2f} requests, {capacity.tokens:,} tokens"
    )
    if launch.budget.most_tokens is not None:
        holds += f", capped at {launch.budget.most_tokens:,} tokens"
    fits = capacity.requests >= 1
    # vLLM refuses to start with less than one request; the others serve shorter ones.
    shortens = launch.engine != "vllm" and "(default)" in launch.context_flag and capacity.tokens
    verdict = "confirmed" if fits else "confirmed-under-reading" if shortens else "refuted"
    yield _finding(
        launch,
        launch.context_flag,
        "cache",
        claimed_value=float(launch.context),
        claimed_unit="tokens",
        verdict=verdict,
        reading="" if fits or not shortens else f"requests of at most {capacity.tokens:,} tokens",
        derived_value=float(capacity.tokens),
        derived_unit="tokens",
        arithmetic=holds if fits else f"{holds}; one request does not fit ({signed_gib(one)})",
    )
    if not fits:
        return
    per_rank = capacity.tokens // launch.sequences
    all_fit = capacity.requests >= launch.sequences
    text = f"{launch.sequences:,} requests of {capacity.tokens:,} tokens in all: {per_rank:,} each"
    yield _finding(
        launch,
        launch.sequences_flag,
        "cache",
        claimed_value=float(launch.sequences),
        claimed_unit="requests a rank",
        verdict="confirmed" if all_fit else "confirmed-under-reading",
        derived_value=float(floor(capacity.requests)),
        derived_unit="requests of full length",
        reading="" if all_fit else f"requests of at most {per_rank:,} tokens; else the rest waits",
        arithmetic=text,
    )


def _limit_findings(launch: Launch, workload: ServingWorkload, now: Served) -> Iterator[Finding]:
    """The workload's limits against the prediction; percentiles by the calibration's ratios."""
    calibration = load_calibration()
    for name, mean in zip(LATENCIES, (now.ttft_s, now.tpot_s), strict=True):
        limit: Limit | None = getattr(workload, name)
        if limit is None:
            continue
        ratio = calibration.percentiles[name].get(limit.statistic, 1.0)
        width = getattr(calibration.interval, name)
        value = mean * ratio
        kept = value <= limit.value_s
        text = f"predicted {milliseconds(value)} ({milliseconds(value * exp(-width))} to "
        text += f"{milliseconds(value * exp(width))}) with {now.running:,} requests in flight"
        text += f"; {limit.statistic} = {ratio:g} x the mean" if ratio != 1 else ""
        yield _finding(
            launch,
            f"{limit.statistic} {name.upper()} of at most {milliseconds(limit.value_s)}",
            name,
            claimed_value=limit.value_s * 1e3,
            claimed_unit="ms",
            verdict="confirmed" if kept else "refuted",
            derived_value=value * 1e3,
            derived_unit="ms",
            arithmetic=text,
        )
