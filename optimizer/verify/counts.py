"""GPU counts, names and homes, and whether the model divides into the degrees."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, degrees, redundant_experts
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.gpus import Share, domains_of, live_gpus, shares_of
from optimizer.verify.matrices import FORMATS, up


def layout_name(layout: dict[str, int]) -> str:
    """The canonical name: every degree above 1, then the replicas."""
    order = ("pp", "vp", "ep", "etp", "edp", "tp", "cp", "dp")
    words = [f"{name.upper()}{layout[name]}" for name in order if layout[name] > 1]
    tail = [f"x{layout['replicas']}"] if layout["replicas"] > 1 else []
    return "-".join((words or ["TP1"]) + tail)


def gpu_counts(plan: Json) -> Iterator[Outcome]:
    """Degrees multiply to the GPUs; each GPU exists, lives, and is used once or listed as idle."""
    live = live_gpus(plan)
    yield len(plan["deployments"]) > 0, f"{len(plan['deployments'])} deployments"
    used: list[str] = []
    idle = set(live)  # of the whole plan: idle in every deployment
    for deployment in plan["deployments"]:
        layout, placement = degrees(deployment), deployment["placement"]
        yield equal("name", deployment["name"], layout_name(layout))
        grid = layout["etp"] * layout["ep"] * layout["edp"]
        routed = any(
            layer["ffn"]["kind"] == "moe" for layer in plan["model"]["layer_types"].values()
        )
        yield equal("GPUs of the expert grid", grid, layout["width"] if routed else 1)
        replica = layout["pp"] * layout["width"]
        yield equal("replicas x pp x width", deployment["gpus"], layout["replicas"] * replica)
        sizes = [len(row) for row in placement["rank_gpu"]]
        yield equal("GPUs of each replica", sizes, [replica] * layout["replicas"])
        homes = {
            gpu
            for share in shares_of(plan, deployment)
            for domain in domains_of(plan, share.pool)
            for gpu in domain
        }
        here = [gpu for row in placement["rank_gpu"] for gpu in row]
        strangers = sorted(set(here) - homes)
        yield not strangers, f"GPUs that are dead or unknown: {strangers[:3] or 'none'}"
        used += here
        resting = placement["idle_gpus"]
        yield equal("idle GPUs", deployment["balance"]["idle_gpus"], len(resting))
        yield equal("idle GPUs, each once", len(resting), len(set(resting)))
        idle &= set(resting)
    yield equal("GPUs used by one rank only", len(used), len(set(used)))
    yield equal("used and idle GPUs", sorted({*used, *idle}), sorted(live))
    yield equal("used plus idle GPUs", len(used) + len(idle), len(live))


def spans(plan: Json) -> Iterator[Outcome]:
    """Each run of `span` ranks of a stage lies in one domain, and no group spans more domains;
    where `inside` says so the ranks run in another order."""
    for deployment in plan["deployments"]:
        for share in shares_of(plan, deployment):
            yield from _share_spans(plan, deployment, share)


def _share_spans(plan: Json, deployment: Json, share: Share) -> Iterator[Outcome]:
    layout, placement = degrees(deployment), deployment["placement"]
    span, width = share.span, layout["width"]
    yield span <= width, f"span {span} of a stage of {width} GPUs"
    home = {
        gpu: number for number, domain in enumerate(domains_of(plan, share.pool)) for gpu in domain
    }
    order, pieces = _order(layout, placement), 0
    for replica, gpus in enumerate(placement["rank_gpu"]):
        for stage in range(share.first, share.first + share.stages):
            for first in range(0, width, span):
                piece = [gpus[stage * width + rank] for rank in order[first : first + span]]
                found = {home[gpu] for gpu in piece}
                pieces += 1
                if len(found) != 1:
                    yield False, f"replica {replica}: {piece[0]} ... in {len(found)} domains"
    stages = layout["replicas"] * share.stages
    yield equal(f"pieces of {span} GPUs", pieces, stages * up(width, span))


def _order(layout: dict[str, int], placement: Json) -> list[int]:
    """Ranks of a stage, those of a piece together: so many of each group as `inside` says."""
    ranks = list(range(layout["width"]))
    if "inside" not in placement:
        return ranks
    parts, near = placement["ranks"], placement["inside"]
    most = {axis: count(near[axis], 1, layout[axis]) for axis in ("dp", "cp", "tp")}

    def piece(rank: int) -> tuple[int, ...]:
        return tuple(parts[rank][axis] // many for axis, many in most.items())

    return sorted(ranks, key=piece)


def divisibility(plan: Json) -> Iterator[Outcome]:
    """What is cut into equal shards divides by its degree."""
    model = plan["model"]
    for deployment in plan["deployments"]:
        layout, precision = degrees(deployment), deployment["precision"]
        tp = layout["tp"]
        for name, layer in model["layer_types"].items():
            attention, ffn = layer["attention"], layer["ffn"]
            cuts = [("heads", attention.get("num_heads") or attention["num_key_heads"], tp)]
            kv_heads = attention.get("num_kv_heads", 0)
            if kv_heads:
                cuts.append(("kv_heads", max(kv_heads, tp), min(kv_heads, tp)))
            if ffn["kind"] == "moe":
                redundant = redundant_experts(plan)
                if redundant or plan["workload"]["engine"] != "vllm":
                    cuts.append(("expert slots", ffn["num_experts"] + redundant, layout["ep"]))
                cuts.append(_columns(ffn["intermediate_size"], precision["experts"], layout["etp"]))
                shared = ffn["shared_intermediate_size"]
                cuts.append(_columns(shared, precision["shared_experts"], tp))
            else:
                cuts.append(_columns(ffn["intermediate_size"], precision["ffn"], tp))
            for what, amount, degree in cuts:
                yield amount % degree == 0, f"{name}: {amount} {what} over {degree}"


def _columns(size: int, kind: str, degree: int) -> tuple[str, int, int]:
    """Columns come in whole quantisation blocks where the unsharded matrix has whole blocks."""
    block = FORMATS[kind][1]
    unit = block[1] if block is not None and size % block[1] == 0 else 1
    return f"columns in blocks of {unit}", size // unit, degree
