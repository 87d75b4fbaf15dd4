"""Names the GPUs: which rank holds what, and where each rank lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from optimizer.layout import Layouts, ParallelLayout, leaf_gpus
from optimizer.plan import Inside, Placement, RankPart
from optimizer.search.degrees import DomainType, Packing
from optimizer.search.experts.balance import placed_experts
from optimizer.search.leaves import leaf_stages
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import GroupedQueryAttention, LatentAttention, LinearAttention, ModelSpec
from optimizer.spec.workload import TrainingWorkload, Workload

Packings = tuple[tuple[DomainType, Packing, int], ...]


class Share(NamedTuple):
    """The stages of each replica that lie in one pool, with `span` GPUs of a stage in a domain and
    `leaf` such pieces under one leaf switch (0: as many as cost no stage)."""

    pool: int
    stages: int
    span: int
    leaf: int = 0


def place(
    cluster: Cluster,
    model: ModelSpec,
    layout: ParallelLayout,
    shares: Sequence[Share],
    packings: Packings,
    workload: Workload,
    cut: tuple[int, ...],
    inside: Inside | None = None,
) -> Placement:
    """The placement of one deployment: ranks in the order tp, cp, dp, pp from the inside out, on
    GPUs in that order, or with as many ranks of each group and stages in a domain as `inside` says.

    shares: one pool, or several in the order of their stages; cut: layers of each stage, in
    training of each chunk, of which stage s holds s, s + pp ...
    """
    stage_layers = tuple(_ranges(cut))
    trained = isinstance(workload, TrainingWorkload)
    ranks = rank_parts(model, layout, cut, workload.redundant_experts, trained)
    experts = placed_experts(model, workload, layout.ep)
    stages = [_ordered_stages(cluster, layout, share, packings, inside) for share in shares]
    rank_gpu = tuple(
        tuple(
            gpu
            for share, found in zip(shares, stages, strict=True)
            for stage in found[replica * share.stages : (replica + 1) * share.stages]
            for gpu in stage
        )
        for replica in range(layout.replicas)
    )
    used = {gpu for replica in rank_gpu for gpu in replica}
    idle = tuple(gpu for domain in cluster.domains for gpu in domain.gpus if gpu not in used)
    return Placement(
        span=shares[0].span // (inside["pp"] if inside else 1),
        inside=inside,
        stage_layers=stage_layers,
        ranks=ranks,
        groups=_groups(ranks),
        rank_gpu=rank_gpu,
        idle_gpus=idle,
        expert_slots=experts and tuple(map(tuple, experts.physical_to_logical_map.tolist())),
    )


def _ranges(sizes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    start = 0
    for size in sizes:
        yield start, start + size
        start += size


def share(units: int, degree: int, index: int) -> str:
    """The inclusive range of units that shard `index` of `degree` holds; the first shards take one
    more where it does not divide, and shards repeat where there are more of them than units."""
    if units == 0:
        return ""
    if degree > units:
        unit = index * units // degree
        return str(unit)
    base, extra = divmod(units, degree)
    first = index * base + min(index, extra)
    last = first + base + (index < extra) - 1
    return str(first) if first == last else f"{first}-{last}"


def _inclusive(first: int, end: int) -> str:
    """Layers as people count them: "0-3"; "" is none."""
    if first == end:
        return ""
    return str(first) if first + 1 == end else f"{first}-{end - 1}"


def rank_parts(
    model: ModelSpec,
    layout: ParallelLayout,
    cut: tuple[int, ...],
    redundant: int = 0,
    trained: bool = False,
) -> tuple[RankPart, ...]:
    """What each rank of a replica holds, its layers cut so on stages."""
    return tuple(_ranks(model, layout, tuple(_ranges(cut)), redundant, trained))


def _ranks(
    model: ModelSpec,
    layout: ParallelLayout,
    stage_layers: tuple[tuple[int, int], ...],
    redundant: int,
    trained: bool,
) -> Iterator[RankPart]:
    attentions = [layer.attention for layer in model.layer_types.values()]
    heads = max(
        (a.num_heads for a in attentions if isinstance(a, GroupedQueryAttention | LatentAttention)),
        default=0,
    )
    kv_heads = max(
        (a.num_kv_heads for a in attentions if isinstance(a, GroupedQueryAttention)), default=0
    )
    linear = max(
        (a.num_value_heads for a in attentions if isinstance(a, LinearAttention)), default=0
    )
    experts = model.moe.num_experts + redundant if model.moe is not None else 0
    for rank in range(layout.gpus_per_replica):
        stage, place_in_stage = divmod(rank, layout.width)
        tp = place_in_stage % layout.tp
        cp = place_in_stage // layout.tp % layout.cp
        dp = place_in_stage // (layout.tp * layout.cp)
        etp = place_in_stage % layout.etp
        ep = place_in_stage // layout.etp % layout.ep
        edp = place_in_stage // (layout.etp * layout.ep)
        yield RankPart(
            rank=rank,
            stage=stage,
            tp=tp,
            cp=cp,
            dp=dp,
            ep=ep if experts else 0,
            etp=etp if experts else 0,
            edp=edp if trained and experts else None,
            layers=",".join(
                filter(None, (_inclusive(*each) for each in stage_layers[stage :: layout.pp]))
            ),
            heads=share(heads, layout.tp, tp),
            kv_heads=share(kv_heads, layout.tp, tp),
            linear_heads=share(linear, layout.tp, tp),
            experts=share(experts, layout.ep, ep),
            embedding=stage == 0,
            head=stage == layout.pp - 1,
        )


def _groups(ranks: tuple[RankPart, ...]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """For each axis the groups of ranks that differ in that coordinate alone."""
    grids = {
        "tp": ("stage", "cp", "dp"),
        "cp": ("stage", "tp", "dp"),
        "dp": ("stage", "tp", "cp"),
        "ep": ("stage", "etp"),
        "etp": ("stage", "ep"),
        "pp": ("tp", "cp", "dp"),
    }
    if ranks[0].edp is not None:
        grids |= {"ep": ("stage", "etp", "edp"), "etp": ("stage", "ep", "edp")}
        grids["edp"] = ("stage", "etp", "ep")
    found: dict[str, tuple[tuple[int, ...], ...]] = {}
    for axis, fixed in grids.items():
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for rank in ranks:
            members[tuple(getattr(rank, name) for name in fixed)].append(rank.rank)
        found[axis] = tuple(tuple(group) for group in members.values())
    return found


def stage_order(layout: ParallelLayout, inside: Inside | None) -> list[int]:
    """The ranks of a stage in the order of its GPUs: all that share a domain one after the other;
    without `inside` the ranks' own order."""
    ranks = list(range(layout.width))
    if inside is None:
        return ranks
    most = (inside["dp"], inside["cp"], inside["tp"])

    def place(rank: int) -> tuple[int, ...]:
        rest, tp = divmod(rank, layout.tp)
        dp, cp = divmod(rest, layout.cp)
        domain, within = zip(*map(divmod, (dp, cp, tp), most), strict=True)
        return (*domain, *within)

    return sorted(ranks, key=place)


