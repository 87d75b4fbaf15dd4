"""`optimize --modes`: prefill and decode together or apart, in one pool or several, one ranking.

The line of a fleet of one demand: price -> rank -> place -> plan each part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optimizer.cost.calibration import Calibration
from optimizer.errors import InfeasibleError, Problem, SpecError
from optimizer.fleets.answer import proof_of, verify
from optimizer.fleets.planning import (
    Asked,
    answer_with,
    asked_of,
    most_per_s,
    offers_by_role,
    shortfall,
)
from optimizer.fleets.ranking import answer_of, foremost, in_order
from optimizer.fleets.spanning import spanning_answer
from optimizer.pipeline import optimize
from optimizer.plan import Answer, Answers, Plan
from optimizer.plan.fleet import FleetPlan
from optimizer.search.fleet import FleetChoice, rank_alone, served_by
from optimizer.search.objectives import Objective
from optimizer.spec.cluster import Cluster
from optimizer.spec.fleet import Demand, Fleet, Mode
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ServingWorkload, Workload
from optimizer.verify import Finding

MAX_POOLS = 3  # that one role lies in, of so many; else 2
MANY_GPUS = 64  # of several pools, beyond which the highest rate is sought in whole chains of sizes
MAX_REPLICA_GPUS = 1024
SPANNING_NOTE = (
    "replicas that span pools stand in the ranking by one plan, which the proof of the ways to "
    "serve by replicas in one pool each does not cover"
)


def compose(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    *,
    modes: Sequence[Mode],
    objective: Objective = "throughput",
    top: int = 5,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Answers:
    """The best `top` ways to serve in some of these modes, and the best of each mode: with a
    request rate those on the fewest GPUs, else those that sustain the highest rate.

    Raises InfeasibleError with what each mode lacks where no way keeps the limits.
    """
    why = unsound(workload, objective)
    if why is not None or not isinstance(workload, ServingWorkload):
        raise SpecError(Problem(why or "", key="--modes"))
    stated = workload.request_rate
    goal = "served" if stated is None else "gpus"
    fleet = fleet_of(cluster, model, workload, modes, stated or 1.0, goal)
    several = len(cluster.pools) > 1
    layers = 1 if several else top
    progress("pricing what each role could do")
    offers = offers_by_role(fleet, fleet.demands[0], layers, calibration)
    most = most_per_s(fleet, offers)
    if stated is None and most > 0:
        fleet = fleet_of(cluster, model, workload, modes, most, goal)
    progress("ranking the ways to serve")
    chains = several and stated is None and cluster.num_live_gpus > MANY_GPUS
    asked = asked_of(fleet, [offers], layers, chains)
    (ask,), rooms, prices, _ = asked
    found = rank_alone(ask, rooms, prices, fleet.objective, top, layers)
    missing = [mode for mode in modes if mode not in map(mode_of, found)]
    lacking = [f"{mode}: {shortfall(fleet, mode, offers)}" for mode in missing]
    if not found:
        where = " in one pool each" if several else ""
        raise InfeasibleError(f"no way to serve by replicas{where} keeps every limit", lacking)
    answers: list[Answer] = []
    for choice in foremost(found, [mode_of(choice) for choice in found], top):
        progress(f"planning way {len(answers) + 1}")
        own = fleet_of(cluster, model, workload, modes, stated or rate_of(choice), goal)
        searched = not any(answer.mode == mode_of(choice) for answer in answers)
        document = document_with(own, asked, choice, objective, searched, calibration)
        answers.append(answer_of(document, mode_of(choice), choice.value))
    notes = [*asked.notes, *lacking]
    proof = proof_of(found[0], asked.asks, fleet.objective)
    if several and "aggregated" in modes:
        spanning = spanning_answer(cluster, model, workload, found[0], calibration)
        if spanning is not None:
            answers.append(spanning)
            notes.append(SPANNING_NOTE)
    if stated is None:
        notes.append(
            "no request rate is asked for: each way stands at the highest rate that it sustains "
            "with room for the peaks of random arrivals"
        )
    return Answers(in_order(answers, goal, notes, top), proof, tuple(notes))


def unsound(workload: Workload, objective: Objective) -> str | None:
    """Why ways to serve this workload cannot be ranked under this objective."""
    if not isinstance(workload, ServingWorkload):
        return f"ranks ways to serve requests; this workload is {workload.kind}"
    if workload.concurrency is not None:
        return (
            "ranks by request rates, and a fixed concurrency is of one deployment; give "
            "request_rate in its place, or neither to find the highest rate"
        )
    if objective not in ("throughput", "gpus"):
        return (
            f"ranks by requests a second or by GPUs; objective {objective} is of plans of one "
            "layout: take throughput or gpus, under ttft and tpot limits"
        )
    if objective == "gpus" and workload.request_rate is None:
        return "with objective gpus needs something to serve: give request_rate, such as 20 req/s"
    return None


def fleet_of(
    cluster: Cluster,
    model: ModelSpec,
    workload: ServingWorkload,
    modes: Sequence[Mode],
    requests_per_s: float,
    goal: str,
) -> Fleet:
    """The job as a fleet of one demand."""
    load = workload.model_copy(update={"request_rate": requests_per_s})
    demand = Demand(name=model.name, model=model, workload=load, modes=tuple(modes))
    return Fleet.model_validate(
        {
            "name": model.name,
            "cluster": cluster,
            "objective": goal,
            "max_pools": MAX_POOLS if len(cluster.pools) <= MAX_POOLS else 2,
            "max_replica_gpus": MAX_REPLICA_GPUS,
            "demands": (demand,),
        }
    )


def mode_of(choice: FleetChoice) -> Mode:
    """The mode of a choice for one demand."""
    assert choice.chosen[0] is not None
    return choice.chosen[0][0]


def rate_of(choice: FleetChoice) -> float:
    """Requests a second that its scarcest role sustains."""
    assert choice.chosen[0] is not None
    return min(served_by(vector) for vector in choice.chosen[0][1].values())


def document_with(
    fleet: Fleet,
    asked: Asked,
    choice: FleetChoice,
    objective: Objective,
    searched: bool,
    calibration: Calibration | None,
) -> Plan | FleetPlan:
    """A choice as a plan where it is one layout in the only pool, `searched` among all layouts at
    its rate; else as a fleet."""
    assert choice.chosen[0] is not None
    mode, roles = choice.chosen[0]
    if mode == "disaggregated" or len(fleet.cluster.pools) > 1:
        return answer_with(fleet, asked, choice, (), calibration)
    ((use,),) = roles.values()
    name = None if searched else f"canonical:{use.offer.layout.name}-x{use.replicas}"
    (demand,) = fleet.demands
    return optimize(
        fleet.cluster,
        demand.model,
        demand.workload,
        objective=objective,
        top=1,
        strategy=name,
        calibration=calibration,
    ).best


def verify_answers(answers: Answers) -> list[Finding]:
    """The second opinion on every ranked answer; the findings of the best come first."""
    return [finding for answer in answers.answers for finding in verify(answer.document)]
