"""The line: read -> enumerate -> lower -> price -> choose -> place -> verify -> write.

read stands before this module (optimizer.spec.reading) and write behind it (optimizer.report);
lower happens inside price, once for each choice of number formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from optimizer.cost.calibration import Calibration
from optimizer.cost.candidates import Candidates
from optimizer.cost.parts import jobs_of, price_parts
from optimizer.cost.rows import Rows, expand
from optimizer.errors import InfeasibleError
from optimizer.layout import (
    Layouts,
    ParallelLayout,
    Reading,
    Space,
    SpanningSpace,
    divisibility_problems,
    enumerate_layouts,
    enumerate_training_layouts,
    read_strategy,
    spanning_spaces,
)
from optimizer.layout.enumeration import spans_of
from optimizer.plan import Plan, Plans, runners_up, sealed
from optimizer.search.assembling import assemble
from optimizer.search.choosing import Chosen, choose
from optimizer.search.experts.balance import imbalances
from optimizer.search.noting import notes_on, unsearched
from optimizer.search.objectives import Objective
from optimizer.search.pareto import pareto_front
from optimizer.search.robustness import matching_part, with_robustness
from optimizer.search.training.assembling import assemble_training
from optimizer.search.training.job import TrainingJob, training_jobs
from optimizer.search.training.parts import training_parts
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import TrainingWorkload, Workload
from optimizer.verify import Finding, verify_plan

NO_LAYOUTS = Layouts(*(np.zeros(0, dtype=np.int64) for _ in fields(Layouts)))


class Priced(NamedTuple):
    """All candidates over pools and number formats; jobs[candidates.precision] priced a row."""

    jobs: tuple[Any, ...]
    candidates: Candidates
    layouts: int
    divisibility: dict[str, int]


def optimize(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    *,
    objective: Objective = "throughput",
    top: int = 5,
    strategy: str | None = None,
    confidence: float | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Plans:
    """The best `top` plans; with `strategy` the best ways to run that one layout; with `confidence`
    plans whose limits hold at the pessimistic end of every prediction; `calibration` in place of
    the one that ships.

    `progress` hears of each step as it begins. Raises InfeasibleError with every broken limit where
    nothing is left.
    """
    progress("enumerating layouts")
    spaces = enumerate_spaces(cluster, model, workload, strategy)
    if confidence is not None:
        spaces = [space for space in spaces if not isinstance(space, SpanningSpace)]
    progress(f"pricing {sum(len(space.layouts) for space in spaces):,} layouts")
    jobs = jobs_for(cluster, model, workload, spaces, strategy, calibration)
    price_all = pricer(jobs, spaces, replicas_of(cluster, model, strategy), top)
    chosen = choose(cluster, price_all(confidence=confidence), objective, top)
    progress(f"placing the best of {chosen.account.candidates:,} candidates")
    notes = [*notes_on(cluster, chosen.left, chosen)]
    notes += unsearched(cluster, model, workload, spaces, confidence)
    if strategy is not None:
        notes = [reading_note(strategy, readings(cluster, model, strategy, workload))]
    plans = place_all(model, priced_from(jobs, spaces, chosen.left), chosen, notes)
    if confidence is not None:
        best = choose(cluster, price_all(), objective, 1).ranked[0]
        tight = matching_part(price_all(confidence=confidence), best.candidate)
        plans = with_robustness(plans, jobs[0], best, tight, confidence)
    return replace(plans, front=pareto_front(cluster, chosen.left))


def reading_note(strategy: str, found: Sequence[Reading]) -> str:
    """How a strategy's name was read, and how else it may be."""
    first = found[0]
    text = f"{strategy} is read as {first.layout.name} on {first.layout.gpus} GPUs ({first.rule})"
    for other in found[1:]:
        text += f"; it may also mean {other.layout.name} on {other.layout.gpus} GPUs ({other.rule})"
    return text


def enumerate_spaces(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    strategy: str | None = None,
) -> list[Space]:
    """The layouts of each pool, or the one layout that a strategy names."""
    pools = range(len(cluster.pools))
    if strategy is None:
        if isinstance(workload, TrainingWorkload):
            return [enumerate_training_layouts(cluster, pool, model, workload) for pool in pools]
        own = [enumerate_layouts(cluster, pool, model, workload) for pool in pools]
        return [*own, *_spanning(cluster, model, own)]
    layout = readings(cluster, model, strategy, workload)[0].layout
    problems = divisibility_problems(layout, model, workload)
    live = cluster.num_live_gpus
    if layout.gpus > live:
        problems.append(f"GPUs: {layout.gpus} needed, {live} there")
    if problems:
        raise InfeasibleError(f"{strategy} ({layout.name}) cannot run", problems)
    return spaces_of(cluster, model, layout, workload)


def spaces_of(
    cluster: Cluster, model: ModelSpec, layout: ParallelLayout, workload: Workload
) -> list[Space]:
    """One layout as the space of every pool, and of every two that its stages may span."""
    own = [space_of(cluster, pool, layout) for pool in range(len(cluster.pools))]
    if isinstance(workload, TrainingWorkload):
        return own
    return [*own, *_spanning(cluster, model, own, layout.pp)]


def _spanning(
    cluster: Cluster, model: ModelSpec, own: Sequence[Space], pp: int | None = None
) -> tuple[Space, ...]:
    stages = [space.layouts for space in own]
    return spanning_spaces(cluster, stages, model.num_layers, pp)


