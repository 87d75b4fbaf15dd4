"""Lower bounds of the largest GPU load of a layer, proven again; standard library only.

Each function takes the layer, its certificate and the bound stated, and returns the bound that the
certificate proves, or raises `Unproven`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heapreplace
from itertools import accumulate, combinations
from math import ceil, fsum
from typing import Any

MOST_LEAVES = 1_000_000
MOST_PIECES = 64
LARGE = 1e30  # no load or price is
ROUNDING = 1e-12  # of the bound: by how much a piece may exceed it and still fit
BELOW = 1 - 1e-9  # placements better by less than this share are not told apart from the bound


class Unproven(Exception):
    """The certificate does not prove its bound, or cannot be followed."""


@dataclass(frozen=True)
class Layer:
    """What a bound may be derived from: never a placement."""

    loads: list[float]
    gpus: int
    slots: int
    nodes: int
    groups: int | None
    distinct: bool


def mean(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """Some GPU carries at least the mean."""
    return fsum(layer.loads) / layer.gpus


def share(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """Pieces all smaller than one expert's share would need more slots than there are."""
    expert, copies = _index(certificate, "expert", layer.loads), _count(certificate, "copies")
    load = Fraction(layer.loads[expert])
    if not load:
        return 0.0
    needed = sum(int(Fraction(other) * copies / load) + 1 for other in layer.loads)
    if needed <= layer.slots:
        raise Unproven(f"{needed} slots make every piece smaller, and there are {layer.slots}")
    return float(load / copies)


