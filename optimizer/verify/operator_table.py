"""The operator table: shapes, counts, operations, sums and physical floors of every row."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import (
    Json,
    count,
    degrees,
    is_serving,
    layer_types,
    number,
    quantity,
)
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal, rounding
from optimizer.verify.gpus import pool_of
from optimizer.verify.memory import HIDDEN_BYTES, expert_pairs
from optimizer.verify.products import attention_flops, own_point, shapes

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
KINDS = ("gemm", "grouped_gemm", "attention", "memory", *COLLECTIVES)
ARRAYS = ("m", "n", "k", "flops", "bytes", "payload_bytes", "seconds")
NO_PRODUCT = ("m", "n", "k", "flops")  # 0 for memory traffic and collectives
TILE_ROWS = 16  # a grouped product may compute so many rows for an expert that has a token
FLOOR = 0.9  # seconds may undercut datasheet peaks by so little at most


def tables(plan: Json) -> Iterator[tuple[Json, str, Json]]:
    """(deployment, phase, table) of every phase."""
    for deployment in plan["deployments"]:
        for phase, table in deployment["phases"].items():
            yield deployment, phase, table


def part_counts(plan: Json, layout: dict[str, int]) -> dict[str, int]:
    """How often a token meets each part on its way through all stages."""
    names = layer_types(plan["model"])
    found = {name: names.count(name) for name in plan["model"]["layer_types"]}
    return {**found, "embedding": 1, "head": 1, "boundary": layout["pp"] - 1}


def table_shape(plan: Json) -> Iterator[Outcome]:
    """Phases, grid points, row counts and kinds are what the workload and the model make them."""
    phases = {"forward": ["prefill"], "serving": ["decode", "prefill"]}
    for deployment in plan["deployments"]:
        due = phases["serving" if is_serving(plan) else "forward"]
        role = deployment["role"]
        yield equal("phases", sorted(deployment["phases"]), [role] if role in due else due)
    for deployment, phase, table in tables(plan):
        points = len(table["grid"])
        for name, derived in own_point(plan, deployment, phase).items():
            yield equal(f"{phase} {name}", table["grid"][0][name], derived, ROUNDING)
        for at, point in enumerate(table["grid"]):
            positive = min(number(value) for value in point.values()) > 0
            yield positive, f"{phase} point {at}: the smallest is {min(point.values())}"
            if phase == "decode":
                yield equal("decode tokens", point["tokens"], point["sequences"])
        counts = part_counts(plan, degrees(deployment))
        for row in table["rows"]:
            where = f"{phase} {row['part']} {row['name']}"
            yield equal(f"{where} count", count(row["count"]), counts[row["part"]])
            yield row["kind"] in KINDS, f"{where}: kind {row['kind']}"
            lengths = {len(row[name]) for name in ARRAYS}
            yield lengths == {points}, f"{where}: arrays of {lengths} over {points} points"
            smallest = min(number(value) for name in ARRAYS for value in row[name])
            yield smallest >= 0, f"{where}: the smallest entry is {smallest}"
        missing = {part for part, times in counts.items() if times} - {
            row["part"] for row in table["rows"]
        }
        yield not missing, f"{phase}: parts without an operator: {sorted(missing) or 'none'}"


def arithmetic(plan: Json) -> Iterator[Outcome]:
    """Operations of every row follow from its shape, and its shape from the specs."""
    for deployment, phase, table in tables(plan):
        for part in part_counts(plan, degrees(deployment)):
            rows = [row for row in table["rows"] if row["part"] == part]
            yield from _part_arithmetic(
                plan, deployment, f"{phase} {part}", part, rows, table["grid"]
            )


def _part_arithmetic(
    plan: Json, deployment: Json, where: str, part: str, rows: list[Json], grid: list[Json]
) -> Iterator[Outcome]:
    layout = degrees(deployment)
    common, experts = shapes(plan["model"], part, layout)
    layer = plan["model"]["layer_types"].get(part)
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    for at, point in enumerate(grid):
        for kind, due in (("gemm", common), ("grouped_gemm", experts)):
            found = sorted([row["n"][at], row["k"][at]] for row in of_kind[kind])
            listed = sorted([matrix.outputs, matrix.inputs] for matrix in due)
            yield equal(f"{where} {kind} shapes at point {at}", found, listed)
        tokens = number(point["sequences" if part == "head" else "tokens"])
        for row in of_kind["gemm"]:
            name, m = f"{where} {row['name']}", number(row["m"][at])
            yield equal(f"{name} m at point {at}", m, tokens, ROUNDING)
            flops = 2 * m * row["n"][at] * row["k"][at]
            off = ROUNDING if rounding(flops) else 0.0
            yield equal(f"{name} flops at point {at}", row["flops"][at], flops, off)
        for row in of_kind["grouped_gemm"]:
            assert layer is not None
            name, m = f"{where} {row['name']}", number(row["m"][at])
            pairs = expert_pairs(plan, layer["ffn"], layout, tokens)
            yield equal(f"{name} m at point {at}", m, pairs, ROUNDING)
            once = 2 * row["n"][at] * row["k"][at]
            most = max(m, TILE_ROWS * min(experts[0].copies, m + 1))
            flops = number(row["flops"][at])
            padded = m * once * (1 - ROUNDING) <= flops <= most * once * (1 + ROUNDING)
            yield padded, f"{name}: {flops:.6g} flops of {m * once:.6g} to {most * once:.6g}"
        if layer is not None:
            flops = sum(number(row["flops"][at]) for row in of_kind["attention"])
            derived = attention_flops(layer["attention"], point, layout["tp"])
            yield equal(f"{where} attention flops at point {at}", flops, derived, ROUNDING)
    yield all_hold(
        f"{where} rows without a matrix",
        (
            equal(f"{row['name']} {name}", row[name][at], 0)
            for row in rows
            if row["kind"] not in ("gemm", "grouped_gemm")
            for name in (("m", "n", "k") if row["kind"] == "attention" else NO_PRODUCT)
            for at in range(len(grid))
        ),
    )


def table_sums(plan: Json) -> Iterator[Outcome]:
    """Totals are the sums over rows, by_group the sums of the first point, the slowest stage the
    largest sum over the layers of a stage."""
    totals = {
        "total_flops": "flops",
        "total_bytes": "bytes",
        "total_payload_bytes": "payload_bytes",
        "total_seconds": "seconds",
    }
    for deployment, phase, table in tables(plan):
        rows, points = table["rows"], len(table["grid"])
        for total, name in totals.items():
            yield equal(f"{phase} {total}, points", len(table[total]), points)
            for at in range(points):
                terms = [row["count"] * number(row[name][at]) for row in rows]
                planned = table[total][at]
                yield equal(f"{phase} {total}[{at}]", planned, sum(terms), rounding(*terms))
        by_group: dict[str, float] = {}
        once: dict[str, float] = {}
        for row in rows:
            seconds = row["seconds"][0]
            by_group[row["group"]] = by_group.get(row["group"], 0.0) + row["count"] * seconds
            once[row["part"]] = once.get(row["part"], 0.0) + seconds
        yield equal(f"{phase} groups", sorted(table["by_group"]), sorted(by_group))
        for group, derived in by_group.items():
            yield equal(f"{phase} {group}, s", table["by_group"][group], derived, ROUNDING)
        yield _slowest_stage(plan, deployment, phase, table, once)


def _slowest_stage(
    plan: Json, deployment: Json, phase: str, table: Json, once: dict[str, float]
) -> Outcome:
    """The last stage hands over nothing; a plan may count its send all the same."""
    names, cut = layer_types(plan["model"]), deployment["placement"]["stage_layers"]
    send = once.get("boundary", 0.0) if len(cut) > 1 else 0.0
    stages = [sum(once[name] for name in names[first:stop]) for first, stop in cut]
    stages[0] += once.get("embedding", 0.0)
    stages[-1] += once.get("head", 0.0)
    most = max(stages) + send
    least = max([*(seconds + send for seconds in stages[:-1]), stages[-1]])
    planned = number(table["slowest_stage_s"])
    ok = least * (1 - ROUNDING) <= planned <= most * (1 + ROUNDING)
    return ok, f"{phase} slowest stage: {planned:.7g} s, derived {least:.7g} to {most:.7g} s"


def floors(plan: Json) -> Iterator[Outcome]:
    """No operator is faster than the datasheet: operations, memory traffic, bytes over links."""
    for deployment, phase, table in tables(plan):
        pool = pool_of(plan, deployment)
        gpu, rates = pool["gpu"], pool["gpu"]["flops"]
        peaks = {kind: quantity(rate, "FLOP/s") for kind, rate in rates.items()}
        bandwidth = quantity(gpu["memory_bandwidth"], "B/s")
        links = [quantity(pool[tier]["bandwidth"], "B/s") for tier in ("intra_node", "inter_node")]
        for row in table["rows"]:
            peak = peaks.get(row["compute"], max(peaks.values()))
            link = links[0] if row["inside"] >= row["group_size"] else max(links)
            floor_s = [
                FLOOR * max(flops / peak, moved / bandwidth, payload * _hops(row) / link)
                for flops, moved, payload in zip(
                    row["flops"], row["bytes"], row["payload_bytes"], strict=True
                )
            ]
            yield all_hold(
                f"{phase} {row['part']} {row['name']}",
                (
                    (seconds >= floor, f"{seconds:.4g} s, no less than {floor:.4g} s")
                    for seconds, floor in zip(row["seconds"], floor_s, strict=True)
                ),
            )


def _hops(row: Json) -> float:
    """How often a rank's payload crosses its own link at the very least."""
    size = count(row["group_size"], 1)
    share = (size - 1) / size
    if row["kind"] == "all_reduce":
        return 2 * share
    if row["kind"] == "all_gather":
        return size - 1
    return share if row["kind"] in ("all_to_all", "reduce_scatter") else 1.0


