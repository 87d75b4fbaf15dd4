"""What a fleet loads beside what runs, GPU by GPU, from the two documents alone.

A GPU holds, of every block (a layer, the embedding, the head), a slice of the dense weights and
slices of experts. Slices are bits of whole numbers, on as many equal parts as all degrees divide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm
from typing import NamedTuple

from optimizer.verify.checks import run
from optimizer.verify.document import (
    DEGREES,
    MOST,
    Json,
    content_hash,
    count,
    degrees,
    layer_types,
    members,
    quantity,
)
from optimizer.verify.finding import ROUNDING, Finding, Outcome, all_hold, at_most, equal
from optimizer.verify.gpus import domains_of
from optimizer.verify.matrices import layer_matrices, matrix_bytes
from optimizer.verify.weights import ends_bytes

SOURCES = ("kept", "same domain", "other domains", "other pools", "storage")
CLOSE = 1e-9  # share by which sums of a model's slices may differ


class Part(NamedTuple):
    """One part's plan, and the name that each of its GPUs has in the fleet."""

    plan: Json
    pool: str

    @property
    def deployment(self) -> Json:
        found: Json = self.plan["deployments"][0]
        return found


class Slices(NamedTuple):
    """What one GPU holds: blocks and slices as bits."""

    blocks: int
    dense: int
    experts: int


def verify_fleet_moves(fleet: Json, current: Json, moves: Json) -> list[Finding]:
    """All findings on a moves.json beside the fleet that it leads to and the one that runs."""
    together = {"fleet": fleet, "current": current, "moves": moves}
    return [finding for check in (documents, sums, sources) for finding in run(check, together)]


def documents(together: Json) -> Iterator[Outcome]:
    """The moves are those between these two fleets, of every part and every GPU; staying near cost
    no more than was allowed, and moves no more than the best fleet would."""
    moves, fleet = together["moves"], together["fleet"]
    yield equal("the fleet that runs", moves["from"]["hash"], content_hash(together["current"]))
    yield equal("the fleet to come", moves["to"]["hash"], content_hash(fleet))
    used = [gpu for part in fleet["parts"] for gpu in part["gpus"]]
    yield equal("GPUs", sorted(moves["gpus"]), sorted(used))
    yield equal("parts", [p["name"] for p in moves["parts"]], [p["name"] for p in fleet["parts"]])
    proof, chosen, best = fleet["proof"], moves["chosen"], moves["best"]
    worse = abs(chosen[proof["objective"]] - best[proof["objective"]])
    allowed = moves["within"] * max(best[proof["objective"]], 1 / proof["scale"])
    yield at_most("what staying near costs", worse, allowed + 1 / proof["scale"])
    value = abs(proof["value"]) / proof["scale"]
    yield equal("objective", chosen[proof["objective"]], value, ROUNDING)
    yield at_most("bytes that move", chosen["moved_bytes"], best["moved_bytes"])


def sums(together: Json) -> Iterator[Outcome]:
    """Parts are the sums of their GPUs, the whole is that of its parts; seconds follow from the
    links of each pool."""
    moves, cluster = together["moves"], together["fleet"]["cluster"]
    pools = {pool["name"]: pool for pool in cluster["pools"]}
    for told, part in zip(moves["parts"], together["fleet"]["parts"], strict=True):
        rows = [moves["gpus"][gpu] for gpu in part["gpus"]]
        what = f"{part['demand']} {part['role']} in {part['pool']}"
        kept = sum(row["kept"] for row in rows)
        moved = sum(row[source] for row in rows for source in SOURCES[1:])
        yield equal(f"{what}: bytes that stay", told["kept_bytes"], kept, CLOSE)
        yield equal(f"{what}: bytes that move", told["moved_bytes"], moved, CLOSE)
        pool = pools[part["pool"]]
        links = [pool["intra_node"], pool["inter_node"], cluster["inter_pool"]]
        speeds = [quantity((link or pool["inter_node"])["bandwidth"], "B/s") for link in links]
        slowest = max(
            sum(row[source] / speed for source, speed in zip(SOURCES[1:4], speeds, strict=True))
            for row in rows
        )
        yield equal(f"{what}: seconds", told["seconds"], slowest, CLOSE)
    total = sum(told["moved_bytes"] for told in moves["parts"])
    yield equal("bytes that move", moves["chosen"]["moved_bytes"], total, CLOSE)
    longest = max((told["seconds"] for told in moves["parts"]), default=0.0)
    yield equal("seconds", moves["chosen"]["seconds"], longest, CLOSE)


def sources(together: Json) -> Iterator[Outcome]:
    """What each GPU shall hold, and where it is found first: on itself, in its domain, in its pool,
    anywhere, in storage."""
    fleet, moves = together["fleet"], together["moves"]
    domains = {
        gpu: f"{pool['name']} {number}"
        for pool in fleet["cluster"]["pools"]
        for number, domain in enumerate(domains_of(fleet, pool))
        for gpu in domain
    }
    for part in fleet["parts"]:
        new = fleet["plans"][part["plan"]]
        old = list(_parts_like(new, together["current"], fleet))
        every = [*old, Part(new, part["pool"])]
        cuts = [lcm(*(degrees(each.deployment)[name] for each in every)) for name in ("tp", "etp")]
        held = [
            (gpu, slices)
            for each in old
            for gpu, slices in _held(each, fleet, cuts)
            if gpu in domains
        ]
        places = {gpu: (gpu, domains[gpu], domains[gpu].rsplit(" ", 1)[0], "") for gpu in domains}
        near = _union_by_place(held, places)
        sizes = _block_bytes(new)
        experts = max(1, _num_experts(new["model"]))
        what = f"{part['demand']} {part['role']} in {part['pool']}"
        yield all_hold(
            f"{what}: what its GPUs find where",
            (
                equal(f"{gpu} {source}", moves["gpus"][gpu][source], derived, CLOSE)
                for gpu, slices in _held(every[-1], fleet, cuts)
                for source, derived in zip(
                    SOURCES,
                    _found(slices, places[gpu], near, sizes, (cuts[0], cuts[1] * experts)),
                    strict=True,
                )
            ),
        )


