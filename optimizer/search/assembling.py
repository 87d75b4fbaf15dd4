"""A choice as a plan: placement, memory, operator tables, predictions, limits and proof."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.cost.job import Job
from optimizer.cost.spanning import Spanning
from optimizer.plan import (
    Balance,
    Batch,
    Deployment,
    LimitSlack,
    Placement,
    Plan,
    Prediction,
    Proof,
    Provenance,
    Source,
)
from optimizer.search.choosing import Chosen, Ranked
from optimizer.search.degrees import shapes_of
from optimizer.search.placing import place
from optimizer.search.settling import settle
from optimizer.search.wording import UNITS
from optimizer.spec.cluster import Cluster
from optimizer.spec.frozen import Assumption
from optimizer.spec.linears import moe_layers
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload, Workload
from optimizer.version import __version__


def assemble(
    job: Job | Spanning, ranked: Ranked, rank: int, chosen: Chosen, space: Mapping[str, Any]
) -> Plan:
    """One ranked plan, whole but for the others beside it and its hash.

    `job` holds the pool and number formats of the choice; `space` the counts of the enumeration:
    layouts, divisibility, and the specs as the user gave them.
    """
    candidate, layout = ranked.candidate, ranked.layout
    (shapes,) = shapes_of(candidate)  # the solver leaves cuts of other shapes at any count
    packings = tuple(each for each in ranked.choice.packings if each[1].shape in shapes)
    lies = settle(job, ranked, chosen)
    placement = place(
        job.cluster, job.model, layout, lies.shares, packings, job.workload, lies.cut, lies.inside
    )
    memory, model = lies.memory, space["model"]
    deployment = Deployment(
        role=job.workload.kind,
        pool=job.cluster.pools[lies.shares[0].pool].name,
        shares=lies.pool_shares,
        precision=job.model.precision,
        layout=layout,
        name=layout.name,
        gpus=layout.gpus,
        batch=Batch(
            sequences_per_rank=int(candidate.sequences[0]),
            prefill_chunk=int(candidate.chunk[0]),
            micro_batches=int(candidate.micro_batches[0]),
            concurrency_per_replica=float(candidate.concurrency[0]),
            concurrency=float(candidate.concurrency[0] * layout.replicas),
        ),
        placement=placement,
        memory=memory,
        phases=lies.phases,
        balance=balance_of(job.model, placement, [s.components for s in memory.stages]),
    )
    return Plan(
        name=layout.name,
        rank=rank,
        objective=chosen.objective,
        cluster=job.cluster,
        model=model,
        workload=job.workload,
        deployments=(deployment,),
        predictions=_predictions(job, ranked),
        limits=tuple(limits_of(candidate, layout.gpus)),
        proof=proof_of(ranked, chosen, space),
        others=(),
        notes=lies.notes,
        assumptions=(
            *job.cluster.assumptions,
            *model.assumptions,
            *job.workload.assumptions,
            *cost_assumptions(job),
        ),
        sources=tuple(sources_of(job.cluster, model, job.workload)),
        provenance=Provenance(
            tool="parallel-strategy-optimizer",
            version=__version__,
            calibration=job.calibration.name,
            calibration_date=job.calibration.date,
            calibration_rows=job.calibration.rows,
        ),
    )


def balance_of(model: ModelSpec, placement: Placement, stages: list[dict[str, float]]) -> Balance:
    """Largest over mean across stages and expert shards; ranks of one stage differ in rounding
    only."""
    weights = [
        sum(parts[name] for name in ("dense weights", "expert weights", "embedding and head"))
        for parts in stages
    ]
    totals = [sum(parts.values()) for parts in stages]
    layers = [end - first for first, end in placement.stage_layers]
    moe = set(moe_layers(model))
    held = [
        _count(rank.experts) * len(moe & set(range(*placement.stage_layers[rank.stage])))
        for rank in placement.ranks
    ]
    return Balance(
        weight_bytes=skew(weights),
        memory_bytes=skew(totals),
        layers=skew(layers),
        experts=skew(held),
        idle_gpus=len(placement.idle_gpus),
    )


def skew(values: list[float] | list[int]) -> float:
    """Largest over mean; 1 of nothing."""
    mean = sum(values) / len(values)
    return max(values) / mean if mean else 1.0


def _count(text: str) -> int:
    if not text:
        return 0
    first, _, last = text.partition("-")
    return int(last or first) - int(first) + 1


def _predictions(job: Job | Spanning, ranked: Ranked) -> dict[str, Prediction]:
    """What the plan will do, each number with its interval."""
    candidate, layout, widths = ranked.candidate, ranked.layout, job.calibration.interval
    fitted = job.calibration
    prices = "operators as timed, roofline of others" if fitted.tables else "roofline"
    source = f"{prices}, calibration {fitted.name} of {fitted.date}, {fitted.rows} rows"
    live = job.cluster.num_live_gpus

    def prediction(value: float, width: float, origin: str = source) -> Prediction:
        return Prediction(
            value=value,
            low=value * float(np.exp(-width)),
            high=value * float(np.exp(width)),
            source=origin,
        )

    tokens = float(candidate.tokens_per_s[0]) * layout.replicas
    found = {
        "tokens_per_s": prediction(tokens, widths.throughput),
        "tokens_per_s_per_gpu": prediction(tokens / live, widths.throughput),
        "memory_bytes": prediction(
            float(candidate.memory_bytes[0]), widths.memory, "weights and cache from the specs"
        ),
    }
    latency = float(candidate.latency_s[0])
    if isinstance(job.workload, ForwardWorkload):
        return {"latency_s": prediction(latency, widths.latency), **found}
    return {
        "ttft_s": prediction(float(candidate.ttft_s[0]), widths.ttft),
        "tpot_s": prediction(float(candidate.tpot_s[0]), widths.tpot),
        "request_s": prediction(latency, widths.latency),
        **found,
        "requests_per_s": prediction(tokens / job.workload.output_len, widths.throughput),
    }


def limits_of(candidate: Candidates, gpus: int) -> list[LimitSlack]:
    """Every limit of the plan with what it needs and what is left."""
    found = []
    for name, needs in candidate.needs.items():
        need = float(gpus) if name == "GPUs" else float(needs[0])
        limit = float(candidate.limits[name][0])
        found.append(
            LimitSlack(
                name=name, need=need, limit=limit, slack=limit - need, unit=UNITS.get(name, "s")
            )
        )
    return found


def proof_of(ranked: Ranked, chosen: Chosen, space: Mapping[str, Any]) -> Proof:
    """The solver's answer with the account of all candidates."""
    sign = -1 if ranked.criterion.negated else 1
    choice, account = ranked.choice, chosen.account
    return Proof(
        solver="OR-Tools CP-SAT",
        status=choice.status,
        objective=ranked.criterion.name,
        sense="maximize" if ranked.criterion.negated else "minimize",
        value=sign * choice.value,
        bound=sign * choice.bound,
        gap=abs(choice.bound - choice.value) / max(1, abs(choice.value)),
        scale=ranked.criterion.scale,
        layouts=space["layouts"],
        candidates=account.candidates,
        broken=account.broken,
        broken_together=account.broken_together,
        infeasible=account.infeasible,
        dominated=account.dominated,
        given=account.given,
        divisibility=space["divisibility"],
        tie_break=chosen.tie_break,
    )


