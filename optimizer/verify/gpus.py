"""The GPUs of a cluster, one by one: which live, and which share a domain of fast links."""

from __future__ import annotations

from typing import NamedTuple

from optimizer.verify.document import MOST_GPUS, Json, Unreadable, count, degrees

CROSSING = "pool_send"  # the operator that sends from one pool of a replica to the next


class Share(NamedTuple):
    """The stages of every replica that lie in one pool, `span` GPUs of each in a domain."""

    pool: Json
    first: int
    stages: int
    span: int

    def rows(self, deployment: Json, table: Json) -> list[Json]:
        """The operators that run there, without what is sent to the next pool."""
        if "shares" not in deployment:
            return list(table["rows"])
        own = [row for row in table["rows"] if row["pool"] == self.pool["name"]]
        return [row for row in own if row["name"] != CROSSING]


def pool_named(plan: Json, name: str) -> Json:
    """A pool of the cluster."""
    for pool in plan["cluster"]["pools"]:
        if pool["name"] == name:
            found: Json = pool
            return found
    raise Unreadable(f"the cluster has no pool {name!r}")


def pool_of(plan: Json, deployment: Json) -> Json:
    """The pool that a deployment names: of its first stages, where its replicas span several."""
    return pool_named(plan, deployment["pool"])


def shares_of(plan: Json, deployment: Json) -> list[Share]:
    """Where the stages of a replica lie: in one pool, or in several after each other."""
    pp, placement = degrees(deployment)["pp"], deployment["placement"]
    if "shares" not in deployment:
        return [Share(pool_of(plan, deployment), 0, pp, count(placement["span"], 1))]
    found: list[Share] = []
    for told in deployment["shares"]:
        first = sum(share.stages for share in found)
        stages, span = count(told["stages"], 1, pp - first), count(told["span"], 1)
        found.append(Share(pool_named(plan, told["pool"]), first, stages, span))
    if sum(share.stages for share in found) != pp:
        raise Unreadable(f"pools with {sum(share.stages for share in found)} of {pp} stages")
    return found


def stage_pools(plan: Json, deployment: Json) -> list[Json]:
    """The pool of each stage."""
    return [share.pool for share in shares_of(plan, deployment) for _ in range(share.stages)]


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
