"""Collectives from bytes, group and links: rounds of messages, each a latency and a transfer.

Inside a domain every rank reaches every other through a switch at its own link's rate; between
domains ranks of equal place form rings or trees (NCCL's two algorithms). Left out: contention with
other traffic, protocol changes with message size.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from optimizer.spec.cluster import Link, Pool

# Of the datasheet's bandwidth. Inside: NCCL moves 370 of 450 GB/s over an H100's NVLink, the rest
# is protocol (its maintainers, NVIDIA/nccl-tests#212). Between: assumed; headers and congestion.
INSIDE_SHARE = 0.82
BETWEEN_SHARE = 0.9
# Kernel, barriers and the wait for the slowest rank: with it the error of TPOT on the runs of
# benchmarks/data/serving.csv does not grow with the tensor-parallel degree.
START_S = 9e-6


class Tier(NamedTuple):
    """What one rank sends at, one direction, and the latency of one message."""

    bytes_per_s: float
    latency_s: float

    def seconds(self, rounds: float, sent_bytes: float) -> float:
        """So many messages one after the other, sent_bytes in all of them together."""
        return rounds * self.latency_s + sent_bytes / self.bytes_per_s


class Links(NamedTuple):
    """The tiers of a pool; above leaf switches each rank has 1/oversubscription of its link."""

    inside: Tier
    between: Tier
    oversubscription: float = 1.0
    rails: int = 1

    @classmethod
    def of(cls, pool: Pool) -> Self:
        inside = tier_of(pool.intra_node, INSIDE_SHARE)
        between = tier_of(pool.inter_node, BETWEEN_SHARE)
        if pool.leaf is None:
            return cls(inside, between)
        return cls(inside, between, pool.leaf.oversubscription, pool.rails or 1)

    def across(self, near: int, size: int, leaf: int) -> Links:
        """These links as rings meet them: `near` rings leave a leaf of `leaf` ranks of the group,
        over the ranks' shares of the spine together."""
        if leaf >= size:
            return self
        uplink = leaf * self.between.bytes_per_s / self.oversubscription
        rate = min(self.between.bytes_per_s, uplink / near)
        return self._replace(between=self.between._replace(bytes_per_s=rate))


def tier_of(link: Link, share: float) -> Tier:
    """A link at the share of its bandwidth that is reached."""
    return Tier(link.bandwidth_bytes_per_s * share, link.latency_s)


def collective_seconds(
    kind: str,
    payload_bytes: float,
    group_size: int,
    inside: int,
    links: Links,
    leaf: int | None = None,
) -> float:
    """Seconds of one collective; `inside` of its group_size ranks share a domain, `leaf` a leaf
    switch (None: all).

    payload_bytes is what one rank contributes: its whole tensor (all_reduce, reduce_scatter,
    all_to_all, of which 1/group_size stays at home), its share (all_gather), its message
    (send_recv, inside a domain where `inside` is 2).
    """
    if group_size <= 1 or payload_bytes <= 0:
        return 0.0
    near = min(inside, group_size)
    domains = -(-group_size // near)
    leaf = group_size if leaf is None else leaf
    if kind == "all_to_all":
        return START_S + _all_to_all(payload_bytes, group_size, near, max(leaf, near), links)
    links = links.across(near, group_size, leaf)
    if kind == "send_recv":
        tier = links.inside if near > 1 else links.between
        return START_S + tier.seconds(1, payload_bytes)
    if kind == "all_gather":
        return START_S + _gather(payload_bytes * group_size, near, domains, links)
    if kind == "reduce_scatter":  # the all-gather's messages, sent backwards
        return START_S + _gather(payload_bytes, near, domains, links)
    if kind == "all_reduce":
        return START_S + _all_reduce(payload_bytes, near, domains, links)
    raise ValueError(f"no collective is called {kind!r}")


def ring_all_reduce_seconds(whole_bytes: float, ranks: int, tier: Tier) -> float:
    """2 (n - 1) messages of 1/n of the tensor each (Thakur et al., 2005)."""
    return tier.seconds(2 * (ranks - 1), 2 * (ranks - 1) / ranks * whole_bytes)


def tree_all_reduce_seconds(whole_bytes: float, ranks: int, tier: Tier) -> float:
    """Up and down two complementary binary trees, pipelined: each rank sends the whole tensor
    twice over log2 n levels each way (Sanders et al., 2009)."""
    levels = (ranks - 1).bit_length()
    return tier.seconds(2 * levels, 2 * whole_bytes)


def _switched_all_reduce_seconds(whole_bytes: float, ranks: int, tier: Tier) -> float:
    """All to all others at once: the whole tensor in one round, or a reduced shard in each of two,
    whichever is faster."""
    at_once = tier.seconds(1, (ranks - 1) * whole_bytes)
    sharded = tier.seconds(2, 2 * (ranks - 1) / ranks * whole_bytes)
    return min(at_once, sharded)


def _all_reduce(whole_bytes: float, near: int, domains: int, links: Links) -> float:
    """Reduce-scatter in each domain, an all-reduce of each shard between them, all-gather."""
    if domains == 1:
        return _switched_all_reduce_seconds(whole_bytes, near, links.inside)
    shard = whole_bytes / near
    far = min(
        algorithm(shard, domains, links.between)
        for algorithm in (ring_all_reduce_seconds, tree_all_reduce_seconds)
    )
    return far + (2 * links.inside.seconds(1, whole_bytes - shard) if near > 1 else 0.0)


def _gather(whole_bytes: float, near: int, domains: int, links: Links) -> float:
    """A ring between domains brings each rank its place's share of all, one exchange in the domain
    the rest."""
    shard = whole_bytes / near
    far = links.between.seconds(domains - 1, (domains - 1) / domains * shard)
    return far + (links.inside.seconds(1, whole_bytes - shard) if near > 1 else 0.0)


def _all_to_all(payload_bytes: float, size: int, near: int, leaf: int, links: Links) -> float:
    """All messages at once, over all tiers at the same time; to another rail of the leaf either
    through the spine or with a first hop inside the domain. The last domain may hold fewer ranks
    than the others: its ranks send most to other domains."""
    one = payload_bytes / size
    last = size - near * ((size - 1) // near)
    inside = links.inside.seconds(1, one * (near - 1)) if near > 1 else 0.0
    if near == size:
        return inside
    spine = links.between.bytes_per_s / links.oversubscription
    beyond = one * max(0, size - leaf)
    turned = one * max(0, min(leaf, size) - last) * (1 - 1 / links.rails)
    ways = (
        max(inside, (beyond + turned) / spine),
        max(inside + turned / links.inside.bytes_per_s, beyond / spine),
    )
    return max(min(ways), links.between.seconds(1, one * (size - last)))
