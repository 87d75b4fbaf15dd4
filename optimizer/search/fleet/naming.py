"""Names the GPUs of every chosen replica: pieces into domains, largest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ortools.sat.python import cp_model

from optimizer.search.fleet.keeping import Wish
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


Stay = tuple[int, tuple[str, ...]]  # a use, the GPUs of one of its replicas


def name_gpus_near(
    cluster: Cluster, rooms: Sequence[PoolRoom], uses: Sequence[Use], wishes: Sequence[Wish]
) -> list[tuple[str, ...]]:
    """name_gpus, where replicas stay as they run and other pieces go to the GPUs that hold most of
    their model. Where that leaves a pool no room for the rest, its smallest replicas give way."""
    found: list[tuple[str, ...]] = [()] * len(uses)
    for pool in range(len(rooms)):
        here = [index for index, use in enumerate(uses) if use.offer.pool == pool]
        own, wanted = [uses[index] for index in here], [wishes[index] for index in here]
        domains = [list(domain.gpus) for domain in cluster.domains if domain.pool == pool]
        stays = _staying(own, wanted)
        named = _around(domains, own, wanted, stays)
        while named is None and stays:
            stays.pop()
            named = _around(domains, own, wanted, stays)
        for index, gpus in zip(here, named or name_gpus(cluster, rooms, own), strict=True):
            found[index] = gpus
    return found


def _staying(uses: Sequence[Use], wishes: Sequence[Wish]) -> list[Stay]:
    """As many replicas of each use as run already, the largest first."""
    stays: list[Stay] = []
    taken: set[str] = set()
    for index, (use, wish) in enumerate(zip(uses, wishes, strict=True)):
        free = [replica for replica in wish.replicas if not taken & set(replica)]
        for replica in free[: use.replicas]:
            stays.append((index, replica))
            taken |= set(replica)
    return sorted(stays, key=lambda stay: -len(stay[1]))


def _around(
    domains: Sequence[Sequence[str]],
    uses: Sequence[Use],
    wishes: Sequence[Wish],
    stays: Sequence[Stay],
) -> list[tuple[str, ...]] | None:
    """The GPUs of each use around the replicas that stay; None where pieces find no room.

    Largest pieces first: where sizes form a chain no choice of domains then strands room.
    """
    kept = {gpu for _, replica in stays for gpu in replica}
    free = [[gpu for gpu in domain if gpu not in kept] for domain in domains]
    named = [
        [gpu for index, replica in stays if index == own for gpu in replica]
        for own in range(len(uses))
    ]
    wanted: Counter[str] = Counter()
    for wish in wishes:
        wanted.update(wish.held_bytes)
    pieces = Counter(
        {
            (-size, index): many * (use.replicas - sum(index == own for own, _ in stays))
            for index, use in enumerate(uses)
            for size, many in use.offer.pieces
        }
    )
    for negative, index in sorted(pieces.elements()):
        place = _best_place(free, -negative, wishes[index].held_bytes, wanted)
        if place is None:
            return None
        domain, gpus = place
        named[index] += gpus
        free[domain] = [gpu for gpu in free[domain] if gpu not in gpus]
    return [tuple(gpus) for gpus in named]


def _best_place(
    free: Sequence[Sequence[str]], size: int, own: Mapping[str, float], wanted: Mapping[str, float]
) -> tuple[int, list[str]] | None:
    """(domain, GPUs) where a piece finds most; of equals where others find least, then the fullest
    domain."""
    best: tuple[tuple[float, float, int, int], list[str]] | None = None
    for domain, gpus in enumerate(free):
        if len(gpus) < size:
            continue
        order = sorted(gpus, key=lambda gpu: (-own.get(gpu, 0.0), wanted.get(gpu, 0.0)))[:size]
        finds = sum(own.get(gpu, 0.0) for gpu in order)
        others = sum(wanted.get(gpu, 0.0) for gpu in order) - finds
        key = (-finds, others, len(gpus), domain)
        if best is None or key < best[0]:
            best = key, order
    return best and (best[0][-1], best[1])
