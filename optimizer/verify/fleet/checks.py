"""A fleet is a partition of live GPUs; its rates, money and proof add up."""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.verify.cache import ELEMENT_BYTES, sequence_bytes
from optimizer.verify.checks import run, verify_plan
from optimizer.verify.document import Json, layer_types, quantity
from optimizer.verify.finding import (
    ROUNDING,
    Check,
    Finding,
    Outcome,
    all_hold,
    at_most,
    equal,
)
from optimizer.verify.identity import identity
from optimizer.verify.load import peak

ONE_RANK = {"tp": 1, "cp": 1}  # the cache of one request on one rank
SHORT = 1 - 1e-9


def verify_fleet(document: Json) -> list[Finding]:
    """All findings on the fleet itself; its plans are checked as plans."""
    return [finding for check in FLEET_CHECKS for finding in run(check, document)]


def verify_document(document: Json) -> list[Finding]:
    """All findings on a plan, or on a fleet and each of its plans."""
    if "parts" not in document:
        return verify_plan(document)
    held = document.get("plans")
    plans_alone = (
        [plan for plan in held if isinstance(plan, dict)] if isinstance(held, list) else []
    )
    return [
        *run(identity, document),
        *verify_fleet(document),
        *(finding for plan in plans_alone for finding in verify_plan(plan)),
    ]


def fleet_gpus(document: Json) -> dict[str, str]:
    """GPU name -> pool, of the GPUs that are not dead."""
    pools = document["cluster"]["pools"]
    found = {}
    for pool in pools:
        prefix = pool["name"] + "/" if len(pools) > 1 else ""
        sizes = pool["node_sizes"] or [pool["gpus_per_node"]] * pool["nodes"]
        dead = set(pool["dead"])
        for node, size in enumerate(sizes):
            for gpu in range(size):
                name = f"node{node}/gpu{gpu}"
                if f"node{node}" not in dead and name not in dead:
                    found[prefix + name] = pool["name"]
    return found


def partition(document: Json) -> Iterator[Outcome]:
    """Every GPU serves one part at most, lives, and lies in the part's pool; the rest is idle."""
    live = fleet_gpus(document)
    used = [gpu for part in document["parts"] for gpu in part["gpus"]]
    yield equal("GPUs named by more than one part", len(used) - len(set(used)), 0)
    yield all_hold(
        "live GPUs in the named pool",
        (
            equal(f"pool of {gpu}", part["pool"], live.get(gpu, "no live GPU"))
            for part in document["parts"]
            for gpu in part["gpus"]
        ),
    )
    yield equal("GPUs", document["gpus"], len(set(used)))
    yield equal("idle GPUs", sorted(document["idle_gpus"]), sorted(set(live) - set(used)))


def plans(document: Json) -> Iterator[Outcome]:
    """Every part's plan runs on the part's own GPUs, in as many replicas, and on that pool."""
    live = fleet_gpus(document)
    pools = {pool["name"]: pool for pool in document["cluster"]["pools"]}
    several = len(pools) > 1
    numbers = sorted(part["plan"] for part in document["parts"])
    yield equal("plans that parts name", numbers, list(range(len(document["plans"]))))
    for part in document["parts"]:
        plan = document["plans"][part["plan"]]
        what = f"{part['demand']} {part['role']}"
        prefix = part["pool"] + "/" if several else ""
        own = {prefix + gpu for gpu in fleet_gpus(plan)}
        yield equal(f"{what}: GPUs of its cluster", sorted(own), sorted(part["gpus"]))
        placed = plan["deployments"][0]["placement"]["rank_gpu"]
        named = {prefix + gpu for replica in placed for gpu in replica}
        yield (named <= own <= set(live), f"{what}: its plan runs on the part's own live GPUs")
        layout = plan["deployments"][0]["layout"]
        yield equal(f"{what}: replicas", part["replicas"], layout["replicas"])
        yield equal(f"{what}: plan", part["name"], plan["name"])
        (pool,) = plan["cluster"]["pools"]
        changed = [key for key in pool if key != "dead" and pool[key] != pools[part["pool"]][key]]
        yield equal(f"{what}: what its pool changes beside dead GPUs", changed, [])


