"""Replicas that span pools: stages and layers there are as told, on GPUs of that pool, and what is
sent from pool to pool crosses the link between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from optimizer.verify.document import Json, count, degrees, number, quantity
from optimizer.verify.finding import ROUNDING, Outcome, all_hold, equal
from optimizer.verify.gpus import CROSSING, Share, domains_of, shares_of
from optimizer.verify.tables import tables

HIDDEN_STATE_BYTES = 2  # hidden states travel in 16 bits
CROSSING_FLOOR = 0.9  # seconds may undercut the link's bandwidth by so little at most


def pools(plan: Json) -> Iterator[Outcome]:
    """Each stage lies in the pool that is told for it; no pool is told twice."""
    for deployment in plan["deployments"]:
        if "shares" not in deployment:
            yield True, f"every replica in one pool, {deployment['pool']}"
            continue
        shares, told = shares_of(plan, deployment), deployment["shares"]
        names = [share["pool"] for share in told]
        yield len(names) > 1, f"{len(names)} pools"
        yield equal("pools told once", len(set(names)), len(names))
        yield equal("pool of the first stage", deployment["pool"], names[0])
        yield equal("its span", deployment["placement"]["span"], told[0]["span"])
        cut = deployment["placement"]["stage_layers"]
        for share, one in zip(shares, told, strict=True):
            first, stop = cut[share.first][0], cut[share.first + share.stages - 1][1]
            yield equal(f"layers in {one['pool']}", one["layers"], stop - first)
            yield all_hold(f"GPUs of {one['pool']}", _homes(plan, deployment, share))


def _homes(plan: Json, deployment: Json, share: Share) -> Iterator[Outcome]:
    width = degrees(deployment)["width"]
    homes = {gpu for domain in domains_of(plan, share.pool) for gpu in domain}
    for gpus in deployment["placement"]["rank_gpu"]:
        own = gpus[share.first * width : (share.first + share.stages) * width]
        strangers = [gpu for gpu in own if gpu not in homes]
        yield not strangers, f"stages {share.first} ... on {', '.join(strangers[:3]) or 'its GPUs'}"


def crossings(plan: Json) -> Iterator[Outcome]:
    """Hidden states are sent once between two pools, no faster than the link between them."""
    for deployment, phase, table in tables(plan):
        rows = [row for row in table["rows"] if row["name"] == CROSSING]
        shares = shares_of(plan, deployment)
        yield equal(f"{phase}: sends between pools", len(rows), len(shares) - 1)
        for row, (one, other) in zip(rows, pairwise(shares), strict=True):
            yield equal(f"{phase} sends from", row["pool"], one.pool["name"])
            yield all_hold(
                f"{phase} {CROSSING}", _crossing(plan, deployment, table, row, one, other)
            )


def _crossing(
    plan: Json, deployment: Json, table: Json, row: Json, one: Share, other: Share
) -> Iterator[Outcome]:
    links = [share.pool["inter_node"] for share in (one, other)]
    link = plan["cluster"]["inter_pool"] or min(
        links, key=lambda each: quantity(each["bandwidth"], "B/s")
    )
    rate = quantity(link["bandwidth"], "B/s")
    place = [row[name] for name in ("part", "kind", "axis", "count", "group_size", "inside")]
    yield equal("one send to the next stage", place, ["boundary", "send_recv", "pp", 1, 2, 1])
    hidden = count(plan["model"]["hidden_size"], 1) * HIDDEN_STATE_BYTES
    for at, point in enumerate(table["grid"]):
        due = number(point["tokens"]) * hidden / degrees(deployment)["tp"]
        yield equal(f"bytes at point {at}", row["payload_bytes"][at], due, ROUNDING)
        yield not row["flops"][at] + row["bytes"][at], "a send computes nothing"
        least = CROSSING_FLOOR * due / rate
        yield row["seconds"][at] >= least, f"{row['seconds'][at]:.4g} s, at least {least:.4g} s"
