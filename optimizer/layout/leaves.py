"""How much of a stage lies under one leaf switch: the share that no placement has to break.

A leaf is to domains what a domain is to GPUs. Of a stage's pieces as many lie under one leaf as can
without a stage less on the cluster, so that any number of replicas that has room keeps to it; more
of them is a choice that the search makes against the stages for which that leaves no room.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer.layout.degrees import Ints, Layouts
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
    back, ways = _ways(cluster, pool, layouts)
    usual = np.array([each[-1] for each in ways], dtype=np.int64)[back]
    pieces = np.where(layouts.leaf > 0, layouts.leaf, usual)
    return (pieces * layouts.span).astype(np.float64)


def leaf_offers(cluster: Cluster, pool: int, layouts: Layouts) -> Layouts:
    """The same layouts with more of a stage under one leaf than costs no stage: every number that
    leaves room for a replica, and for more stages than any larger one."""
    if cluster.pools[pool].leaf is None:
        return layouts.take(np.zeros(0, dtype=np.int64))
    back, ways = _ways(cluster, pool, layouts)
    leaves = leaf_sizes(cluster, pool)
    rows, leaf = [], []
    columns = (back, layouts.pp, layouts.width // layouts.span, layouts.span)
    for row, (shape, pp, pieces, span) in enumerate(_lines(*columns)):
        offers = [
            many for many in ways[shape][:-1] if stages_under(leaves, pieces, span, many) >= pp
        ]
        rows += [row] * len(offers)
        leaf += offers
    chosen = layouts.take(np.array(rows, dtype=np.int64))
    return replace(chosen, leaf=np.array(leaf, dtype=np.int64))


def _lines(*columns: Ints) -> Iterator[tuple[int, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _ways(cluster: Cluster, pool: int, layouts: Layouts) -> tuple[Ints, list[list[int]]]:
    """(the shape of each layout [n], ways_together of each shape)."""
    leaves, rails = leaf_sizes(cluster, pool), cluster.pools[pool].rails or 1
    aligned = keeps_rails(cluster, pool)
    shapes: dict[tuple[int, ...], int] = {}
    columns = (layouts.width, layouts.span, layouts.tp, layouts.tp * layouts.cp)
    back = [shapes.setdefault(key, len(shapes)) for key in _lines(*columns)]
    ways = [
        ways_together(width // span, span, groups, leaves)
        if aligned and span % rails == 0 and width % span == 0
        else [1]
        for width, span, *groups in shapes
    ]
    return np.array(back, dtype=np.int64), ways


def ways_together(pieces: int, span: int, groups: list[int], leaves: list[list[int]]) -> list[int]:
    """Of a stage's pieces, how many may lie under one leaf: from the most, each with room for more
    stages than those before, down to one that costs none of the stages that fit at all."""
    found: list[int] = []
    most = -1
    for many in range(pieces, 0, -1):
        even = all(_whole(many, pieces, span, group) for group in groups)
        if pieces % many or not (even or many == 1):
            continue
        stages = stages_under(leaves, pieces, span, many)
        if stages > most:
            found.append(many)
            most = stages
    return found


def stages_under(leaves: list[list[int]], pieces: int, span: int, many: int) -> int:
    """Stages that the leaves hold at once, `many` pieces of each under one leaf or a multiple."""
    held = [sum(size // span for size in sizes) for sizes in leaves]
    return sum(count // many for count in held) // (pieces // many)


def _whole(many: int, pieces: int, span: int, group: int) -> bool:
    """Whether leaves of so many pieces cut groups of so many ranks evenly, or not at all."""
    if group <= span or many == pieces:
        return True
    own, rest = divmod(group, span)
    return rest == 0 and (own % many == 0 or many % own == 0)
