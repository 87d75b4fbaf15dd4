"""Collectives of the operator table against the placement: sizes, tiers, where GPUs really lie."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from optimizer.verify.document import Json, count, degrees
from optimizer.verify.finding import Outcome, all_hold, equal
from optimizer.verify.gpus import domains_of, pool_of
from optimizer.verify.matrices import up
from optimizer.verify.operator_table import COLLECTIVES, tables


def collectives(plan: Json) -> Iterator[Outcome]:
    """Each collective is priced over its axis's group and over the tiers that the group spans."""
    for deployment, phase, table in tables(plan):
        layout, placement = degrees(deployment), deployment["placement"]
        span = count(placement["span"], 1)
        domains = domains_of(plan, pool_of(plan, deployment))
        replica, filled = layout["pp"] * layout["width"], [len(gpus) for gpus in domains if gpus]
        together = len(filled) == 1 or all(size % replica == 0 for size in filled)
        reach = {
            "tp": min(layout["tp"], span),
            "cp": min(layout["cp"], max(1, span // layout["tp"])),
            "ep": min(layout["ep"] * layout["etp"], span),
            "pp": 2 if together else 1,
        }
        most = {axis: _most_domains(deployment, domains, axis) for axis in reach}
        for row in table["rows"]:
            where, axis = f"{phase} {row['part']} {row['name']}", row["axis"]
            if row["kind"] not in COLLECTIVES:
                alone = (row["axis"], row["group_size"], row["inside"])
                yield alone == ("", 1, 1), f"{where}: axis, group, inside {alone}"
                continue
            size = {"pp": 2, "ep": layout["ep"] * layout["etp"]}.get(axis, layout[axis])
            yield equal(f"{where} group", row["group_size"], size)
            yield equal(f"{where} ranks in one domain", row["inside"], reach[axis])
            priced = up(size, count(row["inside"], 1))
            yield most[axis] <= priced, f"{where}: {most[axis]} domains of {priced} priced"
            unmoved = [*row["flops"], *row["bytes"]]
            yield all_hold(where, (equal("flops and bytes", entry, 0) for entry in unmoved))


def _most_domains(deployment: Json, domains: list[list[str]], axis: str) -> int:
    """Domains that the widest-spread group of an axis touches; of pp, each pair of neighbours.

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
    most = 1
    for gpus in placement["rank_gpu"]:
        for group in groups:
            lies = [home[gpus[rank]] for rank in group]
            pairs = pairwise(lies) if axis == "pp" else [tuple(lies)]
            most = max([most, *(len(set(pair)) for pair in pairs)])
    return most