def _ordered_stages(
    cluster: Cluster,
    layout: ParallelLayout,
    share: Share,
    packings: Packings,
    inside: Inside | None,
) -> list[tuple[str, ...]]:
    """The GPUs of the stages in one pool, each in the order of its ranks."""
    order, stages = stage_order(layout, inside), _stage_gpus(cluster, layout, share, packings)
    if inside is not None and inside["pp"] > 1:
        stages = _interleaved(list(stages), share, inside["pp"])
    return [tuple(gpu for _, gpu in sorted(zip(order, stage, strict=True))) for stage in stages]


def _interleaved(
    stages: list[tuple[str, ...]], share: Share, together: int
) -> Iterator[tuple[str, ...]]:
    """The GPUs of as many stages, of which each `together` share the pieces that they had."""
    own = share.span // together
    for first in range(0, len(stages) - together + 1, together):
        gpus = [gpu for stage in stages[first : first + together] for gpu in stage]
        for turn in range(together):
            yield tuple(gpu for place, gpu in enumerate(gpus) if place // own % together == turn)


def _stage_gpus(
    cluster: Cluster, layout: ParallelLayout, share: Share, packings: Packings
) -> Iterator[tuple[str, ...]]:
    """The GPUs of one stage after the other: whole pieces in domain order, then a rest; under leaf
    switches stages without a rest go by those."""
    width, pool, span = layout.width, share.pool, share.span
    if cluster.pools[pool].leaf is not None and width % span == 0:
        usual = int(leaf_gpus(cluster, pool, Layouts.of(layout, span))[0]) // span
        together = share.leaf or usual
        yield from leaf_stages(cluster, pool, width // span, span, together)
        return
    pieces: list[tuple[str, ...]] = []
    rests: list[tuple[str, ...]] = []
    left: dict[int, list[Packing]] = defaultdict(list)
    for kind, packing, count in packings:
        if kind.pool == pool:
            left[kind.size] += [packing] * count
    for domain in cluster.domains:
        queue = left[len(domain.gpus)] if domain.pool == pool else []
        if not queue:
            continue
        packing = queue.pop(0)
        start = 0
        for _ in range(packing.pieces):
            pieces.append(domain.gpus[start : start + span])
            start += span
        for _ in range(packing.rests):
            rests.append(domain.gpus[start : start + packing.shape.rest])
            start += packing.shape.rest
    full = width // span
    while len(pieces) >= full and (not width % span or rests):
        stage = [gpu for piece in pieces[:full] for gpu in piece]
        pieces = pieces[full:]
        if width % span:
            stage += rests.pop(0)
        yield tuple(stage)
