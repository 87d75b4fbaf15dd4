"""Whether a plan's weights outlive any one GPU or node, by looking at every one of them."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.document import Json
from optimizer.verify.finding import Outcome


def held_without(deployment: Json, lost: set[str]) -> set[tuple[object, ...]]:
    """(layers, what) that some rank on a living GPU holds: heads of a tensor shard, experts of an
    expert shard, embedding, head."""
    placement = deployment["placement"]
    found: set[tuple[object, ...]] = set()
    for gpus in placement["rank_gpu"]:
        for part, gpu in zip(placement["ranks"], gpus, strict=True):
            if gpu in lost:
                continue
            found.add((part["layers"], "dense", part["tp"]))
            if part["experts"]:
                found.add((part["layers"], "experts", part["experts"], part["etp"]))
            found |= {(part["layers"], end) for end in ("embedding", "head") if part[end]}
    return found


def survival(document: Json, unit: str) -> Iterator[Outcome]:
    """For every unit, "gpu" or "node": nothing is lost for good when it dies."""
    for deployment in document["deployments"]:
        whole = held_without(deployment, set())
        gpus = [gpu for replica in deployment["placement"]["rank_gpu"] for gpu in replica]
        units: dict[str, set[str]] = {}
        for gpu in gpus:
            units.setdefault(gpu if unit == "gpu" else gpu.rpartition("/")[0], set()).add(gpu)
        for name, lost in units.items():
            missing = len(whole - held_without(deployment, lost))
            yield missing == 0, f"without {name}: {missing} of {len(whole)} shards are gone"
