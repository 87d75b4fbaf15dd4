"""What a launch will do for a workload, and the best plan on the same GPUs."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import NamedTuple

import numpy as np

from optimizer.audit.better import NOTABLE
from optimizer.audit.launch.capacity import Capacity, capacity_of
from optimizer.audit.launch.decode_context import divides_cache, price_shared_cache
from optimizer.audit.launch.launch import Launch
from optimizer.cost.calibration import load_calibration
from optimizer.cost.rows import Rows
from optimizer.errors import InfeasibleError
from optimizer.layout import Layouts, ParallelLayout
from optimizer.pipeline import jobs_for, optimize, price, space_of
from optimizer.plan import Plan
from optimizer.spec.cluster import Cluster
from optimizer.spec.workload import ForwardWorkload, ServingWorkload
from optimizer.units import milliseconds

Best = Plan | InfeasibleError


class Served(NamedTuple):
    """A launch under a workload: means of a request, and how many run at once of those asked."""

    ttft_s: float
    tpot_s: float
    request_s: float
    tokens_per_s: float
    running: int  # over the whole deployment
    asked: int
    limited_by: str

    def line(self) -> str:
        """All of it with 80 % intervals."""
        wide = load_calibration().interval
        times = ", ".join(
            f"{name} {milliseconds(value)} ({milliseconds(value * exp(-width))} to "
            f"{milliseconds(value * exp(width))})"
            for name, value, width in (
                ("TTFT", self.ttft_s, wide.ttft),
                ("TPOT", self.tpot_s, wide.tpot),
            )
        )
        waiting = self.asked - self.running
        rest = f"; {waiting:,} of {self.asked:,} requests wait ({self.limited_by})"
        return (
            f"predicted {times}, {self.tokens_per_s:,.0f} tokens/s with {self.running:,} requests "
            f"in flight{rest if waiting > 0 else ''}"
        )


def served(
    launch: Launch, cluster: Cluster, workload: ServingWorkload, capacity: Capacity
) -> Served | None:
    """The launch under the workload; None where not one request fits its cache, or the cost model
    has no such layout.

    Requests beyond what the engine admits or the cache holds wait; times are of those that run.
    """
    layout = _grouped(launch.layout)
    shared = launch.cache_shards
    if layout is None or unpriced(launch):
        return None
    length = workload.input_len + workload.output_len
    fitting = capacity_of(launch, capacity.total_bytes, length)
    held = int(fitting.requests)
    if not held:
        return None
    most = min(launch.sequences, held)
    limited = launch.sequences_flag if launch.sequences <= held else "the KV cache is full"
    ranks = layout.dp * layout.replicas
    asked = workload.concurrency or most * ranks
    sequences = min(most, -(-asked // ranks))
    running = min(asked, sequences * ranks)
    rows_of = _exact(layout, sequences, min(launch.step_tokens, workload.input_len))
    asked_for = workload.model_copy(
        update={"concurrency": running, "request_rate": None, "memory_margin": 0.0}
        | {"engine": launch.engine, "precisions": ()}
    )
    spaces = [space_of(cluster, pool, layout) for pool in range(len(cluster.pools))]
    name = f"canonical:{layout.name}"
    if shared > 1:
        jobs = jobs_for(cluster, launch.model, asked_for, spaces, name)
        found = price_shared_cache(jobs, spaces, rows_of, shared)
    else:
        found = price(cluster, launch.model, asked_for, spaces, name, rows_of).candidates
    if not len(found.ttft_s):
        return None
    best = int(np.argmax(found.tokens_per_s))
    rate = float(found.tokens_per_s[best]) * layout.replicas
    return Served(
        float(found.ttft_s[best]),
        float(found.tpot_s[best]),
        float(found.latency_s[best]),
        rate,
        running,
        asked,
        limited,
    )


def unpriced(launch: Launch) -> str:
    """What a launch has that the cost model has not; "" where nothing."""
    if launch.layout is not None and _grouped(launch.layout) is None:
        return "an attention group spans several copies of the experts"
    if launch.cache_shards > 1 and not divides_cache(launch.model):
        return "decode context parallelism of windows, chunks or chosen tokens"
    return ""


def _grouped(layout: ParallelLayout | None) -> ParallelLayout | None:
    """A layout without copies of experts inside a replica: where the copies divide the attention
    ranks too, each copy with its ranks is a replica of its own, to the byte and the second; None
    where one attention group spans several copies."""
    if layout is None or layout.edp == 1:
        return layout
    if layout.dp % layout.edp:
        return None
    groups = {"dp": layout.dp // layout.edp, "edp": 1, "replicas": layout.replicas * layout.edp}
    return layout.model_copy(update=groups)


def _exact(layout: ParallelLayout, sequences: int, chunk: int) -> Callable[..., Rows]:
    """The one row that a launch runs, in each way its stages may lie: `rows_of` of the pipeline."""

    def rows_of(
        layouts: Layouts,
        workload: ForwardWorkload | ServingWorkload,
        num_gpus: int,
        replicas: int | None = None,
    ) -> Rows:
        count = len(layouts)
        numbers = (sequences, chunk, min(layout.pp, sequences), layout.replicas, layout.replicas)
        columns = (np.full(count, number, dtype=np.int64) for number in numbers)
        return Rows(np.arange(count), *columns)

    return rows_of


def same_gpus(cluster: Cluster, gpus: int) -> Cluster:
    """The cluster with so many live GPUs, the first ones; the others count as dead."""
    surplus = cluster.num_live_gpus - gpus
    pools = []
    for pool in reversed(cluster.pools):
        dead = list(pool.dead)
        for names in reversed(pool.gpu_names):
            live = [name for name in names if name not in dead and name.split("/")[0] not in dead]
            cut = live[max(0, len(live) - surplus) :] if surplus > 0 else []
            dead += cut
            surplus -= len(cut)
        pools.append(pool.model_copy(update={"dead": tuple(dead)}))
    kept = tuple(pool for pool in reversed(pools) if _lives(pool.gpu_names, pool.dead))
    return Cluster(name=cluster.name, pools=kept, inter_pool=cluster.inter_pool)


def _lives(gpu_names: tuple[tuple[str, ...], ...], dead: tuple[str, ...]) -> bool:
    gone = set(dead)
    return any(
        name not in gone and name.split("/")[0] not in gone for node in gpu_names for name in node
    )


def best_plan(
    launch: Launch, cluster: Cluster, workload: ServingWorkload, running: int | None
) -> Best:
    """The best plan on the launch's number of GPUs for as many requests in flight (None: any)."""
    asked = workload.model_copy(
        update={"concurrency": running, "request_rate": None, "engine": launch.engine}
    )
    try:
        return optimize(same_gpus(cluster, launch.gpus), launch.model, asked, top=1).best
    except InfeasibleError as error:
        return error


