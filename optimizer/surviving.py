"""`optimize --survive gpu|node`: a plan that outlives any one of them, and what runs afterwards.

Every weight must lie on GPUs that do not die together, which takes a second replica elsewhere:
spare expert slots alone would have to hold every expert twice, which is the same memory. What is
left must then hold the load within every limit, in the same layout with fewer replicas where that
works (and nothing moves), else in another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from optimizer.errors import InfeasibleError
from optimizer.moving import Move, move_from
from optimizer.pipeline import optimize
from optimizer.plan import Plan, Plans, sealed, write_plan
from optimizer.spec.cluster import Cluster, Pool
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload, ServingWorkload
from optimizer.verify import verify_plan
from optimizer.verify.survival import survival

Unit = Literal["gpu", "node"]
TRIED = 40  # layouts in the order of the objective
NEAR = 0.1  # share of the objective that a fallback may give up to move less


class Loss(NamedTuple):
    """One kind of loss: the first unit of the kind, by name, and all units that it stands for."""

    pool: int
    dead: str
    units: tuple[str, ...]


class Fallback(NamedTuple):
    """What runs after a loss."""

    loss: Loss
    move: Move


def survive(
    cluster: Cluster,
    model: ModelSpec,
    workload: ForwardWorkload | ServingWorkload,
    unit: Unit,
    *,
    top: int = 5,
    progress: Callable[[str], None] = lambda step: None,
    **options: Any,
) -> tuple[Plans, dict[str, str]]:
    """(the plans that survive, the best first; fallback files by name).

    The layouts are tried in the order of the objective. Raises InfeasibleError with what the
    foremost ones lack where none of TRIED survives.
    """
    ranked = optimize(cluster, model, workload, top=max(top, TRIED), progress=progress, **options)
    found: list[Plan] = []
    fallbacks: list[Fallback] = []
    reasons = []
    for plan in ranked.plans:
        problem = gone(plan, unit)
        if problem is None and not found:
            progress(f"looking for what runs after the loss of a {unit} of {plan.name}")
            answer = _after(plan, unit, options)
            if isinstance(answer, str):
                problem = answer
            else:
                fallbacks = answer
        if problem is None:
            found.append(plan)
        else:
            reasons.append(f"{plan.name}: {problem}")
        if len(found) == top:
            break
    if not found:
        more = [f"... and {len(reasons) - 5} more"] if len(reasons) > 5 else []
        raise InfeasibleError(
            f"no plan survives the loss of a {unit}; more GPUs, or a smaller replica, would help",
            [*reasons[:5], *more],
        )
    note = f"survives the loss of any one {unit}: " + "; ".join(map(_line, fallbacks))
    best = sealed(found[0].model_copy(update={"notes": (*found[0].notes, note)}))
    return replace(ranked, plans=(best, *found[1:])), fallback_files(best, unit, fallbacks)


def gone(plan: Plan, unit: Unit) -> str | None:
    """What a plan loses for good with one unit; None where nothing is."""
    document = plan.model_dump(mode="json", by_alias=True)
    return next((detail for ok, detail in survival(document, unit) if not ok), None)


def losses_of(
    cluster: Cluster, unit: Unit, replicas: Sequence[Sequence[str]] = ()
) -> tuple[Loss, ...]:
    """The kinds of units: alike are those whose loss leaves domains of the same sizes and breaks
    equally many of the `replicas` (the GPUs of each); one that breaks them all is of its own kind.
    """
    replicas_of: dict[str, set[int]] = {}
    for index, gpus in enumerate(replicas):
        for gpu in gpus:
            replicas_of.setdefault(gpu, set()).add(index)
    kinds: dict[tuple[int, int, int, int, str], list[str]] = {}
    for domain in cluster.domains:
        prefix = f"{cluster.pools[domain.pool].name}/" if len(cluster.pools) > 1 else ""
        units: dict[str, list[str]] = {}
        for gpu in domain.gpus:
            name = gpu.removeprefix(prefix)
            units.setdefault(name if unit == "gpu" else name.rpartition("/")[0], []).append(gpu)
        for name, gpus in units.items():
            broken = len({each for gpu in gpus for each in replicas_of.get(gpu, ())})
            alone = name if broken and broken == len(replicas) else ""
            kind = (domain.pool, len(domain.gpus), len(gpus), broken, alone)
            kinds.setdefault(kind, []).append(name)
    return tuple(Loss(kind[0], units[0], tuple(units)) for kind, units in sorted(kinds.items()))


def without(cluster: Cluster, loss: Loss) -> Cluster:
    """The cluster once the unit is dead."""
    pools = []
    for index, pool in enumerate(cluster.pools):
        figures = {name: getattr(pool, name) for name in Pool.model_fields}
        if index == loss.pool:
            figures["dead"] = (*pool.dead, loss.dead)
        pools.append(Pool(**figures))
    return Cluster(
        name=cluster.name,
        pools=tuple(pools),
        inter_pool=cluster.inter_pool,
        assumptions=cluster.assumptions,
    )


def _after(plan: Plan, unit: Unit, options: dict[str, Any]) -> list[Fallback] | str:
    """The fallback of every kind of loss, or why there is none."""
    found = []
    for loss in losses_of(plan.cluster, unit, plan.deployment.placement.rank_gpu):
        try:
            move = _fallback(plan, without(plan.cluster, loss), options)
        except InfeasibleError as error:
            return f"without {loss.dead} {error.args[0].splitlines()[0]}"
        except ValueError:  # nothing of the cluster is left
            return f"without {loss.dead} no GPU is left"
        found.append(Fallback(loss, move))
    return found


def _fallback(plan: Plan, left: Cluster, options: dict[str, Any]) -> Move:
    """The same layout in fewer replicas where nothing has to move, else the plan that moves least
    of those near the best."""
    lost = [
        replica
        for replica in plan.deployment.placement.rank_gpu
        if not set(replica) <= {gpu for domain in left.domains for gpu in domain.gpus}
    ]
    layout = plan.deployment.layout
    remaining = layout.replicas - len(lost)
    if remaining:
        same = layout.model_copy(update={"replicas": remaining})
        try:
            kept = optimize(
                left,
                plan.model,
                plan.workload,
                **{**options, "top": 1, "strategy": f"canonical:{same.name}"},
            )
            return move_from(plan, _where_it_runs(plan, kept.best, lost))
        except InfeasibleError:
            pass
    free = {**options, "top": 10, "strategy": None}  # what is left may not fit the layout named
    plans = optimize(left, plan.model, plan.workload, **free).plans
    best = abs(plans[0].proof.value)
    near = [each for each in plans if abs(abs(each.proof.value) - best) <= NEAR * best]
    return min((move_from(plan, each) for each in near), key=lambda move: move.moved_bytes)


def _where_it_runs(plan: Plan, kept: Plan, lost: Sequence[Sequence[str]]) -> Plan:
    """The kept replicas on the GPUs that they run on, where verify finds nothing against it: the
    loss may have changed which tiers they span by the planner's count."""
    deployment = kept.deployment
    own = tuple(each for each in plan.deployment.placement.rank_gpu if each not in lost)
    used = {gpu for replica in own for gpu in replica}
    idle = tuple(gpu for each in kept.cluster.domains for gpu in each.gpus if gpu not in used)
    placement = deployment.placement.model_copy(update={"rank_gpu": own, "idle_gpus": idle})
    stays = deployment.model_copy(update={"placement": placement})
    settled = sealed(kept.model_copy(update={"deployments": (stays,)}))
    findings = verify_plan(settled.model_dump(mode="json", by_alias=True))
    return settled if all(finding.ok for finding in findings) else kept


