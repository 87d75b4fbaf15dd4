"""The answer: which expert lies in which slot, how loaded each GPU is, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.layout import Ints
from optimizer.search.experts.bounds import Certificate, values
from optimizer.search.experts.counts import Floats
from optimizer.search.experts.pack import count, gpu_loads
from optimizer.search.experts.traffic import kept_tokens

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ExpertPlacement:
    """Experts on slots, layer by layer; slot s lies on GPU s // (slots / gpus)."""

    loads: Floats  # [layers, experts], as given
    physical_to_logical_map: Ints  # [layers, slots], the expert of each slot
    gpus: int
    nodes: int
    certificates: tuple[Certificate, ...]  # [layers], each a lower bound of the largest GPU load
    distinct: bool = False
    groups: int | None = None  # consecutive experts that stay on one node
    free_largest: Floats | None = None  # [layers], the largest GPU load without groups
    current: Ints | None = None  # [layers, slots], from which moves are counted
    max_moves: int | None = None

    @property
    def counts(self) -> Ints:
        """Copies of each expert: [layers, experts]."""
        return count(self.physical_to_logical_map, self.loads.shape[1])

    @property
    def gpu_loads(self) -> Floats:
        """[layers, gpus]; the copies of an expert share its load evenly."""
        return gpu_loads(self.loads, self.physical_to_logical_map, self.gpus)

    @property
    def largest(self) -> Floats:
        """The largest GPU load of each layer."""
        largest: Floats = self.gpu_loads.max(axis=1)
        return largest

    @property
    def bounds(self) -> Floats:
        return values(self.certificates)

    @property
    def gaps(self) -> Floats:
        """largest / bound - 1 of each layer; 0 where nothing is loaded."""
        excess = self.largest - self.bounds
        return np.maximum(excess, 0.0) / np.where(self.bounds > 0, self.bounds, 1.0)

    @property
    def imbalance(self) -> Floats:
        """largest / mean GPU load of each layer, which is what a layer's expert time grows by."""
        mean = self.loads.sum(axis=1) / self.gpus
        return np.where(mean > 0, self.largest, 1.0) / np.where(mean > 0, mean, 1.0)

    @property
    def price_of_groups(self) -> Floats | None:
        """Largest GPU load with groups on nodes over that without, - 1, of each layer."""
        if self.free_largest is None:
            return None
        price: Floats = (self.largest - self.free_largest) / np.where(
            self.free_largest > 0, self.free_largest, 1.0
        )
        return price

    @property
    def moves(self) -> Ints | None:
        """Slots of each layer whose expert differs from `current`."""
        if self.current is None:
            return None
        moves: Ints = np.count_nonzero(self.physical_to_logical_map != self.current, axis=1)
        return moves

    @property
    def crossing(self) -> Floats:
        """Share of tokens whose expert copy lies on another node, by layer.

        As `kept_tokens` counts them; a token that meets two experts on one node counts twice.
        """
        layers, experts = self.loads.shape
        slots = self.physical_to_logical_map.reshape(layers, self.nodes, -1)
        kept = np.zeros(layers)
        for node in range(self.nodes):
            held = count(slots[:, node], experts)
            kept += kept_tokens(self.loads, self.counts, held, self.nodes).sum(axis=1)
        total = self.loads.sum(axis=1)
        crossing: Floats = 1 - kept / np.where(total > 0, total, 1.0)
        return crossing

    def document(self) -> dict[str, Any]:
        """What placement.json holds; `optimizer.verify.experts` checks it without this package."""
        document: dict[str, Any] = {
            "schema": "expert-placement",
            "version": SCHEMA_VERSION,
            "gpus": self.gpus,
            "nodes": self.nodes,
            "distinct": self.distinct,
            "groups": self.groups,
            "loads": _plain(self.loads),
            "physical_to_logical_map": self.physical_to_logical_map.tolist(),
            "counts": self.counts.tolist(),
            "gpu_loads": _plain(self.gpu_loads),
            "largest": _plain(self.largest),
            "bounds": _plain(self.bounds),
            "gaps": _plain(self.gaps),
            "certificates": [{"kind": one.kind, **one.data} for one in self.certificates],
            "crossing": _plain(self.crossing),
        }
        if self.free_largest is not None:
            document["free_largest"] = _plain(self.free_largest)
        if self.current is not None:
            document["current"] = self.current.tolist()
            document["max_moves"] = self.max_moves
        return document


def _plain(array: Floats) -> Any:
    """Nested lists of floats, whole numbers as integers."""
    return [
        _plain(entry) if isinstance(entry, np.ndarray) else _number(float(entry)) for entry in array
    ]


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
