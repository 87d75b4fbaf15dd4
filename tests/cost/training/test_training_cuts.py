"""Stages cut one by one cost what equal stages cost, and never beat the bound."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.cost.training import (
    Job,
    Rates,
    TrainingLayouts,
    cut_pieces,
    load_training_calibration,
    price,
    price_cut,
    rates_of,
    scan,
)
from optimizer.spec.reading import read_cluster, read_model


def rates(gpu: str = "h100-sxm") -> Rates:
    calibration = load_training_calibration()
    return rates_of(
        calibration.values(), read_cluster(gpu).pools[0], calibration.software["megatron"]
    )


def test_a_cut_into_equal_stages_costs_what_the_columns_say() -> None:
    model, job = read_model("llama-3.1-70b").model, Job(8192)
    layout = TrainingLayouts.of(8, tp=4, pp=4, vp=5, dp=4, micro_batches=32)
    whole = price(model, layout, rates(), job)
    counts = np.zeros((4, 1, 2), dtype=np.int64)
    counts[:, 0, 0] = 20
    cut = price_cut(cut_pieces(model, layout, rates(), job, (0, 1)), counts, rates())
    assert cut.step.step_s == pytest.approx(whole.step.step_s)
    assert cut.memory.needed == pytest.approx(whole.memory.needed)


def test_no_cut_beats_the_even_bound() -> None:
    model, job = read_model("deepseek-v3").model, Job(4096, mtp_layers=1)
    layout = TrainingLayouts.of(8, pp=4, dp=32, ep=32, micro_batches=64, recompute=1)
    bound = price(model, layout, rates(), job, cut="even").step.step_s
    pieces = cut_pieces(model, layout, rates(), job, (1,))
    generator = np.random.default_rng(0)
    for _ in range(20):
        ends = np.sort(generator.choice(np.arange(1, 61), 3, replace=False))
        sizes = np.diff(np.r_[0, ends, 61])
        counts = np.zeros((4, 2, 1), dtype=np.int64)
        dense = np.clip(3 - np.r_[0, ends], 0, sizes)
        counts[:, 0, 0], counts[:, 1, 0] = dense, sizes - dense
        assert price_cut(pieces, counts, rates()).step.step_s >= bound


def test_a_scan_in_blocks_is_the_same_as_one_call() -> None:
    model, job = read_model("mixtral-8x7b").model, Job(4096)
    generator = np.random.default_rng(1)
    layouts = TrainingLayouts.of(
        8,
        500,
        tp=generator.choice([1, 2, 4], 500),
        pp=generator.choice([1, 2, 4], 500),
        dp=generator.choice([8, 16], 500),
        ep=generator.choice([1, 2, 8], 500),
        recompute=generator.choice([0, 1, 2], 500),
        micro_batches=generator.choice([4, 8], 500),
    )
    step_s, needed = scan(model, layouts, rates(), job)
    for row in (0, 7, 499):
        one = price(model, layouts.take(np.array([row])), rates(), job)
        assert one.step.step_s[0] == step_s[row]
        assert one.memory.needed[0] == needed[row]


def test_the_parts_of_a_step_sum_to_it() -> None:
    model = read_model("deepseek-v3").model
    layouts = TrainingLayouts.of(
        8, 3, tp=[1, 2, 1], pp=[1, 4, 16], dp=[64, 16, 8], ep=[64, 32, 8], micro_batches=16
    )
    step = price(model, layouts, rates(), Job(4096, mtp_layers=1)).step
    assert sum(step.parts.values()) == pytest.approx(step.step_s)
    assert all((seconds >= 0).all() for seconds in step.parts.values())


@pytest.mark.parametrize("schedule", [0, 1])
def test_no_cut_of_a_dense_model_beats_the_even_bound(schedule: int) -> None:
    model, job = read_model("qwen3-8b").model, Job(4096)
    layout = TrainingLayouts.of(8, pp=4, dp=8, micro_batches=4, schedule=schedule)
    bound = price(model, layout, rates(), job, cut="even").step.step_s
    pieces = cut_pieces(model, layout, rates(), job, (0,))
    for first in range(1, 12):
        for last in range(1, 12):
            rest = 36 - first - last
            sizes = np.array([first, rest - rest // 2, rest // 2, last])
            cut = price_cut(pieces, sizes.reshape(4, 1, 1), rates())
            assert cut.step.step_s >= bound