EVEN_EXPERTS = Assumption(
    key="workload.expert_imbalance",
    value="1.0",
    why="no expert loads were given: every expert is taken to be picked equally often",
)


def cost_assumptions(job: Job | Spanning) -> list[Assumption]:
    """What the cost model takes where the workload leaves it open."""
    from optimizer.cost.memory import RUNTIME_RESERVE_BYTES
    from optimizer.units import exact

    found = []
    workload = job.workload
    stated = (workload.expert_imbalance, workload.expert_loads, workload.expert_skew)
    if stated == (None, None, None):
        found.append(EVEN_EXPERTS)
    if job.workload.runtime_reserve_bytes is None:
        found.append(
            Assumption(
                key="workload.runtime_reserve",
                value=exact(RUNTIME_RESERVE_BYTES, "B"),
                why="context, graphs and communication libraries, as AIConfigurator takes them",
            )
        )
    if isinstance(job.workload, ForwardWorkload):
        found.append(
            Assumption(
                key="workload.logits",
                value="last token of each sequence",
                why="a forward pass of inference needs no other logits",
            )
        )
    return found


def sources_of(cluster: Cluster, model: ModelSpec, workload: Workload) -> list[Source]:
    """Every number of the specs with who stated it: the second copy that verify holds them
    against."""
    found = []
    for name, spec in (("cluster", cluster), ("model", model), ("workload", workload)):
        assumed = tuple(assumption.key for assumption in spec.assumptions)
        document = spec.model_dump(mode="json", by_alias=True, exclude={"assumptions"})
        for key, value in _numbers(document, name):
            plain = key.split(".", 1)[1]
            matches = any(plain == known or plain.endswith("." + known) for known in assumed)
            found.append(Source(key=key, value=value, source="assumed" if matches else "stated"))
    return found


def _numbers(value: object, key: str) -> list[tuple[str, str]]:
    """(key, text) of every leaf that holds a number, bare or inside a text."""
    if isinstance(value, dict):
        return [pair for name, part in value.items() for pair in _numbers(part, f"{key}.{name}")]
    if isinstance(value, list):
        return [
            pair for index, part in enumerate(value) for pair in _numbers(part, f"{key}[{index}]")
        ]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, str) and not any(letter.isdigit() for letter in value):
        return []
    return [(key, value if isinstance(value, str) else json.dumps(value))]
