"""One report to audit: its specs, its strategy with all readings, and its plans by phase."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

from optimizer.audit.claim import Claim
from optimizer.audit.finding import Phase
from optimizer.audit.phases import OUTPUT, PHASES, SOFTWARE, Load, batch_of, freed, workload_in
from optimizer.errors import InfeasibleError
from optimizer.layout import ParallelLayout, Reading
from optimizer.pipeline import optimize, readings
from optimizer.plan import Plan
from optimizer.spec.cluster import Cluster, Gpu
from optimizer.spec.frozen import Assumption
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload


@dataclass(frozen=True)
class Case:
    """What a report speaks of; `phase` is None where it does not say."""

    name: str
    cluster: Cluster
    model: ModelSpec
    workload: Load
    phase: Phase | None
    strategy: str
    claims: tuple[Claim, ...] = ()

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """Training counts replicas as data parallelism."""
        load = workload_in("training", self.workload) if self.phase == "training" else None
        return readings(self.cluster, self.model, self.strategy, load)

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
        """Sequences of one pass or step, or requests in flight."""
        return batch_of(self.workload).sequences

    @property
    def seq_len(self) -> int:
        return batch_of(self.workload).tokens

    def with_strategy(self, strategy: str | None) -> Case:
        if strategy is None or strategy == self.strategy:
            return self
        return replace(self, strategy=strategy)

    @cached_property
    def outcomes(self) -> dict[Phase, Plan | InfeasibleError]:
        """The strategy planned in each phase, or why it cannot run."""
        return {phase: self._outcome(phase, self.strategy) for phase in self.phases}

    @cached_property
    def best(self) -> dict[Phase, Plan | InfeasibleError]:
        """The best plan for the same job in each phase."""
        return {phase: self._outcome(phase, None) for phase in self.phases}

    @cached_property
    def plans(self) -> dict[Phase, Plan]:
        """The strategy's plans in the phases where it runs."""
        return {phase: plan for phase, plan in self.outcomes.items() if isinstance(plan, Plan)}

    @property
    def inference(self) -> dict[Phase, Plan]:
        """The plans that keep nothing for a backward pass."""
        return {phase: plan for phase, plan in self.plans.items() if phase != "training"}

    def _outcome(self, phase: Phase, strategy: str | None) -> Plan | InfeasibleError:
        workload = workload_in(phase, self.workload)
        load = freed(workload) if strategy is None else workload
        try:
            return optimize(self.cluster, self.model, load, strategy=strategy, top=1).best
        except InfeasibleError as error:
            return error

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """All that nobody stated of model, cluster and workload."""
        stated = (self.model, self.cluster, self.workload)
        found = [row for spec in stated for row in spec.assumptions]
        if self.phase is None and isinstance(self.workload, ForwardWorkload):
            found.append(OUTPUT)
        if self.phase == "training":
            found.append(SOFTWARE)
        return tuple(found)

    def assumed(self, *keys: str) -> tuple[str, ...]:
        """Assumptions under any of these keys ("moe.*" is all of moe's), written out."""
        return tuple(dict.fromkeys(f"{row.key} = {row.value}" for row in self.assumed_rows(*keys)))

    def assumed_rows(self, *keys: str) -> list[Assumption]:
        return [row for row in self.assumptions if any(fnmatchcase(row.key, key) for key in keys)]
