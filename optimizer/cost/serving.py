"""Steady state of continuous batching: from step times to TTFT, TPOT and requests a second.

One attention rank runs `sequences` requests at once; each decode step makes one token of each, and
prefills of newly admitted requests interrupt it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Constants
from optimizer.cost.price import Step
from optimizer.layout import Ints
from optimizer.operators import Floats


class ServingTimes(NamedTuple):
    """Means over requests [n]."""

    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats


def decode_cycle(step: Step, micro_batches: Ints, sequences: Ints, constants: Constants) -> Floats:
    """Seconds between two tokens of one request without prefills: each micro-batch goes round the
    pipeline, and the slowest stage serves all of them."""
    around = np.maximum(step.total_s, micro_batches * step.slowest_stage_s)
    return around + constants.step_s + constants.sequence_s * sequences


def serving_times(
    decode_s: Floats,
    prefill: Step,
    chunks: Floats,
    sequences: Ints,
    output_len: int,
    constants: Constants,
) -> ServingTimes:
    """TTFT and TPOT of `sequences` requests in flight on a rank.

    TPOT = decode step + interference x (b - 1)/output_len prefills; TTFT = own prefill + what is
    queued ahead + the step that is running. Left out: burstiness of arrivals, preemption.
    """
    others = np.maximum(sequences - 1, 0)
    own = prefill.total_s + (chunks - 1) * prefill.slowest_stage_s + chunks * constants.step_s
    busy = chunks * (prefill.slowest_stage_s + constants.step_s)
    tpot = decode_s + constants.prefill_interference * others / output_len * busy
    ttft = (
        constants.ttft_base_s
        + own
        + constants.ttft_steps * tpot
        + constants.ttft_queue * np.minimum(others, others / 2 + 1) * busy
    )
    return ServingTimes(ttft, tpot, ttft + (output_len - 1) * tpot)
