"""The GPUs of a cluster, one by one: which live, and which share a domain of fast links."""

from __future__ import annotations

from optimizer.verify.document import MOST_GPUS, Json, Unreadable, count


def pool_of(plan: Json, deployment: Json) -> Json:
    """The pool that a deployment names."""
    for pool in plan["cluster"]["pools"]:
        if pool["name"] == deployment["pool"]:
            found: Json = pool
            return found
    raise Unreadable(f"the cluster has no pool {deployment['pool']!r}")


def domains_of(plan: Json, pool: Json) -> list[list[str]]:
    """Names of the live GPUs of each domain: nodes are gathered until they reach nvlink_domain."""
    cluster = plan["cluster"]
    prefix = pool["name"] + "/" if len(cluster["pools"]) > 1 else ""
    nodes = count(pool["nodes"], 1, MOST_GPUS)
    sizes = pool["node_sizes"] or [pool["gpus_per_node"]] * nodes
    if nodes != len(sizes):
        raise Unreadable(f"{nodes} nodes but {len(sizes)} node sizes")
    count(sum(count(size, 1) for size in sizes), 1, MOST_GPUS)
    dead = set(pool["dead"])
    reach = pool["nvlink_domain"] or 0
    found: list[list[str]] = []
    gathered = reach  # so that the first node opens a domain
    for node, size in enumerate(sizes):
        if gathered >= reach:
            found.append([])
            gathered = 0
        gathered += size
        if f"node{node}" in dead:
            continue
        for gpu in range(size):
            if f"node{node}/gpu{gpu}" not in dead:
                found[-1].append(f"{prefix}node{node}/gpu{gpu}")
    return found


def live_gpus(plan: Json) -> list[str]:
    """Every live GPU of the cluster."""
    return [
        gpu
        for pool in plan["cluster"]["pools"]
        for domain in domains_of(plan, pool)
        for gpu in domain
    ]
