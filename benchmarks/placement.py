"""What placing groups by packing saves against filling GPUs in rank order.

    python benchmarks/placement.py

For each cluster the same layout is placed twice: as planned, and with rank r on the r-th live GPU.
Printed is the largest all-to-all of one prefill step over all groups, from the ranks that have the
fewest peers in their own domain and under their own leaf switch, by the simulator's formulas, which
the planner does not share.
"""

from __future__ import annotations

from collections import Counter
from time import perf_counter

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
    print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
