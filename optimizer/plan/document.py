"""The plan: what to run, where it lies, what it is predicted to do and why it was chosen.

A plan embeds its specs, so that all that comes after it reads only it; it is itself a valid input.
Its JSON Schema ships as configs/schema/plan.json.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from optimizer.layout import ParallelLayout
from optimizer.plan.numbers import Number, is_none
from optimizer.plan.tables import PhaseTable
from optimizer.plan.training import Training
from optimizer.spec.cluster import Cluster
from optimizer.spec.frozen import Assumption, Frozen
from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.workload import Workload

SCHEMA_VERSION = "1.0"


class Prediction(Frozen):
    """A predicted number with its 80 % interval and where it comes from."""

    value: Number
    low: Number
    high: Number
    source: str


class Batch(Frozen):
    """What runs at once: sequences of one attention rank, prefill tokens of one step, and the
    requests in flight of one replica and of all."""

    sequences_per_rank: int
    prefill_chunk: int
    micro_batches: int
    concurrency_per_replica: Number
    concurrency: Number


class RankPart(Frozen):
    """What one rank of a replica holds; ranges are inclusive ("0-7"), "" is nothing.

    heads, kv_heads and linear_heads are of its tensor-parallel shard; experts of its expert rank,
    each cut over etp ranks of which this one holds part `etp`.
    """

    rank: int
    stage: int
    tp: int
    cp: int
    dp: int
    ep: int
    etp: int
    edp: int | None = Field(default=None, exclude_if=is_none)  # training: copies of its experts
    layers: str
    heads: str
    kv_heads: str
    linear_heads: str
    experts: str
    embedding: bool
    head: bool


Inside = dict[Literal["tp", "cp", "dp", "pp"], int]


class Placement(Frozen):
    """Which rank holds what, and on which GPU it lies.

    rank_gpu[replica][rank] names the GPU of a rank; stage_layers[s] is (first, one past the last)
    layer of stage s, or of chunk s where stages are interleaved (stage = s % pp); `span` GPUs of a
    stage share a domain; `inside` says how many ranks of each group do, and how many stages, where
    that is not what comes of ranks in order. Groups list ranks of one replica.
    """

    span: int
    inside: Inside | None = Field(default=None, exclude_if=is_none)
    stage_layers: tuple[tuple[int, int], ...]
    ranks: tuple[RankPart, ...]
    groups: dict[Literal["tp", "cp", "dp", "ep", "etp", "edp", "pp"], tuple[tuple[int, ...], ...]]
    rank_gpu: tuple[tuple[str, ...], ...]
    idle_gpus: tuple[str, ...]
    expert_slots: tuple[tuple[int, ...], ...] | None = None


class StageMemory(Frozen):
    """Bytes of one rank of a stage (the fullest: shards are rounded up) by component; where stages
    lie in several pools, the limit of its own."""

    stage: int
    components: dict[str, Number]
    total_bytes: Number
    limit_bytes: Number | None = Field(default=None, exclude_if=is_none)


class Memory(Frozen):
    """Memory of each stage beside the GPU's: limit = GPU less the margin. The fullest stage is the
    one that fills most of its limit; GPU and limit are those of its pool."""

    gpu_bytes: Number
    limit_bytes: Number
    fullest_stage: int
    fullest_bytes: Number
    stages: tuple[StageMemory, ...]


class Balance(Frozen):
    """Largest over mean across the ranks of a replica: 1.0 is perfect."""

    weight_bytes: Number
    memory_bytes: Number
    layers: Number
    experts: Number
    idle_gpus: int


class PoolShare(Frozen):
    """The stages of every replica that lie in one pool, and the layers on them; `span` GPUs of such
    a stage share a domain."""

    pool: str
    stages: int
    layers: int
    span: int


class Deployment(Frozen):
    """One model in one role on one pool, or with the stages of its replicas in several: `shares`
    says where, in their order; `pool` and the placement's span are then those of the first."""

    role: Literal["forward", "serving", "prefill", "decode", "training"]
    pool: str
    shares: tuple[PoolShare, ...] | None = Field(default=None, exclude_if=is_none)
    precision: Precision
    layout: ParallelLayout
    name: str
    gpus: int
    batch: Batch
    placement: Placement
    memory: Memory
    phases: dict[Literal["prefill", "decode"], PhaseTable]
    balance: Balance
    training: Training | None = Field(default=None, exclude_if=is_none)

    @property
    def stage_pools(self) -> tuple[str, ...]:
        """The pool of each stage."""
        if self.shares is None:
            return (self.pool,) * self.layout.pp
        return tuple(share.pool for share in self.shares for _ in range(share.stages))

    @property
    def stage_spans(self) -> tuple[int, ...]:
        """How many GPUs of each stage share a domain."""
        if self.shares is None:
            return (self.placement.span,) * self.layout.pp
        return tuple(share.span for share in self.shares for _ in range(share.stages))


