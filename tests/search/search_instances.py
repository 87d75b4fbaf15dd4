"""Small generated jobs: clusters with irregular nodes, dead GPUs, domains of several nodes and two
pools; dense and mixture-of-experts models; forward passes and serving; limits that bind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from optimizer.cost.candidates import Candidates
from optimizer.pipeline import enumerate_spaces, price
from optimizer.spec.cluster import Cluster, Gpu, Link, Pool
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LayerRun,
    LayerType,
    ModelSpec,
    MoeFfn,
    Precision,
)
from optimizer.spec.workload import ForwardWorkload, Limit, PrecisionChoice, ServingWorkload

Workload = ForwardWorkload | ServingWorkload


class Instance(NamedTuple):
    """One job, priced."""

    cluster: Cluster
    model: ModelSpec
    workload: Workload
    candidates: Candidates


def instance(seed: int) -> Instance:
    """The job of a seed: limits are set at quantiles of what the unlimited job needs, or below its
    least need."""
    random = np.random.default_rng(seed)
    model = _model(random)
    cluster = _cluster(random)
    workload = _workload(random)
    free = _priced(cluster, model, workload)
    memory = _threshold(random, free.memory_bytes / (1.0 - workload.memory_margin), 0.35)
    cluster = cluster.model_copy(update={"pools": tuple(_with(p, memory) for p in cluster.pools)})
    workload = _limited(random, workload, free)
    candidates = _priced(cluster, model, workload)
    if seed % 3 == 0:
        candidates = _scrambled(random, candidates)
    return Instance(cluster, model, workload, candidates)


def _scrambled(random: np.random.Generator, candidates: Candidates) -> Candidates:
    """The same candidates at prices that no model would give: ties, absurd values, no numbers."""
    rates = np.exp(random.uniform(0.0, 3.0, 5)) * 10.0 ** random.integers(-3, 9)
    latencies = np.exp(random.uniform(0.0, 3.0, 5)) * 10.0 ** random.integers(-6, 6)
    latencies = np.append(latencies, random.choice([latencies[0], np.inf, np.nan, 1e12, 1e250]))
    return replace(
        candidates,
        tokens_per_s=random.choice(rates, len(candidates)),
        latency_s=random.choice(latencies, len(candidates)),
    )


def _priced(cluster: Cluster, model: ModelSpec, workload: Workload) -> Candidates:
    return price(cluster, model, workload, enumerate_spaces(cluster, model, workload)).candidates


def _threshold(
    random: np.random.Generator, needs: np.ndarray[Any, Any], impossible: float
) -> float:
    """A bound that some needs keep; with a chance of impossible / 4 one that none does."""
    if random.random() < impossible / 4:
        return float(needs.min()) * 0.9
    return float(np.quantile(needs, random.uniform(0.0, 1.0)))


def _with(pool: Pool, memory_bytes: float) -> Pool:
    gpu = pool.gpu.model_copy(update={"memory_bytes": float(np.ceil(memory_bytes))})
    return pool.model_copy(update={"gpu": gpu})


def _limited(random: np.random.Generator, workload: Workload, free: Candidates) -> Workload:
    names = ("latency",) if isinstance(workload, ForwardWorkload) else ("ttft", "tpot")
    limits = {}
    for name in names:
        if random.random() < 0.5:
            seconds = _threshold(random, getattr(free, f"{name}_s"), 0.2)
            limits[name] = Limit(value=f"{seconds!r} s")
    return workload.model_copy(update=limits)


def _cluster(random: np.random.Generator) -> Cluster:
    pools = 2 if random.random() < 0.25 else 1
    return Cluster(pools=tuple(_pool(random, index, 10 // pools) for index in range(pools)))


def _pool(random: np.random.Generator, index: int, most: int) -> Pool:
    nodes = int(random.integers(1, 4))
    if random.random() < 0.5:
        sizes = [int(random.integers(1, max(2, most // nodes + 1)))] * nodes
    else:
        sizes = [int(size) for size in random.integers(1, max(2, most // nodes + 2), nodes)]
    names = [f"node{node}/gpu{gpu}" for node, size in enumerate(sizes) for gpu in range(size)]
    dead = random.permutation(names)[: int(random.integers(0, max(1, len(names) // 3)))]
    return Pool(
        name=f"pool{index}",
        gpu=Gpu(
            memory="1 GiB",
            memory_bandwidth=f"{random.uniform(1, 4):.3f} TB/s",
            flops={"bf16": f"{random.uniform(100, 900):.3f} TFLOP/s"},
        ),
        nodes=nodes,
        node_sizes=tuple(sizes),
        nvlink_domain=max(sizes) + 1 if random.random() < 0.2 else None,
        intra_node=Link(bandwidth="450 GB/s", latency=f"{random.uniform(0, 5):.3f} us"),
        inter_node=Link(bandwidth="50 GB/s", latency=f"{random.uniform(5, 20):.3f} us"),
        dead=tuple(str(name) for name in dead),
    )


def _model(random: np.random.Generator) -> ModelSpec:
    heads = int(random.choice([2, 3, 4, 6, 8]))
    kv_heads = int(random.choice([count for count in range(1, heads + 1) if heads % count == 0]))
    attention = GroupedQueryAttention(num_heads=heads, num_kv_heads=kv_heads, head_dim=64)
    dense = LayerType(attention=attention, ffn=DenseFfn(intermediate_size=1536))
    types, runs = {"dense": dense}, [LayerRun(types=("dense",), repeat=int(random.integers(1, 4)))]
    if random.random() < 0.55:
        experts = int(random.choice([2, 4, 6]))
        ffn = MoeFfn(
            num_experts=experts,
            num_experts_per_token=int(random.integers(1, experts + 1)),
            intermediate_size=int(random.choice([512, 768])),
            shared_intermediate_size=int(random.choice([0, 768])),
        )
        types["moe"] = LayerType(attention=attention, ffn=ffn)
        runs.append(LayerRun(types=("moe",), repeat=int(random.integers(1, 4))))
        if random.random() < 0.5:
            types, runs = {"moe": types["moe"]}, runs[1:]
    return ModelSpec(
        name="small",
        hidden_size=heads * 64,
        vocab_size=4096,
        layer_types=types,
        layers=tuple(runs),
        tied_embeddings=bool(random.random() < 0.3),
        max_context=2048,
        precision=Precision(kv_cache=str(random.choice(["bf16", "fp8"]))),
    )


def _workload(random: np.random.Generator) -> Workload:
    shared: dict[str, Any] = {
        "runtime_reserve": f"{int(random.choice([1, 20]))} MiB",
        "engine": str(random.choice(["any", "vllm", "trtllm"])),
        "precisions": (PrecisionChoice(weights="fp8"),) if random.random() < 0.3 else (),
    }
    kind = random.choice(["forward", "concurrency", "rate", "free"], p=[0.2, 0.25, 0.25, 0.3])
    if kind == "forward":
        return ForwardWorkload(
            batch=int(random.integers(1, 24)),
            seq_len=int(random.choice([64, 96, 1024])),
            max_context_parallel=int(random.choice([1, 2, 3])),
            **shared,
        )
    if kind == "concurrency":
        shared["concurrency"] = int(random.integers(1, 40))
    elif kind == "rate":
        shared["request_rate"] = f"{random.uniform(0.5, 400):.3f} req/s"
    return ServingWorkload(
        input_len=int(random.choice([64, 512, 3000])),
        output_len=int(random.choice([1, 16, 256])),
        **shared,
    )
