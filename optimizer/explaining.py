"""Why one layout and not another: the named one beside the winner, and what would make it win."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optimizer.errors import InfeasibleError
from optimizer.layout import ParallelLayout, divisibility_problems
from optimizer.pipeline import optimize, place_all, price, reading_note, readings, spaces_of, verify
from optimizer.plan import Plan, explanation
from optimizer.search.choosing import choose
from optimizer.search.objectives import Objective
from optimizer.spec.cluster import Cluster, Link
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload, Limit, ServingWorkload, Workload
from optimizer.units import gib, milliseconds

FACTORS = tuple(2.0**power for power in range(-4, 5))  # of today's value, where there is one
BISECTIONS = 6  # between two factors: to 1 % of the value


@dataclass(frozen=True)
class Setting:
    """One figure of the job that may change: its name, its values in order, how a value is shown,
    and the job with that value."""

    name: str
    values: tuple[float, ...]
    today: float | None
    show: Callable[[float], str]
    apply: Callable[[float], tuple[Cluster, Workload]]
    whole: bool = False


@dataclass(frozen=True)
class BreakEven:
    """The value nearest to today's at which the named layout is no worse than the winner (None:
    nowhere in the range), and who is best of all there."""

    setting: Setting
    value: float | None
    below: bool
    best: str = ""

    def line(self) -> str:
        """The finding in one line."""
        show, values = self.setting.show, self.setting.values
        if self.value is None:
            return (
                f"{self.setting.name}: nothing in range ({show(values[0])} to {show(values[-1])})"
            )
        side = "at most" if self.below else "at least"
        today = "" if self.setting.today is None else f", today {show(self.setting.today)}"
        return f"{self.setting.name}: {side} {show(self.value)}{today} ({self.best} is best there)"


@dataclass(frozen=True)
class Why:
    """The answer: the named layout (None when it cannot run), the winner, and the break-evens."""

    named: Plan | None
    winner: Plan
    reading: str
    broken: tuple[str, ...]
    break_evens: tuple[BreakEven, ...]

    def text(self) -> str:
        """All of it for a reader."""
        lines = [self.reading]
        if self.named is None:
            lines += [f"it cannot run beside {self.winner.name}; the limits it breaks:"]
            lines += [f"  {reason}" for reason in self.broken]
        elif self.named.name == self.winner.name:
            lines += [f"{self.named.name} is the winner"]
        else:
            lines += [explanation(self.named, self.winner)]
        if self.break_evens:
            lines += ["", f"what would put it before {self.winner.name}, each alone, priced again:"]
            lines += [f"  {found.line()}" for found in self.break_evens]
        return "\n".join(lines)


def why(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    strategy: str | ParallelLayout,
    objective: Objective = "throughput",
) -> Why:
    """The named layout, with as many replicas as serve it best, beside the winner."""
    if isinstance(strategy, ParallelLayout):
        layout, reading = strategy, f"{strategy.name} on {strategy.gpus} GPUs"
    else:
        found = readings(cluster, model, strategy, workload)
        layout, reading = found[0].layout, reading_note(strategy, found)
    winner = optimize(cluster, model, workload, objective=objective, top=1).best
    named, broken = _named(cluster, model, workload, layout, objective)
    if named is not None and _degrees(named.deployment.layout) == _degrees(
        winner.deployment.layout
    ):
        return Why(named, winner, reading, (), ())
    problems = divisibility_problems(layout, model, workload)
    evens = () if problems else _break_evens(cluster, model, workload, layout, winner, objective)
    return Why(named, winner, reading, broken, evens)


def _degrees(layout: ParallelLayout) -> ParallelLayout:
    return layout.model_copy(update={"replicas": 1, "vp": 1, "edp": 1})


def _named(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    layout: ParallelLayout,
    objective: Objective,
) -> tuple[Plan | None, tuple[str, ...]]:
    """The best plan of one layout, or every limit that it breaks."""
    problems = divisibility_problems(layout, model, workload)
    if layout.gpus > cluster.num_live_gpus:
        problems.append(f"GPUs: {layout.gpus} needed, {cluster.num_live_gpus} there")
    if problems:
        return None, tuple(problems)
    spaces = spaces_of(cluster, model, layout, workload)
    try:
        priced = price(cluster, model, workload, spaces)
        plans = place_all(model, priced, choose(cluster, priced.candidates, objective, 1))
    except InfeasibleError as error:
        return None, error.reasons
    assert all(finding.ok for finding in verify(plans))
    return plans.best, ()


def _value(
    cluster: Cluster, model: ModelSpec, workload: Workload, layout: ParallelLayout, by: Objective
) -> float:
    """The deciding figure of a layout's best plan, smaller is better; infinite when none exists."""
    if layout.gpus_per_replica > cluster.num_live_gpus:
        return float("inf")
    spaces = spaces_of(cluster, model, layout, workload)
    try:
        candidates = price(cluster, model, workload, spaces).candidates
        best = choose(cluster, candidates, by, 1).ranked[0]
    except InfeasibleError:
        return float("inf")
    return best.choice.value / best.criterion.scale