def _parts_like(plan: Json, current: Json, fleet: Json) -> Iterator[Part]:
    """The parts that run the same model in the same formats, in a pool that has not changed."""
    kinds = {pool["name"]: pool["gpu"]["name"] for pool in fleet["cluster"]["pools"]}
    was = {pool["name"]: pool["gpu"]["name"] for pool in current["cluster"]["pools"]}
    precision = plan["deployments"][0]["precision"]
    for part in current["parts"]:
        other = current["plans"][part["plan"]]
        same = all(plan["model"][key] == other["model"][key] for key in ("name", "layers"))
        same = same and other["deployments"][0]["precision"] == precision
        if same and kinds.get(part["pool"]) == was[part["pool"]]:
            yield Part(other, part["pool"])


def _held(part: Part, fleet: Json, cuts: list[int]) -> Iterator[tuple[str, Slices]]:
    """Each GPU of a part by its name in the fleet, and what it holds."""
    deployment, prefix = part.deployment, ""
    if len(fleet["cluster"]["pools"]) > 1:
        prefix = part.pool + "/"
    layout, model = degrees(deployment), part.plan["model"]
    layers, experts = len(layer_types(model)), _num_experts(model)
    ranks = []
    for rank in deployment["placement"]["ranks"]:
        blocks = sum(1 << layer for layer in members(rank["layers"], layers))
        blocks |= (rank["embedding"] << layers) | (rank["head"] << layers + 1)
        dense = _bits(rank["tp"], cuts[0] // layout["tp"])
        one = _bits(rank["etp"], cuts[1] // layout["etp"])
        own = (slot for slot in members(rank["experts"], MOST) if slot < experts)
        routed = sum(one << expert * cuts[1] for expert in own)
        ranks.append(Slices(blocks, dense, routed))
    for replica in deployment["placement"]["rank_gpu"]:
        for gpu, slices in zip(replica, ranks, strict=True):
            yield prefix + gpu, slices


def _bits(index: int, width: int) -> int:
    return ((1 << width) - 1) << index * width


Near = dict[tuple[str, int], tuple[int, int]]  # a place and a block -> dense, experts there


def _union_by_place(
    held: list[tuple[str, Slices]], places: Mapping[str, tuple[str, ...]]
) -> list[Near]:
    """What is held of each block on a GPU, in a domain, in a pool, anywhere."""
    found: list[Near] = [{} for _ in range(4)]
    for gpu, slices in held:
        for level, place in enumerate(places[gpu]):
            for block in range(slices.blocks.bit_length()):
                if slices.blocks >> block & 1:
                    dense, experts = found[level].get((place, block), (0, 0))
                    both = dense | slices.dense, experts | slices.experts
                    found[level][place, block] = both
    return found


def _found(
    slices: Slices,
    places: tuple[str, ...],
    near: list[Near],
    sizes: list[tuple[int, int]],
    parts: tuple[int, int],
) -> list[float]:
    """Bytes that one GPU finds on each level, and those that it does not."""
    totals = [0.0] * len(SOURCES)
    for block, size in enumerate(sizes):
        if not slices.blocks >> block & 1:
            continue
        for kind, mine in enumerate((slices.dense, slices.experts)):
            left = mine
            for level, place in enumerate(places):
                there = near[level].get((place, block), (0, 0))[kind]
                totals[level] += size[kind] * (left & there).bit_count() / parts[kind]
                left &= ~there
            totals[-1] += size[kind] * left.bit_count() / parts[kind]
    return totals


def _num_experts(model: Json) -> int:
    """Routed experts of a layer, 0 of a dense model."""
    kinds = (kind["ffn"].get("num_experts", 0) for kind in model["layer_types"].values())
    return count(max(kinds, default=0))


def _block_bytes(plan: Json) -> list[tuple[int, int]]:
    """(dense, expert) bytes of every layer, of the embedding and of the head, whole."""
    model, precision = plan["model"], plan["deployments"][0]["precision"]
    whole = {"layout": dict.fromkeys(DEGREES, 1), "precision": precision}
    sizes = {}
    for name in set(layer_types(model)):
        matrices = layer_matrices(model, name, degrees(whole), 0)
        each = [(matrix.part == "experts", matrix_bytes(matrix, precision)) for matrix in matrices]
        experts = sum(size for routed, size in each if routed)
        sizes[name] = sum(size for _, size in each) - experts, experts
    ends = [(ends_bytes(model, whole, first, not first), 0) for first in (True, False)]
    return [*(sizes[name] for name in layer_types(model)), *ends]
