"""`optimize experts`: loads in, a placement with its proof and the engines' files out."""

from __future__ import annotations

from optimizer.export.experts import expert_files
from optimizer.plan import Answer, Plan
from optimizer.report.files import run_name
from optimizer.report.table import aligned
from optimizer.search.experts import ExpertPlacement, place_experts
from optimizer.search.experts.balance import placed_experts
from optimizer.spec.linears import moe_layers
from optimizer.spec.loads import read_expert_map, read_loads
from optimizer.verify.experts import check_expert_placement


def place(
    loads: str,
    gpus: int,
    slots: int,
    nodes: int = 1,
    groups: int | None = None,
    current: str | None = None,
    max_moves: int | None = None,
    no_duplicates: bool = False,
    prove: bool = False,
) -> tuple[ExpertPlacement, dict[str, str], list[str]]:
    """(the placement, its files by name, what the independent check does not accept)."""
    placement = place_experts(
        read_loads(loads),
        gpus,
        slots,
        nodes=nodes,
        groups=groups,
        current=None if current is None else read_expert_map(current),
        max_moves=max_moves,
        distinct=no_duplicates,
        prove=prove,
    )
    document = placement.document()
    findings = [f"{check}: {detail}" for check, detail in check_expert_placement(document)]
    return placement, expert_files(document), findings


def files_of(plan: Plan) -> dict[str, str]:
    """The placement of a plan's experts as every engine reads it; {} where no loads were stated."""
    layout, workload = plan.deployment.layout, plan.workload
    placement = placed_experts(plan.model, workload, layout.ep)
    if placement is None:
        return {}
    layers = moe_layers(plan.model)
    document = placement.document()
    if len(placement.loads) == 1:  # one row stands for all layers
        document = {
            key: value * len(layers) if isinstance(value, list) else value
            for key, value in document.items()
        }
    return expert_files(document, layers, plan.model.num_layers)


def files_of_answer(answer: Answer) -> dict[str, str]:
    """files_of every layout of an answer; where there are several, named by role and pool."""
    if len(answer.shares) == 1:
        return files_of(answer.shares[0].plan)
    return {
        f"{run_name(share.role, share.pool)}-{name}": text
        for share in answer.shares
        for name, text in files_of(share.plan).items()
    }


def summary(placement: ExpertPlacement) -> str:
    """What a person asks first: how far from the bound, and what was moved or given up."""
    gaps, skew = placement.gaps, placement.imbalance
    rows = [
        ["", "mean", "worst layer"],
        ["above the bound", f"{gaps.mean():.3%}", f"{gaps.max():.3%}"],
        ["hottest GPU over the mean", f"{skew.mean():.4f}", f"{skew.max():.4f}"],
    ]
    if placement.nodes > 1:
        crossing = placement.crossing
        rows.append(["tokens to other nodes", f"{crossing.mean():.1%}", f"{crossing.max():.1%}"])
    if placement.price_of_groups is not None:
        price = placement.price_of_groups
        rows.append(["price of groups on nodes", f"{price.mean():.2%}", f"{price.max():.2%}"])
    if placement.moves is not None:
        rows.append(["slots moved", f"{placement.moves.mean():.0f}", f"{placement.moves.max()}"])
    kinds = [certificate.kind for certificate in placement.certificates]
    proven = int((gaps <= 1e-9).sum())
    counts = ", ".join(f"{kinds.count(kind)} by {kind}" for kind in dict.fromkeys(kinds))
    lines = aligned(rows)
    lines.append(f"{proven} of {len(kinds)} layers proven optimal; bounds: {counts}")
    return "\n".join(lines)
