"""Replicas over two pools: cuts and choices against plain loops over every stage and every cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from optimizer.cost.cuts import largest
from optimizer.cost.job import step_columns
from optimizer.cost.parts import jobs_of
from optimizer.cost.price import Step, part_seconds
from optimizer.cost.pricing import correction, memory_of, price_steps
from optimizer.cost.quickest import price_spanning
from optimizer.cost.rows import Rows, expand
from optimizer.cost.shares import best_cuts, cut_of
from optimizer.cost.spanning import Spanning
from optimizer.cost.stages import stages_of
from optimizer.layout import Split, enumerate_layouts, spanning_spaces
from optimizer.operators import BOUNDARY, EMBEDDING, HEAD, lower
from optimizer.spec.cluster import Cluster, Gpu, Link, Pool
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LayerRun,
    LayerType,
    ModelSpec,
    MoeFfn,
)
from optimizer.spec.workload import ForwardWorkload, ServingWorkload

ATTENTION = GroupedQueryAttention(num_heads=4, num_kv_heads=2, head_dim=64)
MODEL = ModelSpec(
    name="small",
    hidden_size=256,
    vocab_size=8192,
    layer_types={
        "dense": LayerType(attention=ATTENTION, ffn=DenseFfn(intermediate_size=1536)),
        "moe": LayerType(
            attention=ATTENTION,
            ffn=MoeFfn(
                num_experts=4,
                num_experts_per_token=2,
                intermediate_size=512,
                shared_intermediate_size=0,
            ),
        ),
    },
    layers=(LayerRun(types=("dense",), repeat=2), LayerRun(types=("moe",), repeat=3)),
    tied_embeddings=True,
)


def pool(name: str, gpus: int, memory: str, bandwidth: str, flops: str) -> Pool:
    return Pool(
        name=name,
        gpu=Gpu(memory=memory, memory_bandwidth=bandwidth, flops={"bf16": flops}),
        nodes=1,
        gpus_per_node=gpus,
        intra_node=Link(bandwidth="300 GB/s", latency="3 us"),
        inter_node=Link(bandwidth="25 GB/s", latency="10 us"),
    )


def cluster(first_memory: str = "66 MiB") -> Cluster:
    return Cluster(
        pools=(
            pool("large", 4, first_memory, "3 TB/s", "900 TFLOP/s"),
            pool("small", 3, "46 MiB", "1 TB/s", "300 TFLOP/s"),
        )
    )


def stages_as(layers: tuple[int, ...], pp: int) -> list[tuple[int, ...]]:
    ends = combinations(range(1, len(layers)), pp - 1)
    return [tuple(b - a for a, b in pairwise((0, *each, len(layers)))) for each in ends]


@pytest.mark.parametrize("seed", range(20))
def test_cuts_of_a_pools_layers_are_the_best_of_all(seed: int) -> None:
    """Every number of layers and stages against every cut; the end is on the first stage."""
    random = np.random.default_rng(seed)
    layers = tuple(random.integers(1, 30, random.integers(2, 8)).tolist())
    end = int(random.integers(0, 40))
    for stages in range(1, len(layers) + 1):
        cuts = best_cuts(layers, end, stages).sizes
        for count in range(stages, len(layers) + 1):
            turned = layers[:count][::-1]
            found = largest(turned, end, cuts[count][::-1])
            assert found == min(largest(turned, end, cut) for cut in stages_as(turned, stages))


def one_step(
    job: Spanning, rows: Rows, split: Split, row: int, cut: tuple[int, ...]
) -> dict[str, Step]:
    """Steps of one row, stage by stage: what each stage runs, in its own pool, and its send."""
    one = rows.take(np.array([row]))
    own = int(split.stages[one.layout[0]])
    found = {}
    for phase in step_columns(job.first, one, split.shares[0]):
        seconds = []
        for each, share in zip(job.jobs, split.shares, strict=True):
            columns = step_columns(each, one, share)[phase]
            families = lower(job.model, job.workload.engine)
            parts = part_seconds(families, columns, each.device, each.constants)
            seconds.append({name: float(value[0]) for name, value in parts.items()})
        columns = step_columns(job.first, one, split.shares[0])[phase]
        payload = float(columns["tokens"][0]) * MODEL.hidden_size * 2 / float(columns["tp"][0])
        constants, link = job.first.constants, job.cluster.between(0, 1)
        crossing = 0.5 * constants.collective_s + link.latency_s
        crossing += payload / link.bandwidth_bytes_per_s / constants.link_efficiency
        busy, at = [], 0
        for stage, size in enumerate(cut):
            here = seconds[stage >= own]
            total = sum(here[name] for name in MODEL.layer_names[at : at + size])
            total += here[EMBEDDING] * (stage == 0) + here[HEAD] * (stage == len(cut) - 1)
            busy.append(total)
            at += size
        sends = [seconds[stage >= own][BOUNDARY] for stage in range(len(cut) - 1)]
        sends[own - 1] = crossing
        # A pool's stages are all charged its slowest hand-over.
        most = [max(sends[:own]), max(sends[own:], default=0.0)]
        slowest = max(total + most[stage >= own] for stage, total in enumerate(busy))
        found[phase] = Step(np.array([sum(busy) + sum(sends)]), np.array([slowest]))
    return found


def by_plain_loops(job: Spanning, rows: Rows, split: Split) -> dict[tuple[int, ...], float]:
    """Layout and load -> the least latency over chunks, micro-batches and layers in the first pool,
    of those that keep every limit."""
    best: dict[tuple[int, ...], float] = {}
    types = tuple(MODEL.layer_types)
    for row in range(len(rows)):
        layout = int(rows.layout[row])
        own = int(split.stages[layout]), int(split.layouts.pp[layout] - split.stages[layout])
        one = rows.take(np.array([row]))
        memory = memory_of(job.first, one, split.layouts)
        limits = [job.first.memory_limit_bytes] * own[0] + [job.second.memory_limit_bytes] * own[1]
        for layers in range(own[0], MODEL.num_layers - own[1] + 1):
            cut = cut_of(MODEL, own, layers)
            held = [
                sum(memory.stage(types, stage, 0).values())
                for stage in stages_of(MODEL.layer_names, types, cut)
            ]
            if any(have > limit for have, limit in zip(held, limits, strict=True)):
                continue
            steps = one_step(job, rows, split, row, cut)
            drawn = correction(job.first, one, split.layouts)
            priced = price_steps(job.first, one, split.layouts, steps, drawn, np.zeros(1))
            times = [name for name in priced.limits if name in ("ttft", "tpot", "latency")]
            if any(priced.needs[name][0] > priced.limits[name][0] for name in times):
                continue
            key = (layout, int(rows.sequences[row]), int(rows.replicas_min[row]))
            best[key] = min(best.get(key, np.inf), float(priced.latency_s[0]))
    return best


def jobs_and_rows(
    workload: ServingWorkload | ForwardWorkload,
) -> tuple[Spanning, Rows, Split]:
    both = cluster()
    own = [enumerate_layouts(both, each, MODEL, workload) for each in range(2)]
    space = spanning_spaces(both, [each.layouts for each in own], MODEL.num_layers)[0]
    jobs = jobs_of(both, MODEL, workload, spaces=[*own, space])
    assert isinstance(jobs[-1], Spanning)
    few = space.split.take(np.arange(0, len(space.split), 2))
    room = few.replicas(both, space.pools) * few.layouts.gpus_per_replica
    rows = expand(few.layouts, workload, room)
    return jobs[-1], rows.take(rows.sequences <= 24), few


@pytest.mark.parametrize(
    "workload",
    [
        ServingWorkload(input_len=96, output_len=32, runtime_reserve="8 MiB"),
        ServingWorkload(
            input_len=96, output_len=32, concurrency=24, runtime_reserve="8 MiB", tpot="1.5 ms"
        ),
        ForwardWorkload(batch=12, seq_len=64, runtime_reserve="8 MiB"),
    ],
    ids=["free", "limited", "forward"],
)
def test_the_number_of_layers_in_each_pool_is_the_best_of_all(
    workload: ServingWorkload | ForwardWorkload,
) -> None:
    job, rows, split = jobs_and_rows(workload)
    expected = by_plain_loops(job, rows, split)
    found = price_spanning(job, rows, split)
    keeps = np.flatnonzero(found.broken() == 0)
    assert len(expected) >= 4
    assert len(found) + sum(found.settled.values()) == len(rows)
    latencies = sorted(expected.values())
    assert sorted(found.latency_s[keeps].tolist()) == pytest.approx(latencies, rel=1e-12)
    assert len({tuple(found.layers[pool][keeps].tolist()) for pool in (0, 1)}) == 2
