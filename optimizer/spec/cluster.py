"""A cluster: pools of equal GPUs in nodes, the links between them, and the GPUs out of order."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from optimizer.spec.frozen import Assumption, Count, Frozen, Name, wrong
from optimizer.units import Bytes, BytesPerSecond, FlopsPerSecond, Latency, Watts

MAX_GPUS = 1_000_000
MAX_NODES = 200_000  # of a pool
MAX_POOLS = 1_000

_GPU_NAME = re.compile(r"node(?P<node>0|[1-9][0-9]{0,6})(/gpu(?P<gpu>0|[1-9][0-9]{0,6}))?")

Generation = Literal["ampere", "ada", "hopper", "blackwell", "cdna3", "generic"]
ComputeType = Literal["fp32", "bf16", "int8", "fp8", "fp4"]


class Gpu(Frozen):
    """One GPU as its datasheet states it; rates are dense, one direction, without sparsity."""

    name: Name = "unnamed"
    generation: Generation = "generic"
    memory_bytes: Bytes = Field(alias="memory")
    memory_bandwidth_bytes_per_s: BytesPerSecond = Field(alias="memory_bandwidth")
    flops_per_s: dict[ComputeType, FlopsPerSecond] = Field(alias="flops", min_length=1)
    power_w: Watts | None = Field(default=None, alias="power")
    price_per_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def peak_flops_per_s(self, compute: ComputeType) -> float:
        """The dense peak for a compute type; a missing 4- or 8-bit rate falls back to 16 bits."""
        fallback: dict[str, tuple[ComputeType, ...]] = {
            "fp4": ("fp4", "bf16", "fp32"),
            "fp8": ("fp8", "bf16", "fp32"),
            "int8": ("int8", "fp8", "bf16", "fp32"),
            "bf16": ("bf16", "fp32", "fp8"),
            "fp32": ("fp32", "bf16", "fp8"),
        }
        return next(
            self.flops_per_s[kind]
            for kind in (*fallback[compute], "fp8", "int8", "fp4")
            if kind in self.flops_per_s
        )


class Link(Frozen):
    """One GPU's share of a tier of links, one direction."""

    bandwidth_bytes_per_s: BytesPerSecond = Field(alias="bandwidth")
    latency_s: Latency = Field(alias="latency")


class Leaf(Frozen):
    """A leaf switch: so many nodes hang on it, and each GPU's share of the spine above it is its
    inter-node bandwidth over `oversubscription`."""

    nodes: Annotated[int, Field(ge=1, le=MAX_NODES, strict=True)]
    oversubscription: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = 1.0


def _is_none(value: object) -> bool:
    """Whether a key that few clusters have is left out of the others' bytes."""
    return value is None


class Domain(NamedTuple):
    """GPUs that reach each other over the intra-node tier: a node, or an NVLink domain of nodes."""

    pool: int
    name: str
    gpus: tuple[str, ...]  # the live ones, in order
    leaf: int = 0  # the leaf switch of its nodes, counted in its pool


class Pool(Frozen):
    """Equal GPUs in nodes. `node_sizes` states irregular nodes; otherwise nodes x gpus_per_node."""

    name: Name = "pool"
    gpu: Gpu
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES, strict=True)] = 1
    gpus_per_node: Annotated[int, Field(ge=1, le=1024, strict=True)] = 8
    node_sizes: tuple[Annotated[int, Field(ge=1, le=1024, strict=True)], ...] | None = None
    nvlink_domain: Count | None = None  # GPUs; None: the node
    intra_node: Link
    inter_node: Link
    leaf: Leaf | None = Field(default=None, exclude_if=_is_none)  # None: one switch for all
    # GPU i of every node hangs on switch i % rails of its leaf; None: all on one.
    rails: Count | None = Field(default=None, exclude_if=_is_none)
    dead: tuple[Name, ...] = ()
    source: Name | None = None  # where the figures come from

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """GPUs of each node, dead ones included."""
        return self.node_sizes or (self.gpus_per_node,) * self.nodes

    @cached_property
    def gpu_names(self) -> tuple[tuple[str, ...], ...]:
        """Names by node, dead ones included: "node0/gpu3"."""
        return tuple(
            tuple(f"node{node}/gpu{gpu}" for gpu in range(size))
            for node, size in enumerate(self.sizes)
        )

    @property
    def spine_bytes_per_s(self) -> float:
        """A GPU's share of the links between leaf switches; of those between nodes without."""
        thinner = self.leaf.oversubscription if self.leaf is not None else 1.0
        return self.inter_node.bandwidth_bytes_per_s / thinner

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.node_sizes is not None and len(self.node_sizes) != self.nodes:
            raise wrong(
                f"must have one entry for each of {self.nodes} nodes, not {len(self.node_sizes)}",
                "node_sizes",
            )
        if sum(self.sizes) > MAX_GPUS:
            raise wrong(
                f"gives {sum(self.sizes):,} GPUs; more than {MAX_GPUS:,} are refused", "nodes"
            )
        unknown = [name for name in self.dead if not self._has(name)]
        if unknown:
            last = f"node{len(self.sizes) - 1}/gpu{self.sizes[-1] - 1}"
            raise wrong(
                f"names {', '.join(unknown[:5])}, which this pool does not have; "
                f"its GPUs are node0/gpu0 ... {last}, its nodes node0 ...",
                "dead",
            )
        if len(set(self.dead)) != len(self.dead):
            raise wrong("names a GPU twice; name each once", "dead")
        self._switches_agree()
        return self

    def _switches_agree(self) -> None:
        if self.leaf is None and self.rails is not None:
            raise wrong(
                "needs the spine that joins the rails; write for example "
                "'leaf: {nodes: 32, oversubscription: 2}'",
                "rails",
            )
        if self.rails is not None and any(size % self.rails for size in self.sizes):
            raise wrong(f"must divide the GPUs of every node; {self.rails} does not", "rails")
        if self.leaf is not None:
            filled = 0
            for node, size in enumerate(self.sizes):
                if filled and node % self.leaf.nodes == 0:
                    raise wrong(
                        f"cuts the NVLink domain of {self.nvlink_domain} GPUs that node{node - 1} "
                        f"shares with node{node}; give whole domains a leaf",
                        "leaf",
                        "nodes",
                    )
                filled += size
                if filled >= (self.nvlink_domain or 0):
                    filled = 0

    def _has(self, name: str) -> bool:
        match = _GPU_NAME.fullmatch(name)
        if match is None or int(match["node"]) >= len(self.sizes):
            return False
        return match["gpu"] is None or int(match["gpu"]) < self.sizes[int(match["node"])]


