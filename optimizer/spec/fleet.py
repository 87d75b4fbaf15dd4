"""A fleet: several models with request rates and limits that share one cluster."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from optimizer.spec.cluster import Cluster
from optimizer.spec.frozen import Frozen, Name, wrong
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ServingWorkload

Mode = Literal["aggregated", "disaggregated"]
Role = Literal["serving", "prefill", "decode"]


class Demand(Frozen):
    """One model with what is asked of it: a request rate under the workload's limits.

    weight: what one request is worth where not everything can be served; modes: whether prefill and
    decode may share GPUs, lie apart, or either.
    """

    name: Name
    model: ModelSpec
    workload: ServingWorkload
    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    modes: tuple[Mode, ...] = Field(default=("aggregated", "disaggregated"), min_length=1)

    @property
    def wanted_per_s(self) -> float:
        """Requests a second."""
        assert self.workload.request_rate is not None
        return self.workload.request_rate

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if self.workload.request_rate is None:
            raise wrong("is missing; a fleet serves rates, such as 20 req/s", "request_rate")
        return self


class Fleet(Frozen):
    """Demands on a cluster.

    objective: fewest GPUs, least money an hour (both serve every demand in full), or most requests
    served by weight. A role of a demand is served by one layout in each of at most `max_pools`
    pools, by replicas of at most `max_replica_gpus` GPUs.
    """

    name: Name = "fleet"
    cluster: Cluster
    objective: Literal["gpus", "money", "served"] = "gpus"
    max_pools: Annotated[int, Field(ge=1, le=4, strict=True)] = 2
    max_replica_gpus: Annotated[int, Field(ge=1, le=1024, strict=True)] = 32
    demands: tuple[Demand, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _told_apart_and_priced(self) -> Self:
        names = [demand.name for demand in self.demands]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise wrong(f"share the name {twice[0]}; name each differently", "demands")
        free = [pool.name for pool in self.cluster.pools if pool.gpu.price_per_hour is None]
        if self.objective == "money" and free:
            raise wrong(
                f"is money, but the GPUs of {', '.join(free[:3])} have no price; write for example "
                "gpu: {price_per_hour: 2.5} in the cluster",
                "objective",
            )
        return self
