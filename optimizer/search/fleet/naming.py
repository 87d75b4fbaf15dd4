"""Names the GPUs of every chosen replica: pieces into domains, largest first."""

from __future__ import annotations

from collections.abc import Sequence

from ortools.sat.python import cp_model

from optimizer.search.fleet.room import PoolRoom
from optimizer.search.fleet.vectors import Use
from optimizer.search.solver import new_solver
from optimizer.spec.cluster import Cluster


def name_gpus(
    cluster: Cluster, rooms: Sequence[PoolRoom], uses: Sequence[Use]
) -> list[tuple[str, ...]]:
    """The GPUs of each use, every piece inside one domain.

    Where sizes form a chain any domain with room will do for the largest piece that is left; else
    domains are cut in ways that together hold all pieces.
    """
    free: list[dict[int, list[list[str]]]] = []  # pool -> size of piece -> pieces of GPU names
    for pool, room in enumerate(rooms):
        asked: dict[int, int] = {}
        for use in uses:
            if use.offer.pool == pool:
                for size, many in use.pieces:
                    asked[size] = asked.get(size, 0) + many
        domains = [list(domain.gpus) for domain in cluster.domains if domain.pool == pool]
        free.append(_cut(domains, room, asked))
    return [
        tuple(
            gpu
            for size, many in use.pieces
            for _ in range(many)
            for gpu in free[use.offer.pool][size].pop(0)
        )
        for use in uses
    ]


def _cut(
    domains: Sequence[list[str]], room: PoolRoom, asked: dict[int, int]
) -> dict[int, list[list[str]]]:
    """Pieces by size out of the domains' live GPUs, at least so many of each as are asked for."""
    found: dict[int, list[list[str]]] = {size: [] for size in asked}
    if room.cuts:
        ways = _ways(room, asked)
        for domain in domains:
            cut = next(iter(ways.get(len(domain), [])), None)
            if cut is None:
                continue
            ways[len(domain)].pop(0)
            left = list(domain)
            for size, many in zip(room.sizes, cut, strict=True):
                for _ in range(many):
                    found.setdefault(size, []).append([left.pop(0) for _ in range(size)])
        return found
    left_of = [list(domain) for domain in domains]
    for size in sorted(asked, reverse=True):
        for _ in range(asked[size]):
            # The fullest domain that still has room keeps the others whole.
            best = min((d for d in left_of if len(d) >= size), key=len)
            found[size].append([best.pop(0) for _ in range(size)])
    return found


def _ways(room: PoolRoom, asked: dict[int, int]) -> dict[int, list[tuple[int, ...]]]:
    """For domains of each number of live GPUs the cuts that together hold what is asked for."""
    model = cp_model.CpModel()
    counts = {
        (live, cut): model.new_int_var(0, many, "y")
        for (live, many), cuts in zip(room.domains, room.cuts, strict=True)
        for cut in cuts
    }
    for live, many in room.domains:
        model.add(sum(count for (own, _), count in counts.items() if own == live) <= many)
    for index, size in enumerate(room.sizes):
        held = sum(cut[index] * count for (_, cut), count in counts.items())
        model.add(held >= asked.get(size, 0))
    model.minimize(sum(counts.values()))  # so that untouched domains stay whole
    solver = new_solver()
    solver.solve(model)
    found: dict[int, list[tuple[int, ...]]] = {}
    for (live, cut), count in counts.items():
        found.setdefault(live, []).extend([cut] * solver.value(count))
    return found