def sizes(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """With one copy each: what the k largest pieces force."""
    if layer.slots != len(layer.loads):
        raise Unproven("needs exactly one slot an expert")
    return _sizes(layer.loads, layer.gpus, _count(certificate, "pieces"))


def enumeration(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """No count vector, paired largest with smallest, stays below the bound."""
    if layer.slots != 2 * layer.gpus:
        raise Unproven("needs two slots a GPU")
    below = bound * BELOW
    least = [1 if not below else int(load / below) + 1 for load in layer.loads]
    for leaf, counts in enumerate(_vectors(least, layer.slots)):
        if leaf >= MOST_LEAVES:
            raise Unproven("has too many count vectors to recompute")
        pieces = sorted(
            (load / copies, expert)
            for expert, (load, copies) in enumerate(zip(layer.loads, counts, strict=True))
            for _ in range(copies)
        )
        if all(pieces[i][0] + pieces[-1 - i][0] < below for i in range(layer.gpus)):
            if layer.distinct and not _pairs_below(pieces[::-1], below):
                continue
            raise Unproven(f"counts {counts} give less than {bound:g}")
    return bound


def hall(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """Large pieces need as many small partners, over the best counts, at a price a slot.

    A GPU below the bound T that holds a piece of at least s > T / 2 holds beside it one of at most
    T - s. So u(x) = sum of the weights of all s <= x for x > T / 2, and minus those of all
    s <= T - x otherwise, sums to at most 0 over any placement below T. If even the counts that make
    that sum least (at `slot_price` for each slot above or below those that exist) exceed 0, there
    is no such placement.
    """
    if layer.slots != 2 * layer.gpus:
        raise Unproven("needs two slots a GPU")
    s, weights = _numbers(certificate, "sizes"), _numbers(certificate, "weights")
    price = _numbers({"slot_price": [certificate.get("slot_price")]}, "slot_price")[0]
    if len(s) != len(weights) or s != sorted(s) or min([*weights, 0]) < 0:
        raise Unproven("needs as many weights as sizes, none negative, and sizes that rise")
    if s and s[0] <= bound / 2:
        raise Unproven("needs sizes above half the bound")
    total = [0.0, *accumulate(weights)]
    fewest = [max(1, ceil(load / (bound * (1 + ROUNDING)))) if bound else 1 for load in layer.loads]
    spare = layer.slots - sum(fewest)
    if spare < 0:
        return bound  # pieces of at most the bound need more slots than there are
    least = []
    for load, first in zip(layer.loads, fewest, strict=True):
        costs = []
        for copies in range(first, first + spare + 1):
            piece = load / copies
            large = piece > bound / 2
            at = bisect_right(s, piece if large else bound - piece)
            costs.append(copies * ((total[at] if large else -total[at]) + price))
        least.append(min(costs))
    if fsum(least) - price * layer.slots <= 0:
        raise Unproven("some counts find a partner for every large piece")
    return bound


def groups(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """Every split of the groups over the nodes has a node with such a mean or share."""
    group_loads = _group_loads(layer)
    per_node = len(group_loads) // layer.nodes
    of_set: dict[tuple[int, ...], float] = {}
    best = float("inf")
    for leaf, split in enumerate(_splits(list(range(len(group_loads))), per_node)):
        if leaf >= MOST_LEAVES // 100:
            raise Unproven("has too many splits to recompute")
        worst = 0.0
        for members in split:
            if members not in of_set:
                loads = [load for group in members for load in group_loads[group]]
                average = fsum(loads) / (layer.gpus // layer.nodes)
                largest = _least_largest_piece(loads, layer.slots // layer.nodes)
                of_set[members] = max(average, largest)
            worst = max(worst, of_set[members])
        best = min(best, worst)
    return best


def whole_groups(layer: Layer, certificate: dict[str, Any], bound: float) -> float:
    """Groups as single pieces on nodes as GPUs: the mean of a node, or the `sizes` bound."""
    totals = [fsum(loads) for loads in _group_loads(layer)]
    on_node = fsum(totals) / layer.nodes
    if "pieces" in certificate:
        on_node = _sizes(totals, layer.nodes, _count(certificate, "pieces"))
    return on_node / (layer.gpus // layer.nodes)


BOUNDS: dict[str, Callable[[Layer, dict[str, Any], float], float]] = {
    "mean": mean,
    "share": share,
    "sizes": sizes,
    "enumeration": enumeration,
    "hall": hall,
    "groups": groups,
    "whole_groups": whole_groups,
}


def _pairs_below(pieces: list[tuple[float, int]], below: float) -> bool:
    """Whether pieces, largest first, pair up with no expert beside itself and no sum at `below`."""
    if len(pieces) > MOST_PIECES:
        raise Unproven("has too many pieces to pair anew")
    failed: set[tuple[tuple[float, int], ...]] = set()

    def complete(left: tuple[tuple[float, int], ...]) -> bool:
        if not left:
            return True
        if left in failed:
            return False
        if len(failed) > MOST_LEAVES:
            raise Unproven("has too many pairings to recompute")
        (size, expert), *others = left
        for at, (other_size, other) in enumerate(others):
            if other != expert and size + other_size < below:
                rest = tuple(others[:at] + others[at + 1 :])
                if complete(rest):
                    return True
        failed.add(left)
        return False

    return complete(tuple(pieces))


def _sizes(loads: list[float], bins: int, k: int) -> float:
    """What the k largest single copies force, each on a bin of its own or several on one."""
    falling = sorted(loads, reverse=True)
    per_bin = len(loads) // bins
    if k > len(loads):
        raise Unproven(f"there are no {k} pieces")

    def together(number: int) -> float:
        least = falling[len(loads) - (per_bin - number) :]
        return fsum([*falling[k - number : k], *least])

    if k > bins:
        return together(-(-k // bins))
    alone = fsum([*falling[:k], *falling[len(loads) - k * (per_bin - 1) :]]) / k
    return alone if k == 1 or per_bin == 1 else min(alone, together(2))


def _group_loads(layer: Layer) -> list[list[float]]:
    if layer.groups is None:
        raise Unproven("needs groups")
    size = len(layer.loads) // layer.groups
    return [layer.loads[at : at + size] for at in range(0, len(layer.loads), size)]


def _least_largest_piece(loads: list[float], slots: int) -> float:
    """The largest piece when each extra copy goes to the largest piece, which is the least."""
    heap = [(-load, load, 1) for load in loads]
    heapify(heap)
    for _ in range(slots - len(loads)):
        _, load, copies = heap[0]
        heapreplace(heap, (-load / (copies + 1), load, copies + 1))
    return -heap[0][0]


def _vectors(least: list[int], slots: int) -> Iterator[list[int]]:
    """Every way to give exactly `slots` to experts that need at least so many each."""
    spare = slots - sum(least)
    if spare < 0:
        return
    for cuts in combinations(range(spare + len(least) - 1), len(least) - 1):
        edges = [-1, *cuts, spare + len(least) - 1]
        yield [n + edges[i + 1] - edges[i] - 1 for i, n in enumerate(least)]


def _splits(left: list[int], per_node: int) -> Iterator[list[tuple[int, ...]]]:
    """Every way to split groups into sets of equal size, once."""
    if not left:
        yield []
        return
    for others in combinations(left[1:], per_node - 1):
        members = (left[0], *others)
        for rest in _splits([group for group in left if group not in members], per_node):
            yield [members, *rest]


def _count(certificate: dict[str, Any], key: str) -> int:
    value = certificate.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Unproven(f"needs '{key}', a whole number of at least 1")
    return value


def _index(certificate: dict[str, Any], key: str, among: list[float]) -> int:
    value = certificate.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(among):
        raise Unproven(f"needs '{key}', an index of an expert")
    return value


def _numbers(certificate: dict[str, Any], key: str) -> list[float]:
    values = certificate.get(key)
    if not isinstance(values, list) or not all(
        isinstance(value, (int, float)) and abs(value) < LARGE for value in values
    ):
        raise Unproven(f"needs finite numbers as '{key}'")
    return values
