"""Which rank holds what: each layer, head and expert is held as often as it must be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optimizer.verify.document import Json, count, degrees, layer_types, members
from optimizer.verify.finding import Outcome, all_hold, equal

DENSE_GRID = ("stage", "tp", "cp", "dp")
EXPERT_GRID = ("stage", "ep", "etp")
AXES = ("tp", "cp", "dp", "ep", "etp", "pp")


def stages(plan: Json) -> Iterator[Outcome]:
    """Stages are contiguous, none is empty, and together they hold each layer once."""
    num_layers = len(layer_types(plan["model"]))
    for deployment in plan["deployments"]:
        cut = deployment["placement"]["stage_layers"]
        yield equal("stages", len(cut), degrees(deployment)["pp"])
        at = 0
        for stage, (first, stop) in enumerate(cut):
            yield equal(f"stage {stage} starts at layer", first, at)
            at = count(stop, at + 1)
        yield equal("the last stage ends at layer", at, num_layers)


def has_experts(model: Json) -> bool:
    """Whether any layer routes tokens to experts."""
    return any(layer["ffn"]["kind"] == "moe" for layer in model["layer_types"].values())


def coordinates(plan: Json) -> Iterator[Outcome]:
    """Every place of both grids is taken by exactly one rank of each stage."""
    for deployment in plan["deployments"]:
        layout, ranks = degrees(deployment), deployment["placement"]["ranks"]
        size = {**layout, "stage": layout["pp"]}
        grids = [DENSE_GRID, EXPERT_GRID] if has_experts(plan["model"]) else [DENSE_GRID]
        yield equal("ranks of a replica", len(ranks), layout["pp"] * layout["width"])
        numbers = [part["rank"] for part in ranks]
        yield equal("rank numbers", numbers, list(range(len(ranks))))
        for grid in grids:
            seen: set[tuple[int, ...]] = set()
            for part in ranks:
                place = tuple(count(part[axis]) for axis in grid)
                inside = all(at < size[axis] for at, axis in zip(place, grid, strict=True))
                if not inside or place in seen:
                    yield False, f"rank {part['rank']} at {grid} {place}: taken or outside"
                seen.add(place)
            places = 1
            for axis in grid:
                places *= size[axis]
            yield equal(f"places taken of {' x '.join(grid)}", len(seen), places)
        if EXPERT_GRID not in grids:
            off = [part["rank"] for part in ranks if (part["ep"], part["etp"]) != (0, 0)]
            yield not off, f"ranks with expert coordinates in a dense model: {off or 'none'}"


def groups(plan: Json) -> Iterator[Outcome]:
    """A group along an axis is the ranks that share every other coordinate of its grid."""
    for deployment in plan["deployments"]:
        placement = deployment["placement"]
        yield equal("axes with groups", sorted(placement["groups"]), sorted(AXES))
        for axis in AXES:
            grid = EXPERT_GRID if axis in EXPERT_GRID else DENSE_GRID
            along = "stage" if axis == "pp" else axis
            together: dict[tuple[Any, ...], list[int]] = {}
            for part in placement["ranks"]:
                shared = tuple(part[other] for other in grid if other != along)
                together.setdefault(shared, []).append(part["rank"])
            listed = sorted(list(group) for group in placement["groups"][axis])
            yield equal(f"{axis} groups", listed, sorted(together.values()))


def _shared_out(what: str, parts: list[str], total: int, copies: int) -> Outcome:
    """Each of `total` things is held by `copies` of the parts, and by no part twice."""
    held = [0] * total
    for text in parts:
        for thing in members(text):
            if thing >= total:
                return False, f"{what}: {thing} of {total} does not exist"
            held[thing] += 1
    off = [thing for thing in range(total) if held[thing] != copies]
    if off:
        return False, f"{what} {off[0]} of {total}: held {held[off[0]]} times instead of {copies}"
    return True, f"{what}: each of {total} is held {copies} times"


def coverage(plan: Json) -> Iterator[Outcome]:
    """Each layer, head and expert is on the ranks that must have it, and nowhere else."""
    for deployment in plan["deployments"]:
        yield from _deployment_coverage(plan["model"], deployment)


def _deployment_coverage(model: Json, deployment: Json) -> Iterator[Outcome]:
    layout, ranks = degrees(deployment), deployment["placement"]["ranks"]
    cut = deployment["placement"]["stage_layers"]
    for part in ranks:
        first, stop = cut[part["stage"]]
        ends = (part["embedding"], part["head"])
        due = (part["stage"] == 0, part["stage"] == layout["pp"] - 1)
        if members(part["layers"]) != list(range(first, stop)) or ends != due:
            yield (
                False,
                f"rank {part['rank']}: layers {part['layers']} of {first}-{stop - 1}, {ends}",
            )
    yield True, f"layers, embedding and head of {len(ranks)} ranks"
    for column, total in held_heads(model).items():
        copies = max(1, layout["tp"] // total) if column == "kv_heads" and total else 1
        rows: dict[tuple[int, ...], list[str]] = {}
        for part in ranks:
            rows.setdefault((part["stage"], part["cp"], part["dp"]), []).append(part[column])
        yield all_hold(column, (_shared_out(column, row, total, copies) for row in rows.values()))
    experts = max(
        (layer["ffn"].get("num_experts", 0) for layer in model["layer_types"].values()), default=0
    )
    wholes: dict[tuple[int, int], list[str]] = {}
    for part in ranks:
        wholes.setdefault((part["stage"], part["etp"]), []).append(part["experts"])
    yield all_hold("experts", (_shared_out("expert", row, experts, 1) for row in wholes.values()))


def held_heads(model: Json) -> dict[str, int]:
    """How many heads of each sort the model's layers have."""
    found = {"heads": 0, "kv_heads": 0, "linear_heads": 0}
    for layer in model["layer_types"].values():
        attention = layer["attention"]
        found["heads"] = max(found["heads"], attention.get("num_heads", 0))
        found["kv_heads"] = max(found["kv_heads"], attention.get("num_kv_heads", 0))
        found["linear_heads"] = max(found["linear_heads"], attention.get("num_value_heads", 0))
    return found