class Cluster(Frozen):
    """Pools of GPUs; the unit of placement is the domain, inside which the fast links reach."""

    name: Name = "cluster"
    pools: tuple[Pool, ...] = Field(min_length=1, max_length=MAX_POOLS)
    inter_pool: Link | None = None  # None: the slower pool's inter-node link
    assumptions: tuple[Assumption, ...] = ()

    @model_validator(mode="after")
    def _something_lives(self) -> Self:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise wrong(f"share a name: {', '.join(names[:5])}; name each differently", "pools")
        if self.num_gpus > MAX_GPUS:
            raise wrong(f"have {self.num_gpus:,} GPUs; more than {MAX_GPUS:,} are refused", "pools")
        if all(pool.dead for pool in self.pools) and self.num_live_gpus == 0:
            raise wrong("names every GPU there is; one at least must live", "pools", 0, "dead")
        return self

    def between(self, one: int, other: int) -> Link:
        """What joins two pools: inter_pool, or the slower one's inter-node link."""
        own = [self.pools[pool].inter_node for pool in (one, other)]
        return self.inter_pool or min(own, key=lambda link: link.bandwidth_bytes_per_s)

    @cached_property
    def domains(self) -> tuple[Domain, ...]:
        """Every domain with its live GPUs, in file order; GPU names carry the pool if several."""
        found = []
        for index, pool in enumerate(self.pools):
            prefix = f"{pool.name}/" if len(self.pools) > 1 else ""
            dead = set(pool.dead)
            width = pool.nvlink_domain or 0
            members: list[str] = []
            filled = 0
            first = 0
            for node, names in enumerate(pool.gpu_names):
                node_is_dead = f"node{node}" in dead
                if not members and filled == 0:
                    first = node
                members += [
                    prefix + name for name in names if not node_is_dead and name not in dead
                ]
                filled += len(names)
                if filled >= width or node + 1 == len(pool.gpu_names):
                    label = f"node{first}" if first == node else f"node{first}-{node}"
                    leaf = first // pool.leaf.nodes if pool.leaf is not None else 0
                    found.append(Domain(index, prefix + label, tuple(members), leaf))
                    members, filled = [], 0
        return tuple(found)

    @property
    def leaves_apart(self) -> Cluster:
        """The same cluster with each domain under a leaf of its own: no two are promised to
        meet."""
        pools = tuple(
            pool
            if pool.leaf is None
            else pool.model_copy(update={"leaf": pool.leaf.model_copy(update={"nodes": 1})})
            for pool in self.pools
        )
        return Cluster(  # a copy would keep the domains that are known
            name=self.name,
            pools=pools,
            inter_pool=self.inter_pool,
            assumptions=self.assumptions,
        )

    @cached_property
    def live_sizes(self) -> tuple[dict[int, int], ...]:
        """For each pool: how many of its domains have so many live GPUs, empty ones left out."""
        found: list[Counter[int]] = [Counter() for _ in self.pools]
        for domain in self.domains:
            if domain.gpus:
                found[domain.pool][len(domain.gpus)] += 1
        return tuple(dict(sizes) for sizes in found)

    def live_gpus(self, pool: int) -> int:
        return sum(size * many for size, many in self.live_sizes[pool].items())

    @cached_property
    def num_live_gpus(self) -> int:
        return sum(len(domain.gpus) for domain in self.domains)

    @cached_property
    def num_gpus(self) -> int:
        return sum(sum(pool.sizes) for pool in self.pools)
