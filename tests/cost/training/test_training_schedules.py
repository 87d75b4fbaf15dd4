"""Bubbles of the schedules, as their authors count them."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.cost.training import SCHEDULES, TrainingLayouts
from optimizer.cost.training.step import Stages, bubble_s

FORWARD, INPUTS, WEIGHTS = 1.0, 1.2, 0.8  # seconds of a stage and micro-batch


def equal_stages(pp: int, weights: float = WEIGHTS) -> Stages:
    stage, one = FORWARD + INPUTS + weights, np.ones(1)
    return Stages(stage * one, pp * stage * one, weights * one, pp * weights * one, one, one, {})


@pytest.mark.parametrize(("pp", "micro_batches", "vp"), [(8, 64, 1), (8, 64, 3), (4, 4, 1)])
def test_the_bubble_is_p_minus_1_over_v_m_of_the_ideal(
    pp: int, micro_batches: int, vp: int
) -> None:
    stages = equal_stages(pp)
    layout = TrainingLayouts.of(8, pp=pp, vp=vp, micro_batches=micro_batches)
    ideal = micro_batches * stages.slowest_s
    fraction = bubble_s(stages, layout) / ideal
    assert fraction == pytest.approx((pp - 1) / (vp * micro_batches))  # Narayanan et al., 2021


def test_zero_bubble_leaves_forward_plus_inputs_minus_weights() -> None:
    layout = TrainingLayouts.of(8, pp=8, micro_batches=32, schedule=SCHEDULES["zero_bubble"])
    wanted = 7 * (FORWARD + INPUTS - WEIGHTS)  # ZB-H1, table 2 of Qi et al., 2023
    assert bubble_s(equal_stages(8), layout) == pytest.approx(wanted)


def test_zero_bubble_is_a_third_of_1f1b_when_all_passes_take_as_long() -> None:
    stages = Stages(*(np.array([x]) for x in (3.0, 24.0, 1.0, 8.0, 1.0, 1.0)), {})
    plain = TrainingLayouts.of(8, pp=8, micro_batches=32)
    zero = TrainingLayouts.of(8, pp=8, micro_batches=32, schedule=SCHEDULES["zero_bubble"])
    assert bubble_s(stages, zero) == pytest.approx(bubble_s(stages, plain) / 3)


def test_one_stage_has_no_bubble() -> None:
    assert bubble_s(equal_stages(1), TrainingLayouts.of(8, micro_batches=4)) == 0
