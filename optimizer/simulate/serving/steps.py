"""Seconds of one engine step of a deployment, stage by stage, from its operator tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from optimizer.errors import PlanError
from optimizer.plan import Deployment, OperatorRow
from optimizer.simulate.serving.curves import Curve, Surface
from optimizer.simulate.table import COLLECTIVES, POOL_SEND, StepTable, step_table
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec


class Batch(NamedTuple):
    """What a step of one micro-batch carries: new tokens of its fullest rank and the context of
    each in the mean, tokens of a rank in the mean over ranks, and tokens that need logits."""

    decode: int
    decode_context: float
    prefill: int
    prefill_context: float
    mean_tokens: float
    logits: int


class Phase(NamedTuple):
    """One stage's seconds in one phase: operators that follow a rank's own tokens, attention,
    operators that follow the tokens of all ranks (experts), and the head."""

    own: Curve
    attention: Surface
    shared: Curve
    head: Curve

    def plus(self, other: Phase) -> Phase:
        """Two stages in turn."""
        return Phase(
            self.own + other.own,
            self.attention + other.attention,
            self.shared + other.shared,
            self.head + other.head,
        )


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a step on each stage; `whole` sums the stages up."""

    whole: Mapping[str, Phase]
    stages: tuple[Mapping[str, Phase], ...]
    cp: int
    skew: float  # load of the hottest expert rank over what the table was made with
    logits_per_step: float  # that the prefill table's head was made with

    def seconds(self, batch: Batch) -> float:
        """A step's way through all stages."""
        return self._of(self.whole, batch)

    def stage_seconds(self, batch: Batch) -> list[float]:
        """A step on each stage; equal stages are computed once."""
        known: dict[int, float] = {}
        for stage in self.stages:
            if id(stage) not in known:
                known[id(stage)] = self._of(stage, batch)
        return [known[id(stage)] for stage in self.stages]

    def _of(self, phases: Mapping[str, Phase], batch: Batch) -> float:
        """A step that prefills runs without recorded graphs: at the prefill table's times."""
        name = "prefill" if batch.prefill and "prefill" in phases else "decode"
        phase = phases[name if name in phases else "prefill"]
        total = phase.own(batch.decode + batch.prefill / self.cp)
        total += phase.shared(batch.mean_tokens * self.skew)
        if batch.prefill:
            total += phase.attention(batch.prefill / self.cp, batch.prefill_context)
        if batch.decode:
            decoding = phases.get("decode", phase)
            total += decoding.attention(batch.decode, batch.decode_context / self.cp)
        if batch.logits:
            if "decode" in phases:
                total += phases["decode"].head(batch.logits)
            else:
                total += phase.head(1.0) * batch.logits / self.logits_per_step
        return total


def step_times(
    cluster: Cluster,
    model: ModelSpec,
    deployment: Deployment,
    speeds: Mapping[int, float],
    skew: float | None,
) -> StepTimes:
    """`speeds` names stages that hold a slow GPU: its compute and memory operators take 1 / speed
    as long, and all ranks of the stage wait for it in the next collective. `skew` is the load of
    the hottest expert rank over the mean; None leaves what the table was made with."""
    tables: dict[str, StepTable] = {
        name: step_table(cluster, deployment, name) for name in deployment.phases
    }
    if not tables:
        raise PlanError(f"deployment {deployment.name} has no operator table")
    runs = stage_runs(model, deployment)
    for table in tables.values():
        _check_counts(table, runs, deployment)
    kinds: dict[tuple[tuple[tuple[Place, int], ...], float], dict[str, Phase]] = {}
    stages = []
    for stage, parts in enumerate(runs):
        speed = speeds.get(stage, 1.0)
        key = (tuple(sorted(parts.items())), speed)
        if key not in kinds:
            kinds[key] = {
                name: _phase(table, deployment, parts, speed) for name, table in tables.items()
            }
        stages.append(kinds[key])
    whole = {name: reduce(Phase.plus, (stage[name] for stage in stages)) for name in tables}
    first = deployment.phases.get("prefill")
    logits = first.grid[0].sequences if first is not None else 1.0
    relative = 1.0
    if skew is not None and deployment.layout.ep > 1:
        relative = skew / table_skew(model, deployment)
    return StepTimes(whole, tuple(stages), deployment.layout.cp, relative, logits)


def table_skew(model: ModelSpec, deployment: Deployment) -> float:
    """The skew that a table was made with: pairs of token and expert of the hottest rank, which
    its grouped products name as their rows, over the mean rank's."""
    layout, moe = deployment.layout, model.moe
    for table in deployment.phases.values():
        for row in table.rows:
            if row.kind == "grouped_gemm" and moe is not None:
                tokens = table.grid[0].tokens * layout.dp * layout.cp
                return row.m[0] * layout.ep / (tokens * moe.num_experts_per_token)
    return 1.0


Place = tuple[str, str]  # the pool and the part of operators that run as often as each other


def stage_runs(model: ModelSpec, deployment: Deployment) -> list[dict[Place, int]]:
    """How often each part runs on each stage: layers by type, embedding, head, and what is sent to
    the next stage in its pool or in the next."""
    stages, pools = deployment.placement.stage_layers, deployment.stage_pools
    last = len(stages) - 1
    found = []
    for stage, (start, end) in enumerate(stages):
        names = model.layer_names[start:end]
        runs = {name: names.count(name) for name in model.layer_types}
        leaves = stage < last and pools[stage + 1] != pools[stage]
        runs |= {"embedding": stage == 0, "head": stage == last}
        runs |= {"boundary": stage < last and not leaves, POOL_SEND: leaves}
        found.append({(pools[stage], part): int(count) for part, count in runs.items() if count})
    return found


def _place(row: OperatorRow, deployment: Deployment) -> Place:
    return row.pool or deployment.pool, POOL_SEND if row.name == POOL_SEND else row.part


def _check_counts(table: StepTable, runs: list[dict[Place, int]], deployment: Deployment) -> None:
    for row in table.rows:
        due = sum(parts.get(_place(row, deployment), 0) for parts in runs)
        if due != row.count:
            raise PlanError(
                f"operator table, {table.phase}: {row.part} {row.name} stands for {row.count} "
                f"runs, the stages hold {due}"
            )


def _phase(
    table: StepTable, deployment: Deployment, parts: Mapping[Place, int], speed: float
) -> Phase:
    groups: dict[str, list[tuple[int, float]]] = {name: [] for name in Phase._fields}
    for index, row in enumerate(table.rows):
        if times := parts.get(_place(row, deployment)):
            slowness = 1.0 if row.kind in COLLECTIVES else 1.0 / speed
            groups[_group(row)].append((index, times * slowness))

    def summed(group: str, column: int, context: int) -> float:
        values = table.columns[column].values["seconds"]
        return sum(float(values[row, context]) * times for row, times in groups[group])

    def curve(group: str) -> Curve:
        return Curve(table.tokens, [summed(group, i, 0) for i in range(len(table.tokens))])

    columns = [
        (each.contexts, [summed("attention", index, i) for i in range(len(each.contexts))])
        for index, each in enumerate(table.columns)
    ]
    surface = Surface(table.tokens, columns)
    return Phase(curve("own"), surface, curve("shared"), curve("head"))


def _group(row: OperatorRow) -> str:
    if row.part == "head":
        return "head"
    if row.kind == "attention" or row.axis == "cp":
        return "attention"
    return "shared" if row.kind == "grouped_gemm" or row.axis in ("ep", "etp") else "own"
