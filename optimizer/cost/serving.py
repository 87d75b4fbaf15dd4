"""Steady state of continuous batching: from step times to TTFT, TPOT and requests a second.

One attention rank runs `sequences` requests at once; each decode step makes one token of each, and
prefills of newly admitted requests interrupt it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Calibration
from optimizer.cost.price import Step
from optimizer.layout import Ints
from optimizer.operators import Floats


class ServingTimes(NamedTuple):
    """Means over requests [n]."""

    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats


def decode_cycle(
    step: Step,
    micro_batches: Ints,
    sequences: Floats,
    ranks: Ints,
    calibration: Calibration,
    engine: str,
) -> Floats:
    """Seconds between two tokens of one request without prefills: each micro-batch goes round the
    pipeline, and the slowest stage serves all of them; the host works for every sequence of the
    replica's `ranks` attention ranks."""
    around = np.maximum(step.total_s, micro_batches * step.slowest_stage_s)
    host = calibration.constants.sequence_s * sequences * ranks
    return around + calibration.engine(engine).step_s + host


def serving_times(
    decode_s: Floats,
    prefill: Step,
    chunks: Floats,
    running: Floats,
    waiting: Floats,
    output_len: Floats | float,
    calibration: Calibration,
    engine: str,
) -> ServingTimes:
    """TTFT and TPOT with `running` requests on a rank; `waiting` counts, in turns of the cache,
    those that queue for it.

    In a closed loop every other request prefills once while one request decodes. That work is met
    either as interruptions of decode steps (TPOT) or ahead in the queue (TTFT), in a proportion
    that is the engine's scheduling policy; together they conserve it. Left out: preemption, bursts
    beyond the first wave.
    """
    constants, own = calibration.constants, calibration.engine(engine)
    others = np.maximum(running - 1, 0)
    first = prefill.total_s + (chunks - 1) * prefill.slowest_stage_s
    first = first + chunks * constants.prefill_step_s
    busy = chunks * (prefill.slowest_stage_s + constants.prefill_step_s)
    tpot = decode_s + constants.prefill_work * (1 - own.queued) * others / output_len * busy
    queued = (constants.prefill_work * own.queued + constants.first_wave) * others * busy
    wait = constants.cache_wait * waiting * output_len * tpot
    ttft = own.ttft_base_s + first + constants.ttft_steps * tpot + queued + wait
    return ServingTimes(ttft, tpot, ttft + (output_len - 1) * tpot)