def rates(document: Json) -> Iterator[Outcome]:
    """Shares are within capacity, match the plans, and add up to what is served; roles match."""
    for part in document["parts"]:
        what = f"{part['demand']} {part['role']} in {part['pool']}"
        yield at_most(f"{what}: share", part["share_per_s"], part["capacity_per_s"])
        plan = document["plans"][part["plan"]]
        planned = plan["predictions"]["requests_per_s"]["value"]
        yield at_most(
            f"{what}: share of what its plan serves", part["share_per_s"] * SHORT, planned
        )
    wanted = [served["demand"] for served in document["served"]]
    strange = sorted({part["demand"] for part in document["parts"]} - set(wanted))
    yield equal("parts of demands that nobody has", strange, [])
    for served in document["served"]:
        own = [part for part in document["parts"] if part["demand"] == served["demand"]]
        for role in sorted({part["role"] for part in own}):
            total = sum(part["share_per_s"] for part in own if part["role"] == role)
            what = f"{served['demand']}: served by {role}"
            yield equal(what, served["served_per_s"], total, len(own) * ROUNDING)
        roles = {part["role"] for part in own}
        whole = roles in (set(), {"serving"}, {"prefill", "decode"})
        yield whole, f"{served['demand']}: roles {', '.join(sorted(roles)) or 'none'}"
        yield at_most(f"{served['demand']}: served", served["served_per_s"], served["wanted_per_s"])
        if document["objective"] != "served":
            asked = served["wanted_per_s"]
            yield equal(f"{served['demand']}: in full", served["served_per_s"], asked, 1e-8)


def apart(document: Json) -> Iterator[Outcome]:
    """Prefill makes one token, decode finds all but one in the cache, and the cache that moves
    between them is that of the whole prompt, over the slowest link."""
    cluster = document["cluster"]
    links = [(pool["inter_node"], pool.get("leaf")) for pool in cluster["pools"]]
    links += [(cluster["inter_pool"], None)] if cluster["inter_pool"] else []
    for served in document["served"]:
        own = [
            (part, document["plans"][part["plan"]])
            for part in document["parts"]
            if part["demand"] == served["demand"]
        ]
        decoding = [plan for part, plan in own if part["role"] == "decode"]
        for plan in decoding:
            loads = plan["workload"]
            what = f"{served['demand']}: cached tokens of decode"
            yield equal(what, loads["prefix_len"], loads["input_len"] - 1)
            tokens = loads["input_len"]
            element = ELEMENT_BYTES[plan["model"]["precision"]["kv_cache"]]
            size = sum(
                sequence_bytes(
                    plan["model"]["layer_types"][name]["attention"], tokens, ONE_RANK, element
                )
                for name in layer_types(plan["model"])
            )
            slowest = max(
                quantity(link["latency"], "s")
                + size
                * (leaf["oversubscription"] if leaf else 1)
                / quantity(link["bandwidth"], "B/s")
                for link, leaf in links
            )
            what = f"{served['demand']}: seconds to move the cache"
            yield equal(what, served["transfer_s"], slowest, 1e-9)
        for part, plan in own:
            if part["role"] == "prefill":
                in_flight = part["share_per_s"] * plan["predictions"]["request_s"]["value"]
                slots = plan["deployments"][0]["batch"]["concurrency"]
                what = f"{served['demand']}: prompts in flight at a peak"
                yield at_most(what, peak(in_flight) * SHORT, slots)
                what = f"{served['demand']}: tokens of prefill"
                yield equal(what, plan["workload"]["output_len"], 1)


def money(document: Json) -> Iterator[Outcome]:
    """The price is the sum of every used GPU's."""
    prices = {pool["name"]: pool["gpu"]["price_per_hour"] for pool in document["cluster"]["pools"]}
    own = [prices[part["pool"]] for part in document["parts"]]
    if any(price is None for price in own):
        yield equal("price an hour", document["price_per_hour"], None)
        return
    total = sum(
        price * len(part["gpus"]) for price, part in zip(own, document["parts"], strict=True)
    )
    yield equal("price an hour", document["price_per_hour"], total, 1e-9)


def fleet_proof(document: Json) -> Iterator[Outcome]:
    """The proof's value is what the parts add up to; its gap follows from value and bound."""
    proof = document["proof"]
    derived = {
        "GPUs": document["gpus"],
        "money": document["price_per_hour"],
        "served": None,
    }[proof["objective"]]
    if derived is not None:
        parts = len(document["parts"])
        planned = proof["value"] / proof["scale"]
        close = abs(planned - derived) <= parts / proof["scale"]
        yield close, f"objective: the proof says {planned:,.9g}, the parts give {derived:,.9g}"
    gap = abs(proof["bound"] - proof["value"]) / max(1, abs(proof["value"]))
    yield equal("gap", proof["gap"], gap)
    yield at_most("bound", proof["bound"], proof["value"])
    status = "OPTIMAL" if proof["bound"] == proof["value"] else "FEASIBLE"
    yield equal("status", proof["status"], status)


FLEET_CHECKS: tuple[Check, ...] = (partition, plans, rates, apart, money, fleet_proof)
