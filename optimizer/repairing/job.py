"""What was asked of the line, as one value that changes are made to."""

from __future__ import annotations

from typing import NamedTuple

from optimizer.cost.calibration import Calibration
from optimizer.pipeline import optimize
from optimizer.plan import Plans
from optimizer.search.objectives import Objective
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import Workload


class Job(NamedTuple):
    """The arguments of pipeline.optimize; the first four are those of spec.reading.Job."""

    cluster: Cluster
    model: ModelSpec
    workload: Workload
    strategy: str | None = None
    objective: Objective = "throughput"
    confidence: float | None = None
    calibration: Calibration | None = None

    def plan(self, top: int = 1) -> Plans:
        """The best plans, down the whole line."""
        return optimize(
            self.cluster,
            self.model,
            self.workload,
            objective=self.objective,
            top=top,
            strategy=self.strategy,
            confidence=self.confidence,
            calibration=self.calibration,
        )
