"""The load that somebody asks for, or that the plan was made for."""

from __future__ import annotations

import math
from pathlib import Path

from optimizer.errors import Problem, SpecError
from optimizer.plan import Plan
from optimizer.simulate.serving.arrivals import (
    Load,
    burst,
    closed_loop,
    poisson,
    read_trace,
    request_lengths,
)
from optimizer.simulate.serving.serve import longest_requests, planned_clients
from optimizer.spec.workload import ForwardWorkload, ServingWorkload, TrainingWorkload
from optimizer.units import PER_S, parse

TURNS = 10  # requests of a client in a closed loop, as public serving benchmarks send
OPEN_REQUESTS = 1000
CLOSED_SPREAD = 0.2


def asked_load(
    plan: Plan,
    arrivals: str | None = None,
    rate: str | None = None,
    requests: int | None = None,
    seed: int = 0,
    spread: float | None = None,
) -> Load:
    """`arrivals` is closed, poisson, burst or the path of a trace; without it a plan made for a
    request rate gets Poisson arrivals and any other a closed loop of its own concurrency. Lengths
    are drawn between (1 - spread) and (1 + spread) of the workload's."""
    workload = plan.workload
    if isinstance(workload, ForwardWorkload):
        if arrivals is not None or rate is not None:
            raise SpecError(Problem("the plan is one forward pass; it has no arrivals"))
        whole = closed_loop([(workload.seq_len, 1)] * workload.batch, workload.batch)
        return whole._replace(planned=True)
    if isinstance(workload, TrainingWorkload):
        raise SpecError(Problem("the plan trains; no requests arrive"))
    per_s = workload.request_rate if rate is None else _rate(rate)
    own = "closed" if workload.request_rate is None else "poisson"
    planned = arrivals in (None, own) and per_s == workload.request_rate
    if arrivals is None:
        arrivals = "closed" if per_s is None else "poisson"
    if arrivals not in ("closed", "poisson", "burst"):
        if rate is not None or requests is not None or spread:
            raise SpecError(Problem("a trace states all its requests itself", key="--arrivals"))
        return read_trace(Path(arrivals))
    if arrivals == "poisson" and per_s is None:
        raise SpecError(Problem("is missing; write for example --rate '20 req/s'", key="--rate"))
    clients = planned_clients(plan.deployments)
    count = requests or (TURNS * clients if arrivals == "closed" else OPEN_REQUESTS)
    if spread is None:
        spread = _spread(plan, workload) if arrivals == "closed" else 0.0
    shares = (1 - spread, 1 + spread)
    lengths = request_lengths(count, workload.input_len, workload.output_len, shares, seed)
    if arrivals == "closed":
        if rate is not None:
            raise SpecError(Problem("a closed loop sets its own rate", key="--rate"))
        return closed_loop(lengths, clients)._replace(planned=planned)
    if arrivals == "burst":
        return burst(lengths, per_s, clients)
    assert per_s is not None
    return poisson(lengths, per_s, seed)._replace(planned=planned)


def _spread(plan: Plan, workload: ServingWorkload) -> float:
    """Of a closed loop: lengths that are all equal would keep its clients in step for ever, so that
    they prefill together and stop together, which no load does that is served."""
    room = min(longest_requests(plan).values(), default=math.inf)
    tokens = workload.input_len + workload.output_len
    return max(0.0, min(CLOSED_SPREAD, room / tokens - 1))


def _rate(text: str) -> float:
    try:
        found = parse(text, PER_S, "20 req/s")
    except ValueError as error:
        raise SpecError(Problem(str(error), key="--rate")) from None
    if found <= 0:
        raise SpecError(Problem("must be more than zero", key="--rate"))
    return found