def _break_evens(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    layout: ParallelLayout,
    winner: Plan,
    objective: Objective,
) -> tuple[BreakEven, ...]:
    rival, mine = _degrees(winner.deployment.layout), _degrees(layout)

    def wins(setting: Setting, value: float) -> bool:
        there, load = setting.apply(value)
        own = _value(there, model, load, mine, objective)
        return own < float("inf") and own <= _value(there, model, load, rival, objective)

    def best(setting: Setting, value: float) -> str:
        there, load = setting.apply(value)
        return optimize(there, model, load, objective=objective, top=1).best.name

    found = []
    for setting in settings(cluster, workload):
        value, below = _nearest(setting, wins)
        name = best(setting, value) if value is not None else ""
        found.append(BreakEven(setting, value, below, name))
    return tuple(found)


def _nearest(setting: Setting, wins: Callable[[Setting, float], bool]) -> tuple[float | None, bool]:
    """The value nearest to today's at which the layout wins, and whether it lies below today's."""
    values = setting.values
    middle = setting.today if setting.today is not None else values[-1]
    order = sorted(values, key=lambda value: (abs(np.log(value / middle)), value))
    hit = next((value for value in order if wins(setting, value)), None)
    if hit is None:
        return None, False
    below = hit < middle
    place = values.index(hit)
    outside = values[min(place + 1, len(values) - 1)] if below else values[max(place - 1, 0)]
    inside, outside = float(hit), float(outside)
    for _ in range(BISECTIONS if inside != outside else 0):
        between = float(np.sqrt(inside * outside))
        if setting.whole:
            between = float(round(between))
            if between in (inside, outside):
                break
        if wins(setting, between):
            inside = between
        else:
            outside = between
    return inside, below


def settings(cluster: Cluster, workload: Workload) -> tuple[Setting, ...]:
    """What may change, over the ranges that are searched."""
    pool = cluster.pools[0]
    near, far = pool.intra_node.bandwidth_bytes_per_s, pool.inter_node.bandwidth_bytes_per_s
    memory = pool.gpu.memory_bytes

    def links(which: str) -> Callable[[float], tuple[Cluster, Workload]]:
        def apply(value: float) -> tuple[Cluster, Workload]:
            pools = tuple(
                each.model_copy(update={which: _with_bandwidth(getattr(each, which), value)})
                for each in cluster.pools
            )
            return cluster.model_copy(update={"pools": pools}), workload

        return apply

    def with_memory(value: float) -> tuple[Cluster, Workload]:
        pools = tuple(
            each.model_copy(
                update={"gpu": each.gpu.model_copy(update={"memory_bytes": float(round(value))})}
            )
            for each in cluster.pools
        )
        return cluster.model_copy(update={"pools": pools}), workload

    def load(name: str) -> Callable[[float], tuple[Cluster, Workload]]:
        def apply(value: float) -> tuple[Cluster, Workload]:
            return cluster, workload.model_copy(update={name: int(value)})

        return apply

    def limit(name: str) -> Callable[[float], tuple[Cluster, Workload]]:
        def apply(value: float) -> tuple[Cluster, Workload]:
            stated: Limit | None = getattr(workload, name)
            statistic = stated.statistic if stated else "mean"
            bound = Limit.model_construct(value_s=value, statistic=statistic)
            return cluster, workload.model_copy(update={name: bound})

        return apply

    found = [
        Setting("bandwidth inside a node", _around(near), near, _rate, links("intra_node")),
        Setting("bandwidth between nodes", _around(far), far, _rate, links("inter_node")),
        Setting("GPU memory", _around(memory), memory, gib, with_memory),
    ]
    if len(cluster.domains) == 1:
        del found[1]
    if isinstance(workload, ForwardWorkload):
        found.append(_whole("batch", workload.batch, load("batch")))
    elif isinstance(workload, ServingWorkload) and workload.request_rate is None:
        found.append(_whole("concurrency", workload.concurrency, load("concurrency")))
    starts = {"ttft": 1.0, "tpot": 0.03, "latency": 1.0, "step_time": 10.0}
    names = [name for name in starts if hasattr(workload, name)]
    for name in names:
        stated: Limit | None = getattr(workload, name)
        today = stated.value_s if stated else None
        values = _around(today if today is not None else starts[name])
        title = f"{name.upper().replace('_', ' ')} limit"
        found.append(Setting(title, values, today, milliseconds, limit(name)))
    return tuple(found)


def _whole(
    name: str, today: int | None, apply: Callable[[float], tuple[Cluster, Workload]]
) -> Setting:
    values = sorted({max(1, round((today or 64) * factor)) for factor in FACTORS})
    shown = tuple(float(value) for value in values)
    now = None if today is None else float(today)
    return Setting(name, shown, now, lambda value: f"{value:,.0f}", apply, whole=True)


def _around(value: float) -> tuple[float, ...]:
    return tuple(value * factor for factor in FACTORS)


def _with_bandwidth(link: Link, value: float) -> Link:
    return link.model_copy(update={"bandwidth_bytes_per_s": value})


def _rate(value: float) -> str:
    return f"{value / 1e9:.4g} GB/s"