def readings(
    cluster: Cluster, model: ModelSpec, strategy: str, workload: Workload | None = None
) -> tuple[Reading, ...]:
    """How a strategy's name may be read on this cluster, the reading that holds first; training
    counts replicas as data parallelism."""
    experts = model.moe is not None
    trains = isinstance(workload, TrainingWorkload)
    found = read_strategy(strategy, cluster.num_live_gpus, experts, trains)
    if not trains:
        return found
    folded = {each.layout.folded(experts): each for each in reversed(found)}
    return tuple(replace(each, layout=layout) for layout, each in reversed(folded.items()))


def space_of(cluster: Cluster, pool: int, layout: ParallelLayout) -> Space:
    """One layout as the space of a pool, in every way that its stages may lie."""
    spans = spans_of(layout.width, layout.tp, layout.cp, tuple(cluster.live_sizes[pool]))
    layouts = Layouts.concatenate([Layouts.of(layout, span) for span in spans] or [NO_LAYOUTS])
    return Space(layouts, len(spans), {})


def jobs_for(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    spaces: Sequence[Space],
    strategy: str | None = None,
    calibration: Calibration | None = None,
) -> tuple[Any, ...]:
    """What prices: one job for each pool and each choice of number formats."""
    if isinstance(workload, TrainingWorkload):
        named = readings(cluster, model, strategy, workload)[0] if strategy else None
        return training_jobs(cluster, model, workload, _chunks(named))
    hottest = imbalances(model, workload, [space.layouts for space in spaces])
    return jobs_of(cluster, model, workload, hottest, calibration, spaces)


def _chunks(named: Reading | None) -> int | None:
    """The chunks of a stage that a strategy fixes; other people's names that say nothing of them
    leave them to be searched, as they leave the micro-batch."""
    if named is None or (named.rule != "canonical" and named.layout.vp == 1):
        return None
    return named.layout.vp


def pricer(
    jobs: Sequence[Any], spaces: Sequence[Space], replicas: int | None, top: int
) -> Callable[..., Iterable[Candidates]]:
    """The function that prices all candidates of these jobs, part by part."""
    if isinstance(jobs[0], TrainingJob):
        return partial(training_parts, jobs, spaces, top)
    return partial(price_parts, jobs, spaces, replicas)


def price(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    spaces: Sequence[Space],
    strategy: str | None = None,
    rows_of: Callable[..., Rows] = expand,
    confidence: float | None = None,
    calibration: Calibration | None = None,
) -> Priced:
    """Every candidate with its seconds, bytes and limits; `rows_of` spells out the layouts."""
    jobs = jobs_for(cluster, model, workload, spaces, strategy, calibration)
    replicas = replicas_of(cluster, model, strategy)
    parts: Iterable[Candidates]
    if isinstance(jobs[0], TrainingJob):
        parts = training_parts(jobs, spaces, 1)
    else:
        parts = price_parts(jobs, spaces, replicas, rows_of, confidence)
    return priced_from(jobs, spaces, Candidates.concatenate(list(parts)))


def replicas_of(cluster: Cluster, model: ModelSpec, strategy: str | None) -> int | None:
    """The replicas that a strategy fixes."""
    return readings(cluster, model, strategy)[0].layout.replicas if strategy else None


def priced_from(jobs: tuple[Any, ...], spaces: Sequence[Space], candidates: Candidates) -> Priced:
    """Candidates beside what they were enumerated from."""
    divisibility: Counter[str] = Counter()
    for space in spaces:
        divisibility.update(space.removed)
    layouts = sum(len(space.layouts) for space in spaces)
    return Priced(jobs, candidates, layouts, dict(divisibility))


def place_all(model: ModelSpec, priced: Priced, chosen: Chosen, notes: Sequence[str] = ()) -> Plans:
    """The chosen candidates as sealed plans, each with the others beside it."""
    space: dict[str, Any] = {
        "model": model,
        "layouts": priced.layouts,
        "divisibility": priced.divisibility,
    }
    build = assemble_training if isinstance(priced.jobs[0], TrainingJob) else assemble
    plans = [
        build(priced.jobs[int(ranked.candidate.precision[0])], ranked, rank, chosen, space)
        for rank, ranked in enumerate(chosen.ranked, start=1)
    ]
    return Plans(tuple(_finished(plan, plans, notes) for plan in plans))


def verify(plans: Plans) -> list[Finding]:
    """The second opinion on every ranked plan; the findings of the best come first."""
    return [
        finding
        for plan in plans.plans
        for finding in verify_plan(plan.model_dump(mode="json", by_alias=True))
    ]


def claim_line(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    strategy: str,
    plans: Plans,
) -> str:
    """The strategy that somebody claims beside the best plan: by how much it is beaten, or why it
    cannot run."""
    best = plans.best
    try:
        claimed = optimize(
            cluster, model, workload, objective=best.objective, top=1, strategy=strategy
        ).best
    except InfeasibleError as error:
        return f"claimed {strategy} cannot run: {'; '.join(error.reasons)}"
    rate = "tokens_per_s_per_gpu"
    more = best.predictions[rate].value / claimed.predictions[rate].value
    latency = next(
        name for name in ("latency_s", "request_s", "step_s") if name in best.predictions
    )
    faster = claimed.predictions[latency].value / best.predictions[latency].value
    return (
        f"claimed {strategy} ({claimed.name}): {best.name} gives {more:.2f} x its tokens/s and "
        f"1/{faster:.2f} of its latency, on {best.deployment.gpus} GPUs against "
        f"{claimed.deployment.gpus}"
    )


def _finished(plan: Plan, plans: Sequence[Plan], notes: Sequence[str]) -> Plan:
    beside = {"others": runners_up(plan, plans), "notes": (*plan.notes, *notes)}
    return sealed(plan.model_copy(update=beside))
