"""How much of a stage lies under one leaf switch: the share that no placement has to break.

A leaf is to domains what a domain is to GPUs. Of a stage's pieces as many lie under one leaf as can
without a stage less on the cluster, so that any number of replicas that has room keeps to it.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Layouts
from optimizer.spec.cluster import Cluster


def leaf_sizes(cluster: Cluster, pool: int) -> list[list[int]]:
    """Live GPUs of each domain, by leaf switch; leaves without any are left out."""
    found: dict[int, list[int]] = defaultdict(list)
    for domain in cluster.domains:
        if domain.pool == pool and domain.gpus:
            found[domain.leaf].append(len(domain.gpus))
    return list(found.values())


def keeps_rails(cluster: Cluster, pool: int) -> bool:
    """Whether the n-th live GPU of every domain hangs on the same rail: no node lacks single
    ones."""
    chosen = cluster.pools[pool]
    return chosen.rails is None or all("/" not in name for name in chosen.dead)


def boundary_leaf(cluster: Cluster, pool: int) -> float:
    """Of two neighbouring stages, how many surely share a leaf switch; inf: there is only one."""
    chosen = cluster.pools[pool]
    if chosen.leaf is None:
        return np.inf
    return 1.0 if chosen.rails is not None or len(leaf_sizes(cluster, pool)) > 1 else 2.0


def leaf_gpus(cluster: Cluster, pool: int, layouts: Layouts) -> NDArray[np.float64]:
    """GPUs of a stage under one leaf switch [n]; inf where the pool has one switch for all.

    Where ranks of equal place hang on different rails, each domain counts as a leaf of its own.
    """
    chosen = cluster.pools[pool]
    if chosen.leaf is None:
        return np.full(len(layouts), np.inf)
    leaves, rails = leaf_sizes(cluster, pool), chosen.rails or 1
    aligned = keeps_rails(cluster, pool)
    known: dict[tuple[int, ...], int] = {}
    columns = (layouts.width, layouts.span, layouts.tp, layouts.tp * layouts.cp)
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    for width, span, *groups in dict.fromkeys(keys):
        pieces = 1
        if aligned and span % rails == 0 and width % span == 0:
            pieces = together(width // span, span, groups, leaves)
        known[width, span, *groups] = pieces * span
    return np.array([known[key] for key in keys], dtype=np.float64)


def together(pieces: int, span: int, groups: list[int], leaves: list[list[int]]) -> int:
    """Of a stage's pieces, the most that can lie under one leaf with all stages that fit at all."""
    held = [sum(size // span for size in sizes) for sizes in leaves]
    stages = sum(held) // pieces
    for many in range(pieces, 1, -1):
        if pieces % many or not all(_whole(many, pieces, span, group) for group in groups):
            continue
        if sum(count // many for count in held) // (pieces // many) >= stages:
            return many
    return 1


def _whole(many: int, pieces: int, span: int, group: int) -> bool:
    """Whether leaves of so many pieces cut groups of so many ranks evenly, or not at all."""
    if group <= span or many == pieces:
        return True
    own, rest = divmod(group, span)
    return rest == 0 and (own % many == 0 or many % own == 0)
