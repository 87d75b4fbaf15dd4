"""Other people's remedies, priced on one layout: bytes of the fullest GPU, and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from optimizer.errors import InfeasibleError, Problem, SpecError
from optimizer.layout import divisibility_problems
from optimizer.pipeline import readings
from optimizer.repairing.changes import (
    with_count,
    with_gpu,
    with_gpus,
    with_kv_cache,
    with_weights,
)
from optimizer.repairing.job import Job
from optimizer.repairing.outlook import memory_of_row, price_few
from optimizer.search.choosing import broken_limits, nearest_row
from optimizer.spec.formats import Format
from optimizer.spec.reading import read_cluster
from optimizer.spec.workload import ForwardWorkload, ServingWorkload, TrainingWorkload

Verdict = Literal["better", "worse", "no change"]


class State(NamedTuple):
    """One layout under one job: its fullest GPU, its time, the limits that it breaks."""

    gpu_bytes: float
    allowed_bytes: float
    components: Mapping[str, float]
    seconds: float  # of a forward pass, or a request's mean time per output token
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Remedy:
    """A remedy with the state before and after it."""

    name: str
    text: str
    before: State
    after: State

    @property
    def verdict(self) -> Verdict:
        """Fewer limits broken, else fewer bytes against what is allowed, is better."""
        pairs = (
            (len(self.after.broken), len(self.before.broken)),
            (
                self.after.gpu_bytes / self.after.allowed_bytes,
                self.before.gpu_bytes / self.before.allowed_bytes,
            ),
        )
        for after, before in pairs:
            if after != before:
                return "better" if after < before else "worse"
        return "no change"


def price_remedies(job: Job, remedies: Sequence[str]) -> tuple[Remedy, ...]:
    """Each remedy alone ("batch=64", "weights=fp16", "recompute"; see REMEDIES).

    Priced on the job's strategy, or on the best layout where it names none; the load is held still.
    """
    if isinstance(job.workload, TrainingWorkload):
        raise SpecError(
            Problem(
                "remedies are of inference; of training the search takes recompute, sharding and "
                "schedules itself, and the workload says which: recompute: [none, selective, full]"
            )
        )
    job = _held_still(job)
    before = _state(job)
    found = []
    for name in remedies:
        key, _, value = name.partition("=")
        if key.strip() not in REMEDIES:
            known = ", ".join(REMEDIES)
            raise SpecError(
                Problem(f"'{name[:60]}' is no remedy; write one of {known}, as batch=64")
            )
        changed, text = REMEDIES[key.strip()](job, value.strip())
        found.append(Remedy(name, text, before, _state(changed)))
    return tuple(found)


def _held_still(job: Job) -> Job:
    """The job with its layout named, and as many requests in flight as the layout would take."""
    candidates = price_few(job).candidates
    row = nearest_row(candidates)
    layout = candidates.layout(row, int(candidates.replicas_min[row]))
    requests = layout.dp * layout.replicas
    try:
        plan = job.plan().best
        layout, requests = plan.deployment.layout, int(plan.deployment.batch.concurrency)
    except InfeasibleError:
        if job.strategy is not None:
            layout = readings(job.cluster, job.model, job.strategy)[0].layout
    workload = job.workload
    if isinstance(workload, ServingWorkload) and workload.concurrency is None:
        workload = workload.model_copy(update={"concurrency": requests, "request_rate": None})
    return job._replace(strategy=f"canonical:{layout.name}", workload=workload)


def _state(job: Job) -> State:
    priced = price_few(job)
    candidates = priced.candidates
    row = nearest_row(candidates)
    memory = memory_of_row(priced, row)
    stage = memory.stages[memory.fullest_stage]
    forward = isinstance(job.workload, ForwardWorkload)
    seconds = candidates.latency_s if forward else candidates.tpot_s
    return State(
        memory.fullest_bytes,
        memory.limit_bytes,
        stage.components,
        float(seconds[row]),
        tuple(broken_limits(candidates, row)),
    )


def _counted(name: str, kind: str) -> Callable[[Job, str], tuple[Job, str]]:
    def change(job: Job, value: str) -> tuple[Job, str]:
        if getattr(job.workload, name, None) is None:
            raise SpecError(Problem(f"{name}: this workload has none"))
        found = with_count(job, name, _whole(name, value), kind)
        return found.job, found.text

    return change


def _whole(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 0 < int(value[:12]) <= 10**9:
        raise SpecError(Problem(f"{name}={value[:20]}: must be a whole number from 1 to 10^9"))
    return int(value)


def _weights(job: Job, value: str) -> tuple[Job, str]:
    kind: Format | None = next((known for known in get_args(Format) if known == value), None)
    if kind is None:
        raise SpecError(
            Problem(f"weights={value[:20]}: must be one of {', '.join(get_args(Format))}")
        )
    found = with_weights(job, kind, only_wider=False)
    return found.job, found.text


def _kv_cache(job: Job, value: str) -> tuple[Job, str]:
    allowed = ("fp32", "bf16", "fp16", "fp8", "int8")
    if value not in allowed:
        raise SpecError(Problem(f"kv_cache={value[:20]}: must be one of {', '.join(allowed)}"))
    found = with_kv_cache(job, value)
    if isinstance(job.workload, ForwardWorkload):
        return found.job, f"{found.text}: a forward pass keeps no cache"
    return found.job, found.text


def _gpus(job: Job, value: str) -> tuple[Job, str]:
    more = _whole("gpus", value) - job.cluster.num_live_gpus
    if more <= 0:
        raise SpecError(Problem(f"gpus={value}: must be more than {job.cluster.num_live_gpus}"))
    found = with_gpus(job, 0, more)
    return found.job, found.text


def _gpu(job: Job, value: str) -> tuple[Job, str]:
    found = with_gpu(job, 0, read_cluster(value))
    return found.job, found.text


def _strategy(job: Job, value: str) -> tuple[Job, str]:
    layout = readings(job.cluster, job.model, value)[0].layout
    problems = divisibility_problems(layout, job.model, job.workload)
    if problems:
        raise SpecError(Problem(f"strategy={value[:40]}: {'; '.join(problems)}"))
    return job._replace(strategy=f"canonical:{layout.name}"), f"layout {layout.name}"


def _memory_margin(job: Job, value: str) -> tuple[Job, str]:
    try:
        margin = float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        margin = -1.0
    if not 0 <= margin < 1:
        raise SpecError(Problem(f"memory_margin={value[:20]}: must be a share such as 0.1 or 10%"))
    workload = job.workload.model_copy(update={"memory_margin": margin})
    text = f"memory margin {job.workload.memory_margin:.0%} -> {margin:.0%}: frees nothing"
    return job._replace(workload=workload), text


def _recompute(job: Job, value: str) -> tuple[Job, str]:
    """Gradient checkpointing drops what a backward pass would read; inference has none."""
    return job, "nothing to recompute: inference keeps no activations for a backward pass"


REMEDIES: Mapping[str, Callable[[Job, str], tuple[Job, str]]] = {
    "batch": _counted("batch", "load"),
    "concurrency": _counted("concurrency", "load"),
    "seq_len": _counted("seq_len", "tokens"),
    "input_len": _counted("input_len", "tokens"),
    "output_len": _counted("output_len", "tokens"),
    "weights": _weights,
    "kv_cache": _kv_cache,
    "gpus": _gpus,
    "gpu": _gpu,
    "strategy": _strategy,
    "memory_margin": _memory_margin,
    "recompute": _recompute,
    "gradient_checkpointing": _recompute,
}
