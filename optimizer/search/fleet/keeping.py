"""What a role would keep of what runs: bytes of weights that its ranks find where they lie.

An estimate to choose by, before GPUs are named: every rank finds on some GPU that holds the model
what its best match there has, and every such GPU is taken once. It is exact where replicas of a
layout that runs stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optimizer.cost.stages import even_stages
from optimizer.layout import Ints, ParallelLayout
from optimizer.operators import Floats
from optimizer.plan import RankPart
from optimizer.search.fleet.offers import Offer, Pieces, fitting
from optimizer.search.moving import BlockBytes, Holdings, cuts_of, holdings, shared_bytes
from optimizer.search.placing import rank_parts
from optimizer.spec.model import ModelSpec


class Running(NamedTuple):
    """One replica that runs: its layout, what its ranks hold, and the GPU of each, "" where that
    is no live GPU of the pool any more."""

    pool: int
    layout: ParallelLayout
    ranks: tuple[RankPart, ...]
    gpus: tuple[str, ...]


class Held(NamedTuple):
    """A model on slices that all its layouts divide: what some GPUs hold of it now."""

    model: ModelSpec
    size: BlockBytes
    cuts: Ints
    gpus: tuple[str, ...]
    parts: Holdings  # [gpus]

    def ranks(self, layout: ParallelLayout, parts: Sequence[RankPart]) -> Holdings:
        """What the ranks of a replica shall hold."""
        experts = self.model.moe.num_experts if self.model.moe is not None else 0
        return holdings(layout, parts, self.model.num_layers, experts, self.cuts)


def held_by(
    model: ModelSpec,
    size: BlockBytes,
    running: Sequence[Running],
    layouts: Sequence[ParallelLayout],
) -> Held:
    """What replicas that run hold, on slices that these layouts divide too."""
    cuts = cuts_of([*layouts, *(each.layout for each in running)])
    none = Held(model, size, cuts, (), Holdings(*(np.zeros((0, 0), dtype=bool),) * 3))
    found = [none.ranks(each.layout, each.ranks) for each in running]
    live = [[rank for rank, gpu in enumerate(each.gpus) if gpu] for each in running]
    parts = [
        each.take(np.array(rows, dtype=np.int64)) for each, rows in zip(found, live, strict=True)
    ]
    gpus = [each.gpus[rank] for each, rows in zip(running, live, strict=True) for rank in rows]
    if not parts:
        return none
    return none._replace(
        gpus=tuple(gpus),
        parts=Holdings(*(np.concatenate(columns) for columns in zip(*parts, strict=True))),
    )


class Wish(NamedTuple):
    """What a use would like of the GPUs: whole replicas of its own layout that run, and bytes of
    its model that single GPUs hold."""

    replicas: Sequence[tuple[str, ...]]
    held_bytes: Mapping[str, float]


class Keep(NamedTuple):
    """Bytes of one replica, what each of its ranks finds at best, most first, and the GPUs that
    hold anything."""

    replica_bytes: float
    found_bytes: Floats
    gpus: int

    def kept_bytes(self, replicas: Ints) -> Floats:
        """What so many replicas keep: every GPU serves one rank."""
        sums = np.concatenate([[0.0], np.cumsum(self.found_bytes)])
        ranks = len(self.found_bytes)
        whole = np.minimum(self.gpus // replicas, ranks)
        rest = np.where(whole < ranks, self.gpus - whole * replicas, 0)
        more = np.append(self.found_bytes, 0.0)[whole]
        kept: Floats = replicas * sums[whole] + rest * more
        return kept


def _pieces(domains: Iterable[int]) -> Pieces:
    """How many GPUs lie together in each domain."""
    return tuple((size, 1) for size in sorted(Counter(domains).values(), reverse=True))


class Keeper:
    """What offers keep of one model's replicas, each layout in a pool worked out once; demands of
    one model share its number."""

    def __init__(
        self, number: int, model: ModelSpec, size: BlockBytes, running: Sequence[Running]
    ) -> None:
        self.number = number
        self._model, self._size, self._running = model, size, running
        self._known: dict[tuple[int, ParallelLayout], Keep] = {}

    def keep(self, offer: Offer) -> Keep:
        """What one replica of the offer finds in its pool."""
        key = offer.pool, offer.layout
        if key not in self._known:
            here = [each for each in self._running if each.pool == offer.pool]
            self._known[key] = self._keep(offer.layout, here)
        return self._known[key]

    def _ranks(self, layout: ParallelLayout, running: Sequence[Running]) -> tuple[RankPart, ...]:
        """The ranks of a layout as they run; of others with layers cut evenly."""
        alike = next((each.ranks for each in running if each.layout == layout), None)
        cut = even_stages(self._model, layout.pp)
        return alike or rank_parts(self._model, layout, cut)

    def _keep(self, layout: ParallelLayout, running: Sequence[Running]) -> Keep:
        ranks = self._ranks(layout, running)
        held = held_by(self._model, self._size, running, [layout])
        new = held.ranks(layout, ranks)
        whole = shared_bytes(new, new, self._size).diagonal().sum()
        if not len(held.gpus):
            return Keep(float(whole), np.zeros(len(ranks)), 0)
        found = shared_bytes(new, held.parts, self._size).max(axis=1)
        return Keep(float(whole), np.sort(found)[::-1], len(held.gpus))

    def wish(self, offer: Offer, domains: Sequence[Sequence[str]]) -> Wish:
        """What a use of the offer would like of the GPUs in its pool's domains."""
        here = [each for each in self._running if each.pool == offer.pool]
        domain = {gpu: index for index, gpus in enumerate(domains) for gpu in gpus}
        replicas = [each.gpus for each in here if each.layout == offer.layout and all(each.gpus)]
        held = held_by(self._model, self._size, here, [offer.layout])
        if not len(held.gpus):
            return Wish((), {})
        new = held.ranks(offer.layout, self._ranks(offer.layout, here))
        found = shared_bytes(new, held.parts, self._size).max(axis=0)
        whole = [
            gpus for gpus in replicas if fitting(offer.pieces, _pieces(domain[gpu] for gpu in gpus))
        ]
        return Wish(whole, dict(zip(held.gpus, found.tolist(), strict=True)))

    def held_bytes(self, pool: int) -> float:
        """What the pool's GPUs hold of the model in all."""
        here = [each for each in self._running if each.pool == pool]
        held = held_by(self._model, self._size, here, [])
        if not len(held.gpus):
            return 0.0
        return float(
            sum(
                shared_bytes(one, one, self._size)[0, 0]
                for one in (held.parts.take(np.array([row])) for row in range(len(held.gpus)))
            )
        )
