"""Stages under leaf switches: as many as can lie under one, the rest under as few as there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from optimizer.spec.cluster import Cluster

Pieces = list[tuple[str, ...]]  # the GPUs of each


def leaf_stages(
    cluster: Cluster, pool: int, pieces: int, span: int, together: int
) -> Iterator[tuple[str, ...]]:
    """The GPUs of one stage after the other, of `pieces` pieces of `span` GPUs each.

    First stages whole under one leaf: each leaf holds as many as it has room for, whatever the
    others do, so no placement has more. Then from the leaves with most room left, as many times
    `together` pieces as they have, of which whole stages took none that others could have used.
    """
    room: dict[int, Pieces] = defaultdict(list)
    for domain in cluster.domains:
        if domain.pool == pool:
            ends = range(span, len(domain.gpus) + 1, span)
            room[domain.leaf] += [domain.gpus[end - span : end] for end in ends]
    for held in room.values():
        while len(held) >= pieces:
            yield _taken(held, pieces)
    while sum(len(held) // together for held in room.values()) * together >= pieces:
        stage: tuple[str, ...] = ()
        missing = pieces
        while missing:
            held = _fitting(room.values(), missing, together)
            most = min(missing, len(held) // together * together)
            stage += _taken(held, most)
            missing -= most
        yield stage


def _fitting(room: Iterable[Pieces], missing: int, together: int) -> Pieces:
    """The leaf with least room that holds all that is missing; else that with most."""
    enough = [held for held in room if len(held) >= missing]
    if enough:
        return min(enough, key=len)
    return max(room, key=lambda held: len(held) // together)


def _taken(held: Pieces, many: int) -> tuple[str, ...]:
    """The GPUs of the first pieces, which are taken out."""
    taken = [gpu for piece in held[:many] for gpu in piece]
    del held[:many]
    return tuple(taken)
