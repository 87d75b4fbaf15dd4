"""Changes in steps from mild to severe, and the mildest step that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optimizer.repairing.changes import (
    MATRICES,
    Change,
    with_count,
    with_gpu,
    with_kv_cache,
    with_rate,
    with_weights,
)
from optimizer.repairing.job import Job
from optimizer.spec.cluster import Cluster, ComputeType, Gpu
from optimizer.spec.formats import FORMATS, Format
from optimizer.spec.presets import preset_paths
from optimizer.spec.reading import read_cluster
from optimizer.spec.workload import ForwardWorkload

RATE_STEPS = 256


@dataclass(frozen=True)
class Ladder:
    """Changes step(1) ... step(count); `rising`: after a step that works all others work."""

    count: int
    step: Callable[[int], Change]
    rising: bool = True

    def mildest(self, works: Callable[[Job], bool]) -> int | None:
        """The first step that works, by bisection where the steps rise; None where none does."""
        if not self.rising:
            steps = range(1, self.count + 1)
            return next((number for number in steps if works(self.step(number).job)), None)
        if self.count < 1 or not works(self.step(self.count).job):
            return None
        fails, holds = 0, self.count
        while holds - fails > 1:
            middle = (fails + holds) // 2
            fails, holds = (fails, middle) if works(self.step(middle).job) else (middle, holds)
        return holds

    def samples(self, below: int | None, most: int) -> list[Change]:
        """A few steps that do not work alone, `below` being the first that does: all or the first
        few; the middle one where the steps rise."""
        last = self.count if below is None else below - 1
        if self.rising and last > most:
            return [self.step((last + 1) // 2)]
        return [self.step(number) for number in range(1, min(last, most) + 1)]


def load(job: Job) -> list[Ladder]:
    """Fewer sequences of a batch, fewer requests in flight, fewer a second."""
    found = [_counted(job, name, "load") for name in ("batch", "concurrency")]
    rate = getattr(job.workload, "request_rate", None)
    if rate is not None:

        def step(number: int) -> Change:
            return with_rate(job, float(f"{rate * (1 - number / RATE_STEPS):.3g}"))

        found.append(Ladder(RATE_STEPS - 1, step))
    return [ladder for ladder in found if ladder is not None]


def tokens(job: Job) -> list[Ladder]:
    """Shorter sequences: of a forward pass, of a request's input, of its output."""
    found = [_counted(job, name, "tokens") for name in ("seq_len", "input_len", "output_len")]
    return [ladder for ladder in found if ladder is not None]


def _counted(job: Job, name: str, kind: str) -> Ladder | None:
    count = getattr(job.workload, name, None)
    if count is None or count < 2:
        return None
    return Ladder(count - 1, lambda number: with_count(job, name, count - number, kind))


def kv_cache(job: Job) -> list[Ladder]:
    """The cache in FP8 where it is wider and every GPU computes FP8."""
    wide = FORMATS[job.model.precision.kv_cache].bits > 8
    if isinstance(job.workload, ForwardWorkload) or not wide or not _computes(job, "fp8"):
        return []
    return [Ladder(1, lambda number: with_kv_cache(job, "fp8"))]


def weights(job: Job) -> list[Ladder]:
    """Weights in 8 bits where every GPU computes them, then in 4 (int4 multiplies in 16 bits)."""
    eight: list[Format] = ["fp8"] if _computes(job, "fp8") else []
    four: Format = "nvfp4" if _computes(job, "fp4") else "int4_g128"
    widest = max(FORMATS[getattr(job.model.precision, part)].bits for part in MATRICES)
    kinds = [kind for kind in (*eight, four) if FORMATS[kind].bits < widest]
    return [Ladder(len(kinds), lambda number: with_weights(job, kinds[number - 1]))]


def _computes(job: Job, kind: ComputeType) -> bool:
    return all(kind in pool.gpu.flops_per_s for pool in job.cluster.pools)


def gpu(job: Job) -> list[Ladder]:
    """The presets with more memory that read it no slower, the next larger one first."""
    presets = [read_cluster(name) for name in preset_paths("hardware")]
    found = []
    for pool, held in enumerate(job.cluster.pools):
        larger = [other for other in presets if _is_larger(other.pools[0].gpu, held.gpu)]
        larger.sort(key=lambda other: (other.pools[0].gpu.memory_bytes, other.name))
        found.append(_ladder_of(job, pool, larger))
    return found


def _is_larger(new: Gpu, old: Gpu) -> bool:
    bandwidths = new.memory_bandwidth_bytes_per_s, old.memory_bandwidth_bytes_per_s
    return new.memory_bytes > old.memory_bytes and bandwidths[0] >= bandwidths[1]


def _ladder_of(job: Job, pool: int, larger: list[Cluster]) -> Ladder:
    return Ladder(len(larger), lambda number: with_gpu(job, pool, larger[number - 1]), rising=False)


LADDERS: tuple[Callable[[Job], list[Ladder]], ...] = (load, kv_cache, weights, tokens, gpu)
