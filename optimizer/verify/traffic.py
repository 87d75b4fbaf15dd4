"""Seconds against the datasheet, and collectives against the placement: what must travel does, and
over the links between the GPUs that were really named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from optimizer.verify.document import Json, count, degrees, number, quantity
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal
from optimizer.verify.gpus import Share, domains_of, shares_of
from optimizer.verify.matrices import up
from optimizer.verify.memory import HIDDEN_BYTES
from optimizer.verify.tables import COLLECTIVES, part_counts, tables

FLOOR = 0.9  # seconds may undercut datasheet peaks by so little at most


def floors(plan: Json) -> Iterator[Outcome]:
    """No operator is faster than the datasheet: operations, memory traffic, bytes over links."""
    for deployment, phase, table in tables(plan):
        for share in shares_of(plan, deployment):
            rows = share.rows(deployment, table)
            yield all_hold(f"{phase} seconds", _table_floors(share.pool, rows))


def _table_floors(pool: Json, rows: list[Json]) -> Iterator[Outcome]:
    peaks = {kind: quantity(rate, "FLOP/s") for kind, rate in pool["gpu"]["flops"].items()}
    bandwidth = quantity(pool["gpu"]["memory_bandwidth"], "B/s")
    links = [quantity(pool[tier]["bandwidth"], "B/s") for tier in ("intra_node", "inter_node")]
    leaf = pool.get("leaf")
    spine = links[1] / number(leaf["oversubscription"]) if leaf else links[1]
    for row in rows:
        across = max(_up_to_spine(row) / spine, _out_of_domain(row) / links[1])
        peak = peaks.get(row["compute"], max(peaks.values()))
        link = links[0] if row["inside"] >= row["group_size"] else max(links)
        hops = _hops(row)
        arrays = (row[name] for name in ("flops", "bytes", "payload_bytes", "seconds"))
        for flops, moved, payload, seconds in zip(*arrays, strict=True):
            least = FLOOR * max(
                flops / peak, moved / bandwidth, payload * hops / link, payload * across
            )
            ok = seconds >= least
            yield ok, f"{row['part']} {row['name']}: {seconds:.4g} s, at least {least:.4g} s"


def _up_to_spine(row: Json) -> float:
    """The share of an all-to-all's payload that no place under the same leaf switch takes."""
    if row["kind"] != "all_to_all" or "leaf" not in row:
        return 0.0
    size = count(row["group_size"], 1)
    return (size - count(row["leaf"], 1, size)) / size


def _out_of_domain(row: Json) -> float:
    """The share of an all-to-all's payload that a rank of its smallest piece sends elsewhere."""
    size, inside = count(row["group_size"], 1), count(row["inside"], 1)
    if row["kind"] != "all_to_all" or inside >= size:
        return 0.0
    return (size - (size % inside or inside)) / size


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
        for share in shares_of(plan, deployment):
            counts, found = part_counts(plan, deployment, share), share.rows(deployment, table)
            for name, layer in plan["model"]["layer_types"].items():
                rows = [row for row in found if row["part"] == name]
                outcomes = _layer_traffic(plan, degrees(deployment), layer, rows, table["grid"])
                if counts[name]:
                    yield all_hold(f"{phase} {name}", outcomes)


def _layer_traffic(
    plan: Json, layout: dict[str, int], layer: Json, rows: list[Json], grid: list[Json]
) -> Iterator[Outcome]:
    hidden_bytes = plan["model"]["hidden_size"] * HIDDEN_BYTES
    apart = layout["dp"] * layout["cp"] > 1
    routed = layer["ffn"]["kind"] == "moe"
    reduces = 1 if routed and apart else 2
    if layout["tp"] > 1:
        for at, point in enumerate(grid):
            sent = sum(row["payload_bytes"][at] for row in rows if row["kind"] == "all_reduce")
            due = reduces * number(point["tokens"]) * hidden_bytes
            yield equal(f"bytes reduced over tp at point {at}", sent, due, ROUNDING)
    if routed and apart and layout["width"] > 1:
        exchanges = [row for row in rows if row["axis"] in ("ep", "etp")]
        for at, point in enumerate(grid):
            own = number(point["tokens"]) * hidden_bytes / layout["tp"]
            sent = sum(row["payload_bytes"][at] for row in exchanges if row["group_size"] > 1)
            yield (
                sent >= own and bool(exchanges),
                f"{sent:,.0f} bytes to and from experts, at least {own:,.0f} of own tokens",
            )


