"""Leaf switches and rails: what each collective is priced to keep under a leaf lies there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from optimizer.verify.document import Json, count, degrees
from optimizer.verify.finding import Outcome, all_hold, equal
from optimizer.verify.gpus import Share, shares_of
from optimizer.verify.matrices import up
from optimizer.verify.tables import COLLECTIVES, tables


def switches(plan: Json) -> Iterator[Outcome]:
    """No group of ranks spans more leaf switches or rails than its collectives pay for."""
    for deployment, phase, table in tables(plan):
        for share in shares_of(plan, deployment):
            rows = share.rows(deployment, table)
            rows = [row for row in rows if row["kind"] in COLLECTIVES]
            told, pool = sum("leaf" in row for row in rows), share.pool
            named = pool.get("leaf") is not None
            yield equal(f"{phase}: collectives that name a leaf", told, len(rows) if named else 0)
            if not named:
                continue
            yield all_hold(f"{phase} leaf switches", _spread(deployment, share, rows))
            if "rails" in pool and any(row["inside"] < row["leaf"] for row in rows):
                yield all_hold(f"{phase} rails", _rails(deployment, share))


def _node_and_index(gpu: str) -> tuple[int, int]:
    """Node and number of a GPU by its name, "node3/gpu5" or "pool/node3/gpu5"."""
    node, index = gpu.split("/")[-2:]
    return int(node.removeprefix("node")), int(index.removeprefix("gpu"))


def _spread(deployment: Json, share: Share, rows: list[Json]) -> Iterator[Outcome]:
    nodes = count(share.pool["leaf"]["nodes"], 1)
    claims = {(row["axis"], count(row["inside"], 1), count(row["leaf"], 1)) for row in rows}
    for axis, inside, leaf in sorted(claims):
        for gpus in deployment["placement"]["rank_gpu"]:
            for group in _joined(deployment, share, axis):
                lies = Counter(_node_and_index(gpus[rank])[0] // nodes for rank in group)
                ok = leaf <= len(group) and leaf % inside == 0
                if len(lies) > 1:
                    whole = len(group) % leaf == 0
                    ok = ok and leaf < len(group) and len(lies) <= up(len(group), leaf)
                    ok = ok and (not whole or min(lies.values()) >= leaf)
                where = dict(sorted(lies.items()))
                yield ok, f"{axis} {group[0]} ...: ranks by leaf {where}, {leaf} together priced"


def _joined(deployment: Json, share: Share, axis: str) -> Iterator[tuple[int, ...]]:
    """Ranks of a pool that one collective joins: an exchange of experts a whole stage, a send two
    stages."""
    placement, width = deployment["placement"], degrees(deployment)["width"]
    own = _ranks_of(deployment, share)
    if axis == "ep":
        for first in own[::width]:
            yield tuple(range(first, first + width))
        return
    for group in placement["groups"][axis]:
        here = tuple(rank for rank in group if rank in own)
        yield from pairwise(here) if axis == "pp" else (here,) if here else ()


def _ranks_of(deployment: Json, share: Share) -> range:
    """The ranks of the stages of a pool."""
    width = degrees(deployment)["width"]
    return range(share.first * width, (share.first + share.stages) * width)


def _rails(deployment: Json, share: Share) -> Iterator[Outcome]:
    """Ranks of equal place in the pieces of a stage, and in two stages, hang on one rail."""
    rails, width = count(share.pool["rails"], 1), degrees(deployment)["width"]
    own = _ranks_of(deployment, share)
    for gpus in deployment["placement"]["rank_gpu"]:
        for rank in own:
            due = _node_and_index(gpus[own[rank % width % share.span]])[1] % rails
            yield equal(f"rail of rank {rank}", _node_and_index(gpus[rank])[1] % rails, due)
