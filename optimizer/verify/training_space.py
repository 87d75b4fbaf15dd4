"""The searched training layouts, counted again: none that divides and fits was left out."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, degrees, layer_types
from optimizer.verify.finding import Outcome, equal
from optimizer.verify.gpus import domains_of
from optimizer.verify.space import num_spans


def training_space(plan: Json) -> Iterator[Outcome]:
    """Layouts of all pools, or of the one given layout."""
    told = plan["proof"]
    if not told["divisibility"]:
        layout = degrees(plan["deployments"][0])
        given = 0
        for pool in plan["cluster"]["pools"]:
            sizes = [len(domain) for domain in domains_of(plan, pool) if domain]
            given += num_spans(layout["width"], layout["tp"], layout["cp"], sizes)
        if told["layouts"] == given:
            yield True, f"layouts of the given strategy: {given}"
            return
    layouts = sum(_pool_layouts_of_training(plan, pool) for pool in plan["cluster"]["pools"])
    yield equal("layouts", told["layouts"], layouts)


def _pool_layouts_of_training(plan: Json, pool: Json) -> int:
    sizes = [len(domain) for domain in domains_of(plan, pool) if domain]
    gpus, layers = sum(sizes), len(layer_types(plan["model"]))
    tps, cps, dps = (_degrees_of_training(plan, axis, gpus) for axis in ("tp", "cp", "dp"))
    grids = [
        etp * ep
        for etp in _degrees_of_training(plan, "etp", gpus)
        for ep in _degrees_of_training(plan, "ep", gpus)
    ]
    folds: dict[int, int] = {}
    spans: dict[tuple[int, int], int] = {}
    total = 0
    for tp in tps:
        for cp in cps:
            for dp in dps:
                width = tp * cp * dp
                if width > gpus:
                    break
                if width not in folds:
                    folds[width] = sum(width % grid == 0 for grid in grids)
                if (width, tp * cp) not in spans:
                    spans[width, tp * cp] = num_spans(width, tp, cp, sizes)
                # The grain of a span is tp x cp where a domain holds it, else tp.
                ways = spans[width, tp * cp]
                if tp * cp > max(sizes, default=1):
                    ways = num_spans(width, tp, cp, sizes)
                total += folds[width] * ways * min(layers, gpus // width)
    return total


def _degrees_of_training(plan: Json, axis: str, gpus: int) -> list[int]:
    """The values of one degree that divide what they must."""
    model, workload = plan["model"], plan["workload"]
    kinds = model["layer_types"].values()
    routed = [kind["ffn"] for kind in kinds if kind["ffn"]["kind"] == "moe"]
    length = count(workload["sequence_length"], 1)
    if axis == "tp":
        return [tp for tp in range(1, gpus + 1) if _cuts_matrices(model, tp)]
    if axis == "cp":
        most = min(gpus, count(workload["max_context_parallel"], 1))
        return [cp for cp in range(1, most + 1) if cp == 1 or length % (2 * cp) == 0]
    if axis == "dp":
        batch, micro = count(workload["global_batch"], 1), workload["micro_batch"] or 1
        most = min(gpus, batch)
        return [dp for dp in range(1, most + 1) if batch % (dp * count(micro, 1)) == 0]
    if not routed:
        return [1]
    what = "num_experts" if axis == "ep" else "intermediate_size"
    return [
        degree
        for degree in range(1, gpus + 1)
        if all(count(ffn[what], 1) % degree == 0 for ffn in routed)
    ]


def _cuts_matrices(model: Json, tp: int) -> bool:
    """Whether tensor parallelism cuts heads and hidden sizes evenly; fewer key-value heads than
    ranks are repeated evenly."""
    for kind in model["layer_types"].values():
        attention, ffn = kind["attention"], kind["ffn"]
        if attention["kind"] == "linear":
            whole = attention["num_key_heads"] % tp == 0
        else:
            whole = attention["num_heads"] % tp == 0
        keys = attention.get("num_kv_heads", tp)
        size = ffn["shared_intermediate_size" if ffn["kind"] == "moe" else "intermediate_size"]
        if not (whole and (keys % tp == 0 or tp % keys == 0) and size % tp == 0):
            return False
    return True
