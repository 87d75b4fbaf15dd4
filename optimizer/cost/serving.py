"""Steady state of continuous batching: from step times to TTFT, TPOT and requests a second.

One attention rank runs `sequences` requests at once; each decode step makes one token of each, and
prefills of newly admitted requests interrupt it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Constants
from optimizer.cost.factoring import representatives
from optimizer.layout import Ints
from optimizer.operators import Floats

HOST_GPUS = 8.0  # that one host schedules: a node


DEVIATIONS = 2.0  # beyond the mean: requests in flight are more in 2 % of the time


def peak(in_flight: Floats) -> Floats:
    """Slots for so many requests in flight in the mean: arrivals at random make their number
    Poisson (M/G/infinity), which stays within two standard deviations 98 % of the time."""
    slots: Floats = in_flight + DEVIATIONS * np.sqrt(in_flight)
    return slots


def mean_in_flight(slots: Floats) -> Floats:
    """The mean numbers in flight whose peaks fill so many slots, rounding aside."""
    half = DEVIATIONS / 2
    root = np.sqrt(slots + half * half) - half
    means: Floats = root * root * (1 - 1e-12)
    return means


def sustained(slots: float) -> float:
    """mean_in_flight of one number of slots."""
    return float(mean_in_flight(np.array(slots)))


class Prefill(NamedTuple):
    """One request's prefill alone [n]: until its first token, and for how long it holds the
    slowest stage. Where several prompts fit a chunk, those that wait go through the stages
    together: another_s more for each of at most room of them (0 without a pipeline)."""

    first_s: Floats
    busy_s: Floats
    another_s: Floats | float = 0.0
    room: Floats | float = 0.0


class Pipe(NamedTuple):
    """A pipeline as decoding sees it [n]: micro-batches, and the seconds of a decode step and of a
    chunk of a prompt, on the slowest stage and on all."""

    lanes: Floats | Ints
    decode_s: Floats
    decode_through_s: Floats
    chunk_s: Floats
    chunk_through_s: Floats
    chunks: Floats  # of a prompt


ONE_RANK = np.ones(1)
ONE_STAGE = Pipe(*(np.ones(1) for _ in Pipe._fields))


def bubbles(pipe: Pipe, prompts: Floats, interrupting: Floats | float = 1.0) -> Floats:
    """Seconds that uneven micro-batches add to a round of decoding which meets so many prompts, on
    top of the prompts' own time on the slowest stage.

    A micro-batch with a chunk is slow on every stage, and those behind it wait at each: the round
    takes as long as it is on its way, where equal steps would take lanes x decode and the chunk.
    (In a closed tandem of queues the critical path turns into every slow customer's way that it
    meets; Agrawal et al., 2024, show such bubbles in vLLM.) Prompts that come within such a round
    go along in it; they come at random. `interrupting` is the share of a chunk that shows. Left
    out: turns part of the way, which make a round longer by up to a ninth.
    """
    chunk_s, others = interrupting * pipe.chunk_s, (pipe.lanes - 1.0) / pipe.lanes
    spare = np.maximum(pipe.lanes * pipe.decode_s - pipe.decode_through_s, 0.0)
    along = np.minimum(prompts * pipe.chunks, pipe.lanes) * others * chunk_s
    turn = np.maximum(interrupting * pipe.chunk_through_s - chunk_s - spare - along, 0.0)
    added: Floats = prompts / (1 + prompts * others) * turn
    return added


NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def gathering(prompts: Floats, ranks: Floats | Ints, most: Floats | float) -> Floats:
    """Steps that a prompt waits in the mean until every attention rank has one, `most` at most,
    where so many prompts come to a rank in a step, at random.

    All ranks stand still while one prefills, so that engines hold prompts back (TensorRT-LLM's
    attention_dp_config, SGLang's prefill delayer). Waits of a group over its size, which is
    1 + ranks x prompts x its time (Wald, 1944); integrated over time at eight points. Left out:
    ranks that have no slot free.
    """
    if not np.any(most):
        return np.zeros(np.broadcast_shapes(np.shape(prompts), np.shape(ranks)))
    if np.ndim(most) == 0 and np.size(prompts) > np.size(most):  # few of many rows are distinct
        rows = [each.ravel() for each in np.broadcast_arrays(prompts, ranks)]
        chosen, back = representatives(*rows)
        if len(chosen) < len(back):
            few: Floats = gathering(rows[0][chosen], rows[1][chosen], most)
            return few[back].reshape(np.broadcast_shapes(np.shape(prompts), np.shape(ranks)))
    half, other = np.expand_dims(np.asarray(most) / 2, -1), np.expand_dims(ranks, -1) - 1.0
    due = np.expand_dims(prompts, -1) * half * (1 + NODES)  # prompts of one rank so far
    come = 1 - np.exp(-due)
    missing = 1 - come**other
    behind = due * (missing + other * (1 - come ** np.maximum(other - 1, 0)))
    held = (half * missing) @ WEIGHTS
    waited: Floats = (held + (half * behind) @ WEIGHTS) / (1 + ranks * prompts * held)
    return waited


class ServingTimes(NamedTuple):
    """Means over requests [n]."""

    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats


def decode_cycle(
    step_s: Floats, running: Floats, dp: Floats | Ints, tp: Floats | Ints, constants: Constants
) -> Floats:
    """Seconds between two tokens of a request without prefills: the GPUs' step, and the work of a
    host for each sequence of its own attention ranks. Engines schedule the next step while one
    runs; what shows of the shorter is blended as sqrt(x^2 + y^2)."""
    ranks = np.minimum(dp, np.ceil(HOST_GPUS / tp))
    cycle: Floats = np.hypot(step_s, constants.sequence_s * running * ranks)
    return cycle


def serving_times(
    decode_s: Floats,
    prefill: Prefill,
    running: Floats,
    waiting: Floats | float,
    output_len: Floats | float,
    constants: Constants,
    pipe: Pipe = ONE_STAGE,
    ranks: Floats | Ints = ONE_RANK,
) -> ServingTimes:
    """TTFT and TPOT with `running` requests on a rank; `waiting` counts, in turns of the cache,
    those that queue for it.

    In a closed loop every other request prefills once while one request decodes: prefill_work of
    that is met as interruptions. A request arrives in the middle of a step, behind others: a share
    first_wave comes in the same instant (all clients begin at once, and a benchmark sends about ten
    requests for each), and bunching x sqrt(others) by chance. Where prefills go first, short
    requests stay in step (lockstep, fading over lockstep_tokens): they wait for each other's
    prefills before the first token and not between tokens. Left out: preemption.
    """
    others = np.maximum(running - 1, 0)
    lockstep = constants.lockstep * np.exp(-output_len / constants.lockstep_tokens)
    met = constants.prefill_work * (1 - lockstep) * others / output_len
    tpot = decode_s + met * prefill.busy_s
    prompts = (1 - lockstep) * others / output_len
    tpot = tpot + bubbles(pipe, prompts, constants.prefill_work)
    ahead = (constants.first_wave + lockstep) * others + constants.bunching * np.sqrt(others)
    ttft = constants.ttft_base_s + prefill.first_s + tpot / 2 + ahead * prefill.busy_s
    ttft = ttft + np.minimum(prefill.room, ahead) * prefill.another_s
    ttft = ttft + waiting * output_len * tpot
    held = np.minimum(others, 1) * gathering(prompts, ranks, constants.align_steps)
    ttft = ttft + held * decode_s  # none prefills meanwhile
    # The slowest stage is busy for every request's prefill: no request takes less than all of them.
    ttft = np.maximum(ttft, running * prefill.busy_s - (output_len - 1) * tpot)
    return ServingTimes(ttft, tpot, ttft + (output_len - 1) * tpot)
