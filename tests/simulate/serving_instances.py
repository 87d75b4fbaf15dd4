"""Replicas whose steps take known times, and small loads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from optimizer.simulate.serving.arrivals import Load, Request
from optimizer.simulate.serving.cache import BlockCache, BlockPool
from optimizer.simulate.serving.curves import Curve, Surface
from optimizer.simulate.serving.lane import Lane
from optimizer.simulate.serving.policy import Host
from optimizer.simulate.serving.queue import Queue, Rank
from optimizer.simulate.serving.replica import Replica
from optimizer.simulate.serving.simulation import Entry
from optimizer.simulate.serving.steps import Phase, StepTimes

NO_ENTRY = Entry(0.0, 0, lambda tokens: 0.0)


def times(
    prefill_s: float = 1.0,
    decode_s: float = 0.1,
    token_s: float = 0.0,
    context_s: float = 0.0,
) -> StepTimes:
    """A step costs prefill_s or decode_s, token_s a new token and context_s a cached token of its
    attention."""

    def phase(fixed_s: float) -> Phase:
        nothing = Curve([1.0, 2.0], [0.0, 0.0])
        own = Curve([0.0, 1.0], [fixed_s, fixed_s + token_s])
        attention = Surface([0.0, 1.0], [([0.0, 1.0], [0.0, 0.0]), ([0.0, 1.0], [0.0, context_s])])
        return Phase(own, attention, nothing, nothing)

    phases = {"prefill": phase(prefill_s), "decode": phase(decode_s)}
    return StepTimes(phases, (phases,), 1, 1.0, 1.0)


def replica(
    step: StepTimes,
    *,
    chunk: int = 64,
    mixed: bool = True,
    ranks: int = 1,
    slots: int = 1 << 30,
    blocks: int = 1 << 40,
    block_tokens: int = 4,
    align_steps: int = 0,
    number: int = 0,
    role: str = "serving",
) -> Replica:
    lane = Lane(
        [Rank(BlockCache(BlockPool(blocks), block_tokens), slots) for _ in range(ranks)],
        chunk,
        mixed,
        1,
        align_steps=align_steps,
    )
    return Replica(number, role, [lane], step, Host(sequence_s=0.0), 1.0, [0.0], version=[0])


def pipeline(step: StepTimes, stages: int, lanes: int, chunk: int, slots: int = 8) -> Replica:
    """A step takes its whole time on every stage."""
    pool, queue = BlockPool(1 << 40), Queue()
    whole = reduce(_in_turn, [step.whole] * stages)
    piped = StepTimes(whole, (step.whole,) * stages, 1, 1.0, 1.0)
    made = [Lane([Rank(BlockCache(pool, 4), slots, queue)], chunk, True, 1) for _ in range(lanes)]
    free, host = [0.0] * (stages + 1), Host(sequence_s=0.0)
    return Replica(0, "serving", made, piped, host, 1.0, free, version=[0] * lanes)


def _in_turn(one: Mapping[str, Phase], other: Mapping[str, Phase]) -> dict[str, Phase]:
    return {name: one[name].plus(other[name]) for name in one}


def at(*requests: tuple[float, int, int]) -> Load:
    return Load("trace", tuple(Request(*each) for each in requests))
