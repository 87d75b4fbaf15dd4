"""One replica: its lanes on the stages of its pipeline, its cache, and its clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import hypot, inf

from optimizer.plan import Deployment
from optimizer.simulate.serving.cache import BlockCache, BlockPool
from optimizer.simulate.serving.lane import Lane, Run
from optimizer.simulate.serving.policy import Engine, Host
from optimizer.simulate.serving.queue import Queue, Rank, Task
from optimizer.simulate.serving.steps import Batch, StepTimes
from optimizer.spec.cluster import Cluster
from optimizer.spec.workload import ForwardWorkload, ServingWorkload, Workload

UNBOUNDED_BLOCKS = 1 << 50  # of a forward pass, which keeps no cache


@dataclass(eq=False, slots=True)
class Running:
    """A run that a lane is at: when it began, its first step, and what each further one adds."""

    run: Run
    start_s: float
    end_s: float
    step_s: float
    growth_s: float

    def seconds(self, steps: int) -> float:
        return steps * self.step_s + self.growth_s * steps * (steps - 1) / 2

    def steps_until(self, at_s: float) -> int:
        """The fewest whole steps that reach `at_s`, at least one."""
        low, high = 1, self.run.steps
        while low < high:
            middle = (low + high) // 2
            if self.start_s + self.seconds(middle) >= at_s:
                high = middle
            else:
                low = middle + 1
        return low


@dataclass(eq=False, slots=True)
class Replica:
    """`free_s` is when each stage, and behind them the host, has done what it was given."""

    number: int
    role: str
    lanes: list[Lane]
    times: StepTimes
    host: Host
    host_share: float  # of the attention ranks, that one node's host serves
    free_s: list[float]
    active: dict[int, Running] = field(default_factory=dict)  # by lane
    version: list[int] = field(default_factory=list)
    alive: bool = True
    frontend_s: float = 0.0  # when all tokens made so far have been sent out

    @property
    def queues(self) -> list[Queue]:
        """Of the attention ranks; all lanes take from them."""
        return [rank.queue for rank in self.lanes[0].ranks]

    @property
    def load(self) -> int:
        return sum(map(self._rank_load, range(len(self.queues))))

    def _rank_load(self, index: int) -> int:
        running = sum(len(lane.ranks[index].running) for lane in self.lanes)
        return len(self.queues[index]) + running

    @property
    def tasks(self) -> Iterator[Task]:
        for lane in self.lanes:
            for rank in lane.ranks:
                yield from rank.running.values()
        for queue in self.queues:
            yield from queue.waiting
            yield from queue.arrived

    def deliver(self, task: Task) -> int:
        """Brings a request to the attention rank with the least to do; its index."""
        index = min(range(len(self.queues)), key=self._rank_load)
        self.queues[index].arrived.append(task)
        return index

    def start(self, number: int, now_s: float) -> Running | None:
        """What a lane does from now on; None where it has nothing to do."""
        if len(self.lanes) > 1:
            self.lanes[number].refresh()
        run = self.lanes[number].plan()
        if run is None:
            return None
        if len(self.lanes) > 1:
            run.steps = 1  # lanes take turns on the stages, so that each step is its own
            running = self._piped(run, now_s)
        else:
            first = self._seconds(run.first, run.sequences)
            growth = 0.0
            if run.steps > 1:
                last = self._seconds(run.last, run.sequences)
                growth = (last - first) / (run.steps - 1)
            running = Running(run, now_s, 0.0, first, growth)
            running.end_s = now_s + running.seconds(run.steps)
        self.active[number] = running
        return running

    def _seconds(self, batch: Batch, sequences: int) -> float:
        """The host prepares a step while the GPUs run: the longer of the two decides, and near
        each other they get in each other's way."""
        return hypot(self.times.seconds(batch), self._host_seconds(sequences))

    def _host_seconds(self, sequences: int) -> float:
        """Every node's host works for its own ranks at the same time."""
        return self.host.seconds(sequences * self.host_share)

    def _piped(self, run: Run, now_s: float) -> Running:
        """One host serves the lanes in turn, ahead of the stages."""
        stages, host = self.times.stage_seconds(run.first), self._host_seconds(run.sequences)
        at = max(now_s, self.free_s[-1])
        self.free_s[-1] = at + host
        for stage, seconds in enumerate(stages):
            at = max(at, self.free_s[stage]) + seconds
            self.free_s[stage] = at
        own = sum(stages)
        at += hypot(own, host) - own
        return Running(run, now_s, at, at - now_s, 0.0)


def replica_of(
    number: int,
    cluster: Cluster,
    deployment: Deployment,
    workload: Workload,
    times: StepTimes,
    engine: Engine,
    host: Host,
) -> Replica:
    """A replica with empty queues: micro-batches as lanes, attention ranks in each."""
    batch, layout = deployment.batch, deployment.layout
    pool = next(pool for pool in cluster.pools if pool.name == deployment.pool)
    lanes = max(1, batch.micro_batches)
    slots = -(-batch.sequences_per_rank // lanes)
    tokens = cache_tokens(deployment, workload)
    blocks = int(tokens) // engine.block_tokens if tokens < inf else UNBOUNDED_BLOCKS
    pools = [(BlockPool(blocks), Queue()) for _ in range(layout.dp)]
    chunk = batch.prefill_chunk or engine.step_tokens
    if isinstance(workload, ForwardWorkload):
        chunk = slots * workload.seq_len
    return Replica(
        number,
        deployment.role,
        [
            Lane(
                [
                    Rank(BlockCache(pool, engine.block_tokens), slots, queue)
                    for pool, queue in pools
                ],
                chunk,
                engine.policy == "mixed",
                layout.cp,
                engine.poll_steps,
                engine.align_steps,
            )
            for _ in range(lanes)
        ],
        times,
        host,
        min(1.0, -(-pool.gpus_per_node // (layout.tp * layout.cp)) / layout.dp),
        [0.0] * (layout.pp + 1),
        version=[0] * lanes,
    )


def cache_tokens(deployment: Deployment, workload: Workload) -> float:
    """Tokens that the cache of an attention rank has room for, on the stage that has least; as if
    each token cost the same, which windows and linear states make a lower bound for longer ones."""
    if not isinstance(workload, ServingWorkload):
        return inf
    memory, planned = deployment.memory, planned_tokens(deployment, workload)
    room = inf
    for stage in memory.stages:
        cache = stage.components.get("KV cache", 0.0)
        if cache > 0:
            limit_bytes = stage.limit_bytes or memory.limit_bytes
            free = limit_bytes - stage.total_bytes + cache
            room = min(room, free / cache * planned)
    return room


def planned_tokens(deployment: Deployment, workload: Workload) -> float:
    """Tokens that a rank's cache holds in the plan's memory; prefill keeps one of the answer."""
    if not isinstance(workload, ServingWorkload):
        return inf
    output = 1 if deployment.role == "prefill" else workload.output_len
    return deployment.batch.sequences_per_rank * (workload.input_len + output)