def compared(launch: Launch, now: Served | None, best: Best) -> str:
    """The best plan beside the launch, in one line."""
    if isinstance(best, InfeasibleError):
        return f"no plan on {launch.gpus} GPUs: {'; '.join(best.reasons[:3])}"
    numbers = {name: prediction.value for name, prediction in best.predictions.items()}
    rate = numbers["tokens_per_s_per_gpu"] * best.deployment.gpus
    on = f"{best.name} on {best.deployment.gpus} of its {launch.gpus} GPUs"
    if now is None:
        return (
            f"{on} runs: TTFT {milliseconds(numbers['ttft_s'])}, TPOT "
            f"{milliseconds(numbers['tpot_s'])}, {rate:,.0f} tokens/s"
        )
    if launch.layout is not None and best.name == launch.layout.name:
        return f"{best.name} is the best layout for this workload"
    if rate * NOTABLE < now.tokens_per_s:
        return (
            f"{now.tokens_per_s / rate:.2f} x the tokens/s of the best plan for this workload, {on}"
        )
    if rate < NOTABLE * now.tokens_per_s:
        return f"within 1 % of the best plan for this workload, {on}"
    return (
        f"{on} gives {rate / now.tokens_per_s:.2f} x its tokens/s and "
        f"1/{now.request_s / numbers['request_s']:.2f} of its latency: TTFT "
        f"{milliseconds(numbers['ttft_s'])}, TPOT {milliseconds(numbers['tpot_s'])}"
    )
