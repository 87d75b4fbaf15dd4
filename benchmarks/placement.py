"""What placing groups by packing and choosing the order of ranks save.

    python benchmarks/placement.py

Packing: for each cluster the same layout is placed twice, as planned, and with rank r on the r-th
live GPU. Printed is the largest all-to-all of one prefill step over all groups, from the ranks that
have the fewest peers in their own domain and under their own leaf switch, by the simulator's
formulas, which the planner does not share.

Order: the same degrees on the same GPUs, as planned, and with ranks in the usual order, tp, cp, ep,
dp, pp from the inside out, in which an expert group takes every (tp x cp)-th GPU. (Where the GPUs
are not enough for that, experts lie across tp and cp in both, and only those are in order.) Printed
is one prefill step of one rank: the plan's seconds for what computes, and every collective by the
simulator's formulas, between the GPUs that its groups really have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from time import perf_counter
from typing import NamedTuple

from optimizer.layout import ParallelLayout
from optimizer.pipeline import optimize
from optimizer.plan import Plan
from optimizer.report.table import aligned
from optimizer.simulate.collectives import Links, collective_seconds
from optimizer.spec.cluster import Cluster
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document
from optimizer.spec.reading import read_model, read_workload

CASES = (
    ("3 racks of 72, six groups of EP32", "deepseek-v3", "EP32-DP32-x6", {"nodes": 54}, "gb200"),
    (
        "8 nodes of 8, two with 6 live, EP4",
        "qwen3-235b-a22b",
        "EP4-DP4-x14",
        {"nodes": 8, "dead": ["node2/gpu1", "node2/gpu5", "node5/gpu0", "node5/gpu7"]},
        "h200-sxm",
    ),
    (
        "16 nodes of 8, five with 6 live, EP8 in nodes of 8",
        "deepseek-v3",
        "EP8-DP8-x11",
        {
            "nodes": 16,
            "dead": [f"node{node}/gpu{gpu}" for node in (1, 4, 6, 11, 13) for gpu in (0, 3)],
        },
        "h200-sxm",
    ),
    (
        "16 nodes of 8, five with 6 live, EP16 over two nodes",
        "deepseek-v3",
        "EP16-DP16-x6",
        {
            "nodes": 16,
            "dead": [f"node{node}/gpu{gpu}" for node in (1, 4, 6, 11, 13) for gpu in (0, 3)],
        },
        "h200-sxm",
    ),
    (
        "32 nodes, four a leaf, one dead, spine 2:1, EP16",
        "deepseek-v3",
        "EP16-DP16-x15",
        {"nodes": 32, "dead": ["node1"], "leaf": {"nodes": 4, "oversubscription": 2}},
        "h200-sxm",
    ),
    (
        "32 nodes, four a leaf, one dead, spine 4:1, 8 rails, EP32",
        "deepseek-v3",
        "EP32-DP32-x7",
        {
            "nodes": 32,
            "dead": ["node1"],
            "leaf": {"nodes": 4, "oversubscription": 4},
            "rails": 8,
        },
        "h200-sxm",
    ),
)


ORDERS = (
    (
        "TP4 EP8, Qwen3-235B, 32 H200, 4k tokens",
        "qwen3-235b-a22b",
        "EP8-TP4-DP2-x4",
        4,
        {"kind": "forward", "batch": 8, "seq_len": 4096},
    ),
    (
        "CP4 EP8, gpt-oss-120b, 32 H200, 131k tokens",
        "gpt-oss-120b",
        "EP8-CP4-DP2-x4",
        4,
        {"kind": "forward", "batch": 8, "seq_len": 131072},
    ),
    (
        "TP2 CP2 EP16, DeepSeek-V3, 64 H200, 32k tokens",
        "deepseek-v3",
        "EP16-TP2-CP2-DP4-x4",
        8,
        {"kind": "forward", "batch": 16, "seq_len": 32768},
    ),
    (
        "TP8 CP16 EP128, DeepSeek-V3, 128 H200, serving prompts of 32k",
        "deepseek-v3",
        "EP128-TP8-CP16",
        16,
        {"input_len": 32768, "output_len": 512, "max_context_parallel": 16},
    ),
)


def largest_s(plan: Plan, cluster: Cluster, rank_gpu: list[list[str]]) -> float:
    """Seconds of the slowest all-to-all of one prefill step."""
    domain = {gpu: each.name for each in cluster.domains for gpu in each.gpus}
    switch = {gpu: each.leaf for each in cluster.domains for gpu in each.gpus}
    links = Links.of(cluster.pools[0])
    table = plan.deployment.phases["prefill"]
    payload = max(row.payload_bytes[0] for row in table.rows if row.kind == "all_to_all")
    slowest = 0.0
    for replica in rank_gpu:
        for group in plan.deployment.placement.groups["ep"]:
            near, leaf = (
                min(Counter(home[replica[rank]] for rank in group).values())
                for home in (domain, switch)
            )
            seconds = collective_seconds("all_to_all", payload, len(group), near, links, leaf)
            slowest = max(slowest, seconds)
    return slowest


def usual_groups(layout: ParallelLayout, axis: str) -> Iterator[range]:
    """The ranks of all replicas by group, where they run tp, cp, ep from the inside out."""
    inner = {"tp": 1, "cp": layout.tp, "ep": layout.tp * layout.cp}[axis]
    size = getattr(layout, axis)
    if axis == "ep" and inner * size > layout.gpus:
        inner = 1
    for first in range(layout.gpus):
        if first // inner % size == 0:
            yield range(first, first + inner * size, inner)


class Step(NamedTuple):
    """Seconds of one prefill step: of what computes, and of collectives."""

    computing_s: float
    sending_s: float


def step_of(plan: Plan, groups: dict[str, list[list[str]]]) -> Step:
    """One prefill step, its collectives in these groups of GPUs."""
    home = {gpu: each.name for each in plan.cluster.domains for gpu in each.gpus}
    links = Links.of(plan.cluster.pools[0])
    near = {
        axis: min(min(Counter(home[gpu] for gpu in group).values()) for group in found)
        for axis, found in groups.items()
    }
    computing, sending = 0.0, 0.0
    for row in plan.deployment.phases["prefill"].rows:
        if row.axis:
            payload, inside = row.payload_bytes[0], near[row.axis]
            seconds = collective_seconds(row.kind, payload, row.group_size, inside, links)
            sending += row.count * seconds
        else:
            computing += row.count * row.seconds[0]
    return Step(computing, sending)


def both_orders(plan: Plan) -> tuple[Step, Step]:
    """A step in the usual order of ranks, and as planned."""
    layout, placement = plan.deployment.layout, plan.deployment.placement
    gpus = [gpu for each in plan.cluster.domains for gpu in each.gpus]
    axes = ("tp", "cp", "ep")
    usual = {
        axis: [[gpus[rank] for rank in group] for group in usual_groups(layout, axis)]
        for axis in axes
    }
    planned = {
        axis: [
            [replica[rank] for rank in group]
            for replica in placement.rank_gpu
            for group in placement.groups[axis]
        ]
        for axis in axes
    }
    return step_of(plan, usual), step_of(plan, planned)


def orders() -> list[list[str]]:
    """A row for each case of ORDERS."""
    rows = [["degrees", "in usual order", "as planned", "less", "collectives", "planned in"]]
    for title, model, strategy, nodes, asked in ORDERS:
        cluster = cluster_of(Document(None, {"preset": "h200-sxm", "nodes": nodes}))
        workload, spec = read_workload(None, asked), read_model(model).model
        start = perf_counter()
        plan = optimize(cluster, spec, workload, top=1, strategy=f"canonical:{strategy}").best
        took = perf_counter() - start
        usual, planned = both_orders(plan)
        seconds = [f"{sum(step) * 1e3:,.0f} ms" for step in (usual, planned)]
        less = f"{1 - sum(planned) / sum(usual):.0%}"
        sent = f"{1 - planned.sending_s / usual.sending_s:.0%} less"
        rows.append([title, *seconds, less, sent, f"{took:.2f} s"])
    return rows


def main() -> None:
    rows = [["cluster", "in rank order", "placed", "less", "planned in"]]
    workload = read_workload(None, {"input_len": 2048, "output_len": 512})
    for title, model, strategy, changes, preset in CASES:
        cluster = cluster_of(Document(None, {"preset": preset, **changes}))
        start = perf_counter()
        plan = optimize(
            cluster, read_model(model).model, workload, top=1, strategy=f"canonical:{strategy}"
        ).best
        took = perf_counter() - start
        gpus = [gpu for each in cluster.domains for gpu in each.gpus]
        size = plan.deployment.layout.gpus_per_replica
        ordered = [
            gpus[index * size : (index + 1) * size]
            for index in range(plan.deployment.layout.replicas)
        ]
        naive = largest_s(plan, cluster, ordered)
        placed = largest_s(plan, cluster, [list(r) for r in plan.deployment.placement.rank_gpu])
        rows.append(
            [
                title,
                f"{naive * 1e3:.3g} ms",
                f"{placed * 1e3:.3g} ms",
                f"{1 - placed / naive:.0%}",
                f"{took:.2f} s",
            ]
        )
    print("\n".join([*aligned(rows), "", *aligned(orders())]))


if __name__ == "__main__":
    main()
