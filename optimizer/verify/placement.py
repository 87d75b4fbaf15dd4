"""Which rank holds what: each layer, head and expert is held as often as it must be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optimizer.verify.document import (
    Json,
    count,
    degrees,
    is_training,
    layer_types,
    members,
    redundant_experts,
)
from optimizer.verify.finding import Outcome, all_hold, equal

DENSE_GRID = ("stage", "tp", "cp", "dp")
EXPERT_GRID = ("stage", "ep", "etp")
MOST_HELD = 1_000_000  # heads or experts of a layer
AXES = ("tp", "cp", "dp", "ep", "etp", "pp")


def stages(plan: Json) -> Iterator[Outcome]:
    """Stages (or the chunks that interleaved stages hold in turn) are contiguous, none is empty,
    and together they hold each layer once. A chunk at either end may hold its end alone."""
    num_layers = len(layer_types(plan["model"]))
    for deployment in plan["deployments"]:
        cut, layout = deployment["placement"]["stage_layers"], degrees(deployment)
        yield equal("stages", len(cut), layout["pp"] * layout["vp"])
        at = 0
        for stage, (first, stop) in enumerate(cut):
            yield equal(f"stage {stage} starts at layer", first, at)
            alone = is_training(plan) and stage in (0, len(cut) - 1)
            at = count(stop, at + (0 if alone else 1))
        yield equal("the last stage ends at layer", at, num_layers)


def has_experts(model: Json) -> bool:
    """Whether any layer routes tokens to experts."""
    return any(layer["ffn"]["kind"] == "moe" for layer in model["layer_types"].values())


def coordinates(plan: Json) -> Iterator[Outcome]:
    """Every place of both grids is taken by exactly one rank of each stage."""
    for deployment in plan["deployments"]:
        layout, ranks = degrees(deployment), deployment["placement"]["ranks"]
        size = {**layout, "stage": layout["pp"]}
        expert_grid = expert_axes(deployment)
        grids = [DENSE_GRID, expert_grid] if has_experts(plan["model"]) else [DENSE_GRID]
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
        if expert_grid not in grids:
            off = [part["rank"] for part in ranks if (part["ep"], part["etp"]) != (0, 0)]
            yield not off, f"ranks with expert coordinates in a dense model: {off or 'none'}"


def expert_axes(deployment: Json) -> tuple[str, ...]:
    """The expert grid; training folds copies of the experts into the stage too."""
    copied = any("edp" in part for part in deployment["placement"]["ranks"])
    return (*EXPERT_GRID, "edp") if copied else EXPERT_GRID


def groups(plan: Json) -> Iterator[Outcome]:
    """A group along an axis is the ranks that share every other coordinate of its grid."""
    for deployment in plan["deployments"]:
        placement = deployment["placement"]
        expert_grid = expert_axes(deployment)
        axes = (*AXES, "edp") if "edp" in expert_grid else AXES
        yield equal("axes with groups", sorted(placement["groups"]), sorted(axes))
        for axis in axes:
            grid = expert_grid if axis in expert_grid else DENSE_GRID
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
        for thing in members(text, total):
            held[thing] += 1
    off = [thing for thing in range(total) if held[thing] != copies]
    if off:
        return False, f"{what} {off[0]} of {total}: held {held[off[0]]} times instead of {copies}"
    return True, f"{what}: each of {total} is held {copies} times"


def coverage(plan: Json) -> Iterator[Outcome]:
    """Each layer, head and expert is on the ranks that must have it, and nowhere else."""
    for deployment in plan["deployments"]:
        yield from _deployment_coverage(plan["model"], deployment, redundant_experts(plan))


def _deployment_coverage(model: Json, deployment: Json, redundant: int) -> Iterator[Outcome]:
    layout, ranks = degrees(deployment), deployment["placement"]["ranks"]
    yield all_hold("layers and ends", _layers(deployment, len(layer_types(model)), layout["pp"]))
    for column, total in held_heads(model).items():
        copies = max(1, layout["tp"] // total) if column == "kv_heads" and total else 1
        rows: dict[tuple[int, ...], list[str]] = {}
        for part in ranks:
            rows.setdefault((part["stage"], part["cp"], part["dp"]), []).append(part[column])
        yield all_hold(column, (_shared_out(column, row, total, copies) for row in rows.values()))
    slots = num_experts(model) + redundant if has_experts(model) else 0
    wholes: dict[tuple[int, int, int], list[str]] = {}
    for part in ranks:
        place = (part["stage"], part["etp"], part.get("edp", 0))
        wholes.setdefault(place, []).append(part["experts"])
    yield all_hold("experts", (_shared_out("expert", row, slots, 1) for row in wholes.values()))


def _layers(deployment: Json, num_layers: int, pp: int) -> Iterator[Outcome]:
    cut = deployment["placement"]["stage_layers"]
    for part in deployment["placement"]["ranks"]:
        own: list[int] = []
        for chunk in cut[count(part["stage"]) :: pp]:
            first, stop = (count(end, 0, num_layers) for end in chunk)
            own.extend(range(first, stop))
        held = members(part["layers"], num_layers)
        ends = [part["embedding"], part["head"]]
        due = [part["stage"] == 0, part["stage"] == pp - 1]
        ok = held == own and ends == due
        yield ok, f"rank {part['rank']}: layers {part['layers']}, {len(own)} due, {ends}"


def num_experts(model: Json) -> int:
    """The most experts that a layer has."""
    return max(
        count(layer["ffn"].get("num_experts", 0), 0, MOST_HELD)
        for layer in model["layer_types"].values()
    )


def held_heads(model: Json) -> dict[str, int]:
    """How many heads of each sort the model's layers have, where layers differ the most of any."""
    kinds = {"heads": "num_heads", "kv_heads": "num_kv_heads", "linear_heads": "num_value_heads"}
    attentions = [layer["attention"] for layer in model["layer_types"].values()]
    return {
        column: max(count(attention.get(key, 0), 0, MOST_HELD) for attention in attentions)
        for column, key in kinds.items()
    }