def traffic(plan: Json) -> Iterator[Outcome]:
    """Where ranks share a layer's work there are collectives that bring the parts together."""
    for deployment, phase, table in tables(plan):
        layout = degrees(deployment)
        for name, layer in plan["model"]["layer_types"].items():
            rows = [row for row in table["rows"] if row["part"] == name]
            yield from _layer_traffic(plan, layout, f"{phase} {name}", layer, rows, table["grid"])


def _layer_traffic(
    plan: Json, layout: dict[str, int], where: str, layer: Json, rows: list[Json], grid: list[Json]
) -> Iterator[Outcome]:
    hidden_bytes = plan["model"]["hidden_size"] * HIDDEN_BYTES
    apart = layout["dp"] * layout["cp"] > 1
    routed = layer["ffn"]["kind"] == "moe"
    reduces = 1 if routed and apart else 2
    if layout["tp"] > 1:
        for at, point in enumerate(grid):
            sent = sum(row["payload_bytes"][at] for row in rows if row["kind"] == "all_reduce")
            due = reduces * number(point["tokens"]) * hidden_bytes
            yield equal(f"{where} bytes reduced over tp", sent, due, ROUNDING)
    if routed and apart and layout["width"] > 1:
        exchanges = [row for row in rows if row["axis"] in ("ep", "etp")]
        for at, point in enumerate(grid):
            own = number(point["tokens"]) * hidden_bytes / layout["tp"]
            sent = sum(row["payload_bytes"][at] for row in exchanges if row["group_size"] > 1)
            yield (
                sent >= own and bool(exchanges),
                f"{where}: {sent:,.0f} bytes to and from experts, {own:,.0f} of own tokens",
            )
