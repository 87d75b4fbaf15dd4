"""The operator tables: counts, grid points and sums of every phase."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json, count, degrees, is_serving, layer_types, number
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal, rounding
from optimizer.verify.gpus import CROSSING, Share, shares_of
from optimizer.verify.products import own_point

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
KINDS = ("gemm", "grouped_gemm", "attention", "memory", *COLLECTIVES)
ARRAYS = ("m", "n", "k", "flops", "bytes", "payload_bytes", "seconds")


def tables(plan: Json) -> Iterator[tuple[Json, str, Json]]:
    """(deployment, phase, table) of every phase."""
    for deployment in plan["deployments"]:
        for phase, table in deployment["phases"].items():
            yield deployment, phase, table


def part_counts(plan: Json, deployment: Json, share: Share) -> dict[str, int]:
    """How often a token meets each part on its way through the stages of a pool."""
    pp, cut = degrees(deployment)["pp"], deployment["placement"]["stage_layers"]
    end = share.first + share.stages
    names = layer_types(plan["model"])[count(cut[share.first][0]) : count(cut[end - 1][1])]
    found = {name: names.count(name) for name in plan["model"]["layer_types"]}
    ends = {"embedding": int(share.first == 0), "head": int(end == pp)}
    return {**found, **ends, "boundary": share.stages - 1}


def table_shape(plan: Json) -> Iterator[Outcome]:
    """Phases, grid points, row counts and kinds are what the workload and the model make them."""
    phases = ["decode", "prefill"] if is_serving(plan) else ["prefill"]
    for deployment in plan["deployments"]:
        role = deployment["role"]
        due = [role] if role in phases else phases
        yield equal("phases", sorted(deployment["phases"]), due)
    for deployment, phase, table in tables(plan):
        for name, derived in own_point(plan, deployment, phase).items():
            yield equal(f"{phase} {name}", table["grid"][0][name], derived, ROUNDING)
        yield all_hold(f"{phase} grid", _points(phase, table["grid"]))
        told = 0
        for share in shares_of(plan, deployment):
            counts, rows = part_counts(plan, deployment, share), share.rows(deployment, table)
            yield all_hold(f"{phase} rows", _rows(rows, len(table["grid"]), counts))
            found = {row["part"] for row in rows}
            missing = sorted({part for part, times in counts.items() if times} - found)
            yield not missing, f"{phase}: parts without an operator: {missing or 'none'}"
            told += len(rows)
        sends = sum(row["name"] == CROSSING for row in table["rows"])
        yield equal(f"{phase} rows of all pools", len(table["rows"]), told + sends)


def _points(phase: str, grid: list[Json]) -> Iterator[Outcome]:
    for point in grid:
        smallest = min(number(value) for value in point.values())
        yield smallest > 0, f"the smallest of {point} is {smallest}"
        if phase == "decode":
            yield equal("a token a sequence", point["tokens"], point["sequences"])


def _rows(rows: list[Json], points: int, counts: dict[str, int]) -> Iterator[Outcome]:
    for row in rows:
        where = f"{row['part']} {row['name']}"
        yield equal(f"{where} count", count(row["count"]), counts[row["part"]])
        yield row["kind"] in KINDS, f"{where}: kind {row['kind']}"
        lengths = sorted({len(row[name]) for name in ARRAYS})
        yield equal(f"{where} points", lengths, [points])
        smallest = min(number(value) for name in ARRAYS for value in row[name])
        yield smallest >= 0, f"{where}: the smallest entry is {smallest}"


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
            yield all_hold(f"{phase} {total}", _sums(table[total], rows, name))
        by_group: dict[str, float] = {}
        for row in rows:
            seconds = row["seconds"][0]
            by_group[row["group"]] = by_group.get(row["group"], 0.0) + row["count"] * seconds
        yield equal(f"{phase} groups", sorted(table["by_group"]), sorted(by_group))
        for group, derived in by_group.items():
            yield equal(f"{phase} {group}, s", table["by_group"][group], derived, ROUNDING)
        yield _slowest_stage(plan, deployment, phase, table)


def _sums(planned: list[float], rows: list[Json], name: str) -> Iterator[Outcome]:
    for at, total in enumerate(planned):
        terms = [row["count"] * number(row[name][at]) for row in rows]
        yield equal(f"at point {at}", total, sum(terms), rounding(*terms))


def _slowest_stage(plan: Json, deployment: Json, phase: str, table: Json) -> Outcome:
    """The last stage hands over nothing; a plan may count its send all the same, and the send to
    the next pool for every stage before it."""
    names, cut = layer_types(plan["model"]), deployment["placement"]["stage_layers"]
    crossing = sum(row["seconds"][0] for row in table["rows"] if row["name"] == CROSSING)
    least, most = 0.0, 0.0
    for share in shares_of(plan, deployment):
        once: dict[str, float] = {}
        for row in share.rows(deployment, table):
            once[row["part"]] = once.get(row["part"], 0.0) + row["seconds"][0]
        send, end = once.get("boundary", 0.0), share.first + share.stages
        own = cut[share.first : end]
        stages = [sum(once[name] for name in names[first:stop]) for first, stop in own]
        stages[0] += once.get("embedding", 0.0)
        stages[-1] += once.get("head", 0.0)
        last = stages[-1] + (crossing if end < len(cut) else 0.0)
        least = max([least, *(seconds + send for seconds in stages[:-1]), last])
        most = max(most, max(stages) + max(send, crossing if end < len(cut) else 0.0))
    planned = number(table["slowest_stage_s"])
    ok = least * (1 - ROUNDING) <= planned <= most * (1 + ROUNDING)
    return ok, f"{phase} slowest stage: {planned:.7g} s, derived {least:.7g} to {most:.7g} s"
