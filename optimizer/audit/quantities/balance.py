"""Balance: the spread of a load over the GPUs, as its standard deviation over its mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, pstdev

from optimizer.audit.case import Case
from optimizer.audit.claim import Claim
from optimizer.audit.deriving import Answer, Derived
from optimizer.audit.own_figures import Told
from optimizer.audit.quantities.counts import cut_share

COMPONENTS = ("modules", "memory", "compute", "communication")
UNIFORM = "if every expert is picked exactly equally often"


def variance(case: Case, claim: Claim, told: Mapping[str, Told]) -> Answer:
    """The spread of modules, memory, compute or communication."""
    if claim.component == "modules":
        return _modules(case)
    if claim.component == "memory":
        return _memory(case)
    return _routed(case, claim.component or "compute")


def spread(loads: Sequence[float]) -> float:
    """Standard deviation over mean."""
    return pstdev(loads) / fmean(loads) if fmean(loads) else 0.0


def _modules(case: Case) -> Answer:
    model, layout = case.model, case.layout
    experts = model.moe.num_experts if model.moe else 0
    total, gpus = model.num_layers * (experts + 1), layout.gpus_per_replica
    more = total % gpus
    loads = [total // gpus + 1] * more + [total // gpus] * (gpus - more)
    text = f"{total} whole modules over {gpus} GPUs: "
    text += (
        f"{more} GPUs hold {total // gpus + 1}, {gpus - more} hold {total // gpus}"
        if more
        else f"{total // gpus} each"
    )
    found = [Derived(spread(loads), f"{text}; spread {100 * spread(loads):.3g} %", ("whole",))]
    cut_evenly = not (experts % layout.ep or model.num_layers % layout.pp)
    if (layout.tp > 1 or layout.etp > 1) and cut_evenly:
        label = f"tensor parallelism cuts each attention block in {layout.tp}"
        found.append(Derived(0.0, f"{cut_share(case)[1]} on every GPU", (label,), (label,)))
    return Answer(tuple(found))


def _memory(case: Case) -> Answer:
    """Of all ranks, stage by stage: embedding and head lie on the first and the last."""
    found: list[Derived] = []
    for phase, plan in case.plans.items():
        totals = [stage.total_bytes for stage in plan.deployment.memory.stages]
        value = spread(totals)
        held = ", ".join(f"{total / 1e6:,.6g} MB" for total in totals)
        text = f"{phase}: a rank of each stage holds {held}; spread {100 * value:.3g} %"
        departs = () if case.phase else (phase,)
        found.append(Derived(value, text, (phase,), departs))
        if phase == "training":
            continue
        layers = [
            stage.components["dense weights"] + stage.components["expert weights"]
            for stage in plan.deployment.memory.stages
        ]
        if value and not spread(layers):
            label = "the weights of the layers alone, without embedding and head"
            text = f"{layers[0] / 1e6:,.6g} MB of layers on every GPU"
            found.append(Derived(0.0, text, (label,), (label,)))
            break
    return Answer(tuple(found))


def _routed(case: Case, what: str) -> Answer:
    """Experts are picked at random at best: n tokens with top-k over ep groups of E experts give
    each group a binomial load, spread sqrt((1 - p) / (n k p)), p = 1 / ep."""
    moe, layout = case.model.moe, case.layout
    if moe is None or layout.ep == 1:
        return Answer((Derived(0.0, "every GPU does the same work", ("dense",)),))
    picks = case.batch * case.seq_len // layout.replicas * moe.num_experts_per_token
    share = 1 / layout.ep
    value = sqrt((1 - share) / (picks * share))
    even = moe.num_experts % layout.ep == 0
    text = (
        f"{picks:,} routed copies a layer over {layout.ep} expert ranks; picked at random they "
        f"spread by sqrt((1 - 1/{layout.ep}) x {layout.ep} / {picks:,}) = {100 * value:.3g} %"
    )
    found = [Derived(value, f"{what}: {text}", ("routing at random",))]
    if even:
        exact = (
            f"{moe.num_experts} experts / ep {layout.ep} are equal shares; {what} is then equal "
            "only as far as the router is; no loads are given"
        )
        found.append(Derived(0.0, exact, (UNIFORM,), (UNIFORM,)))
    return Answer(tuple(found))