def collectives(plan: Json) -> Iterator[Outcome]:
    """Each collective is priced over its axis's group and over the tiers that the group spans."""
    for deployment, phase, table in tables(plan):
        for share in shares_of(plan, deployment):
            rows = share.rows(deployment, table)
            yield all_hold(f"{phase} rows", _share_collectives(plan, deployment, share, rows))


def _share_collectives(
    plan: Json, deployment: Json, share: Share, rows: list[Json]
) -> Iterator[Outcome]:
    layout, placement, span = degrees(deployment), deployment["placement"], share.span
    domains = domains_of(plan, share.pool)
    replica, filled = share.stages * layout["width"], [len(gpus) for gpus in domains if gpus]
    together = len(filled) == 1 or all(size % replica == 0 for size in filled)
    near = placement.get("inside", {})
    reach = {
        "tp": near.get("tp", min(layout["tp"], span)),
        "cp": near.get("cp", min(layout["cp"], max(1, span // layout["tp"]))),
        "ep": min(layout["ep"] * layout["etp"], span),
        "pp": 2 if together or near.get("pp", 1) > 1 else 1,
    }
    lies = {axis: list(_by_domain(deployment, share, domains, axis)) for axis in reach}
    size = {**layout, "pp": 2, "ep": layout["ep"] * layout["etp"], "grouped_gemm": layout["ep"]}
    yield from _groups_of(rows, size, reach, lies)


def _groups_of(
    rows: list[Json], size: dict[str, int], reach: dict[str, int], lies: dict[str, list[list[int]]]
) -> Iterator[Outcome]:
    """size, reach and lies of each axis: ranks of a group, of them in one domain, and where the
    placement has them: ranks of each group by domain."""
    for row in rows:
        where, axis = f"{row['part']} {row['name']}", row["axis"]
        if row["kind"] not in COLLECTIVES:
            ranks = size["grouped_gemm"] if row["kind"] == "grouped_gemm" else 1
            alone = [axis, row["group_size"], row["inside"]]
            yield equal(f"{where} axis, group, inside", alone, ["", ranks, 1])
            continue
        yield equal(f"{where} group", row["group_size"], size[axis])
        yield equal(f"{where} ranks in one domain", row["inside"], reach[axis])
        inside = count(row["inside"], 1)
        most, priced = max(map(len, lies[axis]), default=1), up(size[axis], inside)
        yield most <= priced, f"{where}: {most} domains, {priced} priced"
        if size[axis] % inside == 0:
            least = min((min(group) for group in lies[axis]), default=inside)
            yield least >= inside, f"{where}: {least} ranks in a domain, {inside} priced"
        for entry in (*row["flops"], *row["bytes"]):
            yield equal(f"{where} flops and bytes", entry, 0)


def _by_domain(
    deployment: Json, share: Share, domains: list[list[str]], axis: str
) -> Iterator[list[int]]:
    """Ranks by domain of each group of an axis; of pp, of each pair of neighbours. Ranks in other
    pools than the share's are left out.

    A token goes to every part of each of its experts: over the whole stage, not one expert group.
    """
    placement = deployment["placement"]
    groups: list[list[int]] = placement["groups"][axis]
    if axis == "ep":
        stages: dict[int, list[int]] = {}
        for part in placement["ranks"]:
            stages.setdefault(part["stage"], []).append(part["rank"])
        groups = list(stages.values())
    home = {gpu: number for number, domain in enumerate(domains) for gpu in domain}
    ranks = placement["ranks"]
    own = range(share.first, share.first + share.stages)
    for gpus in placement["rank_gpu"]:
        for group in groups:
            lies = [home[gpus[rank]] for rank in group if ranks[rank]["stage"] in own]
            for joined in pairwise(lies) if axis == "pp" else [tuple(lies)]:
                if joined:
                    yield list(Counter(joined).values())
