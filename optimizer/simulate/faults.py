"""What goes wrong in a simulation: slow GPUs and GPUs that die, by their names in the cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from optimizer.errors import Problem, SpecError
from optimizer.plan import Plan
from optimizer.spec.cluster import Cluster
from optimizer.units import SECONDS, parse

_COUNTED = re.compile(r"gpu(0|[1-9][0-9]{0,6})")


class Place(NamedTuple):
    """Where a GPU works: deployment, replica and pipeline stage."""

    deployment: int
    replica: int
    stage: int


class Slow(NamedTuple):
    gpu: str
    speed: float  # of its compute and memory operators, over a healthy GPU's


class Death(NamedTuple):
    gpu: str
    at_s: float


def read_slow(texts: Sequence[str], cluster: Cluster) -> tuple[Slow, ...]:
    """From "gpu3=0.8" or "node0/gpu3=0.8"."""
    found = []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed <= 1:
            raise SpecError(
                Problem(f"{text!r} names no speed; write for example gpu3=0.8", key="--slow")
            )
        found.append(Slow(gpu_name(name, cluster, "--slow"), speed))
    return tuple(found)


def read_deaths(texts: Sequence[str], cluster: Cluster) -> tuple[Death, ...]:
    """From "gpu5@10s"."""
    found = []
    for text in texts:
        name, _, value = text.partition("@")
        try:
            at_s = parse(value, SECONDS, "10 s")
        except ValueError:
            at_s = -1.0
        if at_s < 0:
            raise SpecError(
                Problem(f"{text!r} names no time; write for example gpu5@10s", key="--die")
            )
        found.append(Death(gpu_name(name, cluster, "--die"), at_s))
    return tuple(found)


def gpu_name(name: str, cluster: Cluster, key: str) -> str:
    """The live GPU that is called so, or is counted so over the whole cluster: gpu11."""
    names = [
        f"{pool.name}/{gpu}" if len(cluster.pools) > 1 else gpu
        for pool in cluster.pools
        for node in pool.gpu_names
        for gpu in node
    ]
    counted = _COUNTED.fullmatch(name.strip())
    if counted is not None and int(counted[1]) < len(names):
        name = names[int(counted[1])]
    live = {gpu for domain in cluster.domains for gpu in domain.gpus}
    if name in live:
        return name
    if name in names:
        raise SpecError(Problem(f"{name} is dead in this cluster already", key=key))
    raise SpecError(
        Problem(
            f"the cluster has no GPU {name[:40]!r}; its GPUs are {names[0]} ... {names[-1]}, "
            f"or gpu0 ... gpu{len(names) - 1}",
            key=key,
        )
    )


def places(plan: Plan) -> dict[str, Place]:
    """Where each GPU of a plan works; idle GPUs are missing."""
    return {
        gpu: Place(number, replica, deployment.placement.ranks[rank].stage)
        for number, deployment in enumerate(plan.deployments)
        for replica, gpus in enumerate(deployment.placement.rank_gpu)
        for rank, gpu in enumerate(gpus)
    }
