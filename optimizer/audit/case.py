"""One report to audit: its specs, its strategy with all readings, and its plans by phase."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

from optimizer.audit.claim import Claim
from optimizer.audit.finding import Phase
from optimizer.errors import InfeasibleError
from optimizer.layout import ParallelLayout, Reading
from optimizer.pipeline import optimize, readings
from optimizer.plan import Plan
from optimizer.spec.cluster import Cluster, Gpu
from optimizer.spec.frozen import Assumption
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

OUTPUT = Assumption(
    key="output_len",
    value="128",
    why="the report leaves the phase open; serving is judged with so many output tokens a request",
)
PHASES: tuple[Phase, ...] = ("forward", "serving", "training")


@dataclass(frozen=True)
class Case:
    """What a report speaks of; `phase` is None where it does not say."""

    name: str
    cluster: Cluster
    model: ModelSpec
    workload: ForwardWorkload | ServingWorkload
    phase: Phase | None
    strategy: str
    claims: tuple[Claim, ...] = ()

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        return readings(self.cluster, self.model, self.strategy)

    @property
    def layout(self) -> ParallelLayout:
        """The strategy by the reading that holds."""
        return self.readings[0].layout

    @property
    def gpu(self) -> Gpu:
        return self.cluster.pools[0].gpu

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phase that is stated, or all of them."""
        return (self.phase,) if self.phase else PHASES

    @property
    def batch(self) -> int:
        """Sequences of one pass, or requests in flight."""
        if isinstance(self.workload, ForwardWorkload):
            return self.workload.batch
        return self.workload.concurrency or 1

    @property
    def seq_len(self) -> int:
        if isinstance(self.workload, ForwardWorkload):
            return self.workload.seq_len
        return self.workload.input_len

    def with_strategy(self, strategy: str | None) -> Case:
        return self if strategy is None else replace(self, strategy=strategy)

    def workload_of(self, phase: Phase) -> ForwardWorkload | ServingWorkload:
        """The workload in a phase; the batch is served as so many requests in flight."""
        forward = isinstance(self.workload, ForwardWorkload)
        if forward == (phase == "forward"):
            return self.workload
        engine, margin = self.workload.engine, self.workload.memory_margin
        if phase == "forward":
            return ForwardWorkload(
                engine=engine, memory_margin=margin, batch=self.batch, seq_len=self.seq_len
            )
        return ServingWorkload(
            engine=engine,
            memory_margin=margin,
            input_len=self.seq_len,
            output_len=int(OUTPUT.value),
            concurrency=self.batch,
        )

    @cached_property
    def outcomes(self) -> dict[Phase, Plan | InfeasibleError]:
        """The strategy planned in each phase of inference, or why it cannot run."""
        found: dict[Phase, Plan | InfeasibleError] = {}
        for phase in self.phases:
            if phase != "training":
                found[phase] = self._outcome(phase, self.strategy)
        return found

    @cached_property
    def best(self) -> dict[Phase, Plan | InfeasibleError]:
        """The best plan for the same job in each phase of inference."""
        return {phase: self._outcome(phase, None) for phase in self.outcomes}

    @cached_property
    def plans(self) -> dict[Phase, Plan]:
        """The strategy's plans in the phases of inference where it runs."""
        return {phase: plan for phase, plan in self.outcomes.items() if isinstance(plan, Plan)}

    def _outcome(self, phase: Phase, strategy: str | None) -> Plan | InfeasibleError:
        workload = self.workload_of(phase)
        try:
            return optimize(self.cluster, self.model, workload, strategy=strategy, top=1).best
        except InfeasibleError as error:
            return error

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """All that nobody stated of model, cluster and workload."""
        stated = (self.model, self.cluster, self.workload)
        found = [row for spec in stated for row in spec.assumptions]
        if self.phase is None and isinstance(self.workload, ForwardWorkload):
            found.append(OUTPUT)
        return tuple(found)

    def assumed(self, *keys: str) -> tuple[str, ...]:
        """Assumptions under any of these keys ("moe.*" is all of moe's), written out."""
        return tuple(dict.fromkeys(f"{row.key} = {row.value}" for row in self.assumed_rows(*keys)))

    def assumed_rows(self, *keys: str) -> list[Assumption]:
        return [row for row in self.assumptions if any(fnmatchcase(row.key, key) for key in keys)]