def _line(fallback: Fallback) -> str:
    loss, move = fallback
    many = f" (or any of {len(loss.units)} alike)" if len(loss.units) > 1 else ""
    return (
        f"without {loss.dead}{many} {move.plan.name} runs, "
        f"{move.moved_bytes / 2**30:,.1f} GiB move in {move.seconds:.3g} s"
    )


def fallback_files(plan: Plan, unit: Unit, fallbacks: list[Fallback]) -> dict[str, str]:
    """fallbacks.json, and for each kind of loss the plan that then runs."""
    files: dict[str, str] = {}
    rows = []
    for index, (loss, move) in enumerate(fallbacks):
        name = f"fallback_{index}.json"
        settled = sealed(
            move.plan.model_copy(update={"notes": (*move.plan.notes, move.note(plan))})
        )
        files[name] = write_plan(settled)
        findings = verify_plan(settled.model_dump(mode="json", by_alias=True))
        rows.append(
            {
                "lost": loss.dead,
                "pool": plan.cluster.pools[loss.pool].name,
                "stands_for": list(loss.units),
                "plan": name,
                "name": settled.name,
                "tokens_per_s": settled.predictions["tokens_per_s"].value,
                "moved_bytes": move.moved_bytes,
                "seconds": move.seconds,
                "verified": all(finding.ok for finding in findings),
            }
        )
    document = {"survives": unit, "plan": plan.name, "hash": plan.hash, "fallbacks": rows}
    files["fallbacks.json"] = json.dumps(document, indent=1) + "\n"
    return files