class LimitSlack(Frozen):
    """One limit: what the plan needs, what there is, and what is left."""

    name: str
    need: Number
    limit: Number
    slack: Number
    unit: str


class Proof(Frozen):
    """Why no better plan exists under the cost model.

    enumerated = not_divisible + too_large + candidates of the layouts; candidates = broken
    + dominated + given. objective and bound are on the integer grid: value x scale, rounded.
    """

    solver: str
    status: Literal["OPTIMAL", "FEASIBLE", "GIVEN"]
    objective: str
    sense: Literal["maximize", "minimize"]
    value: int
    bound: int
    gap: Number
    scale: Number
    layouts: int
    candidates: int
    broken: dict[str, int]  # limit -> candidates that break it (one may break several)
    broken_together: dict[str, int]  # "memory + ttft" -> candidates that break just these limits
    infeasible: int
    dominated: int
    given: int
    divisibility: dict[str, int]
    tie_break: tuple[str, ...]


class RunnerUp(Frozen):
    """Another ranked plan in one line, and why it lost; objective = value / the proof's scale."""

    rank: int
    name: str
    value: int
    objective: Number
    gpus: int
    why: str


class Robustness(Frozen):
    """What it costs to keep every limit at the pessimistic end.

    A predicted figure may fill 1 / (interval x stress) of its limit, where interval is the high end
    over the value at this one-sided confidence, and stress what the stated skews do to this plan.
    nominal: the best plan without either; cost: the share of its objective that is lost.
    """

    confidence: Annotated[float, Field(gt=0, lt=1)]
    interval: dict[str, Number]
    stress: dict[str, Number]
    nominal_name: str
    nominal_objective: Number
    cost: Number
    binding: tuple[str, ...]  # limits that the nominal best breaks at the pessimistic end


class Source(Frozen):
    """One input number: its key, the value taken, and who stated it."""

    key: str
    value: str
    source: Literal["stated", "assumed"]


class Provenance(Frozen):
    """What made the plan; no clock, no path."""

    tool: str
    version: str
    calibration: str
    calibration_date: str
    calibration_rows: int


class Plan(Frozen):
    """One ranked answer."""

    schema_version: str = SCHEMA_VERSION
    name: str
    rank: int
    objective: Literal["throughput", "latency", "gpus", "balanced"]
    cluster: Cluster
    model: ModelSpec
    workload: Workload
    deployments: tuple[Deployment, ...] = Field(min_length=1)
    predictions: dict[str, Prediction]
    limits: tuple[LimitSlack, ...]
    robustness: Robustness | None = None
    proof: Proof
    others: tuple[RunnerUp, ...]
    notes: tuple[str, ...] = ()  # on the run: how a strategy was read, why GPUs stay idle
    assumptions: tuple[Assumption, ...]
    sources: tuple[Source, ...]
    provenance: Provenance
    accepted: tuple[str, ...] = ()  # why a golden plan was rewritten, the latest last
    hash: str = ""

    @property
    def pools(self) -> str:
        """The pools that it uses, in order: "h100 + h200"."""
        used = [pool for each in self.deployments for pool in each.stage_pools]
        return " + ".join(dict.fromkeys(used))

    @property
    def deployment(self) -> Deployment:
        """The first deployment: the only one in the simple case."""
        return self.deployments[0]
