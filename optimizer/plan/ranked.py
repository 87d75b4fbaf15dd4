"""The answer of a run: ranked plans, and the Pareto front behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import Problem, SpecError
from optimizer.layout import Ints
from optimizer.plan.comparing import explanation
from optimizer.plan.document import Plan

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Front:
    """The points that no other beats in tokens/s, latency and GPUs at once, by latency.

    wins_from_s to wins_to_s: the latency limits under which a point has the most tokens/s of all,
    however many GPUs (both 0 where it never has).
    """

    names: tuple[str, ...]
    gpus: Ints
    sequences: Ints
    chunk: Ints
    micro_batches: Ints
    ttft_s: Floats
    tpot_s: Floats
    latency_s: Floats
    tokens_per_s: Floats
    wins_from_s: Floats
    wins_to_s: Floats

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Plans:
    """The ranked plans of one run, the best first, and what else the run found."""

    plans: tuple[Plan, ...]
    front: Front | None = None

    @property
    def best(self) -> Plan:
        return self.plans[0]

    def explain(self, rank: int) -> str:
        """Why the plan of this rank lost to the best, term by term."""
        plan = next((plan for plan in self.plans if plan.rank == rank), None)
        if plan is None:
            raise SpecError(
                Problem(f"there is no rank {rank}; the ranks are 1 to {len(self.plans)}")
            )
        return explanation(plan, self.best)

    def frame(self) -> pd.DataFrame:
        """A table with one row a plan, units in the column names."""
        import pandas as pd

        return pd.DataFrame([summary(plan) for plan in self.plans])


def summary(plan: Plan) -> dict[str, str | float]:
    """One plan as one row of a table."""
    first = plan.deployment
    row: dict[str, str | float] = {
        "rank": plan.rank,
        "name": plan.name,
        **({"pools": plan.pools} if len(plan.cluster.pools) > 1 else {}),
        "gpus": sum(deployment.gpus for deployment in plan.deployments),
        "sequences_per_rank": first.batch.sequences_per_rank,
        "prefill_chunk": first.batch.prefill_chunk,
        "micro_batches": first.batch.micro_batches,
        "concurrency": first.batch.concurrency,
    }
    row |= {name: prediction.value for name, prediction in plan.predictions.items()}
    row["objective_value"] = plan.proof.value / plan.proof.scale
    row["gap"] = plan.proof.gap
    return row
