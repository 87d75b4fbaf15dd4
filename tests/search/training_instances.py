"""Small training jobs, and their best step by trying everything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np

from optimizer.cost.training.cuts import cut_pieces, price_cut
from optimizer.layout import enumerate_training_layouts
from optimizer.search.room import rooms
from optimizer.search.training.candidates import candidates_of
from optimizer.search.training.choices import expand, pairs_of
from optimizer.search.training.job import TrainingJob, training_jobs
from optimizer.spec.cluster import Cluster, Pool
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import TrainingWorkload

DENSE = {"kind": "dense", "intermediate_size": 4096, "gated": False}
MOE = {"kind": "moe", "num_experts": 4, "num_experts_per_token": 2, "intermediate_size": 1024}
ATTENTION = {"kind": "gqa", "num_heads": 8, "num_kv_heads": 8, "head_dim": 128}


def cluster(sizes: tuple[int, ...], memory: str, dead: tuple[str, ...] = ()) -> Cluster:
    """Nodes of so many GPUs as an A100's with little memory."""
    pool = Pool.model_validate(
        {
            "gpu": {
                "generation": "ampere",
                "memory": memory,
                "memory_bandwidth": "2039 GB/s",
                "flops": {"bf16": "312 TFLOP/s"},
            },
            "nodes": len(sizes),
            "gpus_per_node": max(sizes),
            "node_sizes": list(sizes) if len(set(sizes)) > 1 else None,
            "intra_node": {"bandwidth": "300 GB/s", "latency": "3 us"},
            "inter_node": {"bandwidth": "25 GB/s", "latency": "10 us"},
            "dead": list(dead),
        }
    )
    return Cluster(pools=(pool,))


def model(layers: int, experts: bool = False, lead: int = 0, **changes: Any) -> ModelSpec:
    """A few layers: dense ones, or experts behind leading dense ones."""
    kinds = {"dense": {"attention": ATTENTION, "ffn": DENSE}}
    runs = [{"types": ["dense"], "repeat": layers}]
    if experts:
        kinds["moe"] = {"attention": ATTENTION, "ffn": MOE}
        runs = [{"types": ["moe"], "repeat": layers - lead}]
        if lead:
            runs.insert(0, {"types": ["dense"], "repeat": lead})
        else:
            del kinds["dense"]
    data = {
        "name": "small",
        "hidden_size": 1024,
        "vocab_size": 8192,
        "layer_types": kinds,
        "layers": runs,
        **changes,
    }
    return ModelSpec.model_validate(data)


def workload(batch: int, **changes: Any) -> TrainingWorkload:
    """Sequences of 2,048 tokens, a reserve of 100 MB."""
    data = {"global_batch": batch, "sequence_length": 2048, "runtime_reserve": "0.1 GB", **changes}
    return TrainingWorkload.model_validate({"memory_margin": 0.0, **data})


def cuts(layers: int, chunks: int) -> Iterator[tuple[int, ...]]:
    """Layers of each chunk: the first may hold the embedding alone, the last the head alone."""
    if chunks == 1:
        yield (layers,)
        return
    for ends in combinations(range(layers + chunks), chunks - 1):
        bounds = (-1, *ends, layers + chunks - 1)
        sizes = tuple(b - a - 1 for a, b in pairwise(bounds))
        if sum(sizes) == layers and all(size > 0 for size in sizes[1:-1]):
            yield sizes


def by_hand(job: TrainingJob, by_layer: bool = False) -> tuple[float, str] | None:
    """(least step, layout) over every layout, choice, cut and recomputation; None: none fits."""
    space = enumerate_training_layouts(job.cluster, job.pool, job.model, job.workload)
    best: tuple[float, str] | None = None
    rows, _ = expand(job, space.layouts, pairs_of(job, space.layouts))
    placed = candidates_of(job, 0, rows, rows.recompute, rows.recompute + 1.0, rows.recompute + 0.0)
    room = rooms(job.cluster, placed) > 0
    for index in np.flatnonzero(room):
        row = rows.take(np.array([index]))
        for step in _steps(job, row, by_layer):
            if best is None or step < best[0]:
                best = step, placed.layout(int(index), 1).name
    return best


def _steps(job: TrainingJob, row: Any, by_layer: bool) -> Iterator[float]:
    pp, vp = int(row.pp[0]), int(row.vp[0])
    kinds, names = list(job.model.layer_types), job.model.layer_names
    modes = tuple(job.modes.values())
    pieces = cut_pieces(job.model, row, job.rates, job.step, modes)
    ways = (
        product(range(len(modes)), repeat=len(names))
        if by_layer
        else ((mode,) * len(names) for mode in range(len(modes)))
    )
    limit = job.memory_limit_bytes - job.reserve_bytes
    for chosen in list(ways):
        for sizes in cuts(len(names), pp * vp):
            counts = np.zeros((pp, len(kinds), len(modes)), dtype=np.int64)
            chunk_of = [chunk for chunk, size in enumerate(sizes) for _ in range(size)]
            for layer, (name, mode) in enumerate(zip(names, chosen, strict=True)):
                counts[chunk_of[layer] % pp, kinds.index(name), mode] += 1
            for mtp_mode in {chosen[-1]} if job.step.mtp_layers else {chosen[0]}:
                priced = price_cut(pieces, counts, job.rates, mtp_mode)
                if float(priced.memory.allocated[0]) <= limit:
                    yield float(priced.step.step_s[0])


def job_of(cluster: Cluster, model: ModelSpec, workload: TrainingWorkload) -> TrainingJob:
    """The only job of a cluster with one pool."""
    (job,) = training_jobs(cluster, model, workload)
    return job
