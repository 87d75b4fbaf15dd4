"""What must hold whatever the constants are: more is never worse, and nothing is free."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.cost.training import (
    MODULES,
    SCHEDULES,
    SHARDINGS,
    Job,
    Priced,
    TrainingLayouts,
    load_training_calibration,
    price,
    rates_of,
)
from optimizer.spec.reading import read_cluster, read_model
from optimizer.units import GIB

DENSE, MOE = read_model("llama-3.1-70b").model, read_model("deepseek-v3").model


def priced(layouts: TrainingLayouts, moe: bool = False, **links: float) -> Priced:
    calibration = load_training_calibration()
    pool = read_cluster("h100-sxm").pools[0]
    for name, factor in links.items():
        link = getattr(pool, name)
        faster = {"bandwidth_bytes_per_s": int(link.bandwidth_bytes_per_s * factor)}
        pool = pool.model_copy(update={name: link.model_copy(update=faster)})
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    return price(MOE if moe else DENSE, layouts, rates, Job(4096, mtp_layers=int(moe)))


def random_layouts(moe: bool, n: int = 400) -> TrainingLayouts:
    draw = np.random.default_rng(7).choice
    return TrainingLayouts.of(
        8,
        n,
        tp=draw([1, 2, 4, 8], n),
        cp=draw([1, 2], n),
        pp=draw([1, 2, 4, 8], n),
        dp=draw([8, 16, 64], n),
        ep=draw([1, 8, 32], n) if moe else 1,
        micro_batch=draw([1, 2, 4], n),
        micro_batches=draw([8, 16, 64], n),
        recompute=draw([0, 1, 2, 6], n),
        sharding=draw([0, 1, 2, 3], n),
    )


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("link", ["intra_node", "inter_node"])
def test_more_bandwidth_is_never_slower(moe: bool, link: str) -> None:
    layouts = random_layouts(moe)
    slow, fast = priced(layouts, moe), priced(layouts, moe, **{link: 2.0})
    assert (fast.step.step_s <= slow.step.step_s * (1 + 1e-12)).all()
    assert (fast.step.step_s < slow.step.step_s).any()


@pytest.mark.parametrize("moe", [False, True])
def test_recomputation_trades_time_for_memory(moe: bool) -> None:
    columns = {"pp": 4, "dp": 32, "ep": 32 if moe else 1, "micro_batches": 32}
    bits = [0, MODULES["mla_up_proj"] | MODULES["mlp"], MODULES["full"]]
    found = priced(TrainingLayouts.of(8, 3, recompute=bits, **columns), moe)
    assert (np.diff(found.step.step_s) > 0).all()
    assert (np.diff(found.memory.needed) < 0).all()
    assert found.step.parts["recompute"][0] == 0


def test_recomputing_half_of_the_layers_lies_between() -> None:
    layouts = TrainingLayouts.of(
        8, 3, tp=8, pp=2, recompute=1, recompute_share=[0.0, 0.5, 1.0], micro_batches=8
    )
    found = priced(layouts)
    assert found.step.parts["recompute"][1] == pytest.approx(
        found.step.parts["recompute"][2] / 2, rel=0.2
    )
    assert (np.diff(found.memory.needed) < 0).all()


def test_more_sharding_holds_less_between_steps() -> None:
    sharding = [SHARDINGS[name] for name in ("none", "optimizer", "parameters")]
    found = priced(TrainingLayouts.of(8, 3, dp=64, sharding=sharding))
    assert (np.diff(found.memory.fullest.static) < 0).all()


def test_hybrid_sharding_holds_more_and_gathers_nearer() -> None:
    whole, hybrid = (
        priced(TrainingLayouts.of(8, dp=64, shard=ranks, sharding=SHARDINGS["parameters"]))
        for ranks in (64, 8)
    )
    assert hybrid.memory.fullest.static > whole.memory.fullest.static
    assert hybrid.step.parts["fsdp"] < whole.step.parts["fsdp"]
    assert hybrid.step.parts["dp"] > whole.step.parts["dp"]


def test_zero_bubble_is_never_slower_than_1f1b() -> None:
    columns = {"tp": 4, "pp": 8, "dp": 4, "micro_batches": 16}
    plain, zero = (
        priced(TrainingLayouts.of(8, schedule=SCHEDULES[name], **columns))
        for name in ("1f1b", "zero_bubble")
    )
    assert zero.step.step_s < plain.step.step_s
    assert zero.memory.needed == plain.memory.needed


def test_interleaving_shrinks_the_bubble_and_keeps_more() -> None:
    columns = {"tp": 4, "pp": 8, "dp": 4, "micro_batches": 16}
    found = priced(TrainingLayouts.of(8, 2, vp=[1, 5], **columns))
    bubble = found.step.parts["bubble"]
    assert bubble[1] == pytest.approx(bubble[0] / 5, rel=0.1)
    assert found.memory.needed[1] > found.memory.needed[0]


def test_mtp_is_not_free() -> None:
    layout = TrainingLayouts.of(8, pp=4, dp=64, ep=64, micro_batches=32)
    calibration = load_training_calibration()
    pool = read_cluster("h100-sxm").pools[0]
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    without, with_mtp = (price(MOE, layout, rates, Job(4096, mtp_layers=n)) for n in (0, 1))
    assert 1.01 < float((with_mtp.step.step_s / without.step.step_s)[0]) < 1.1


def test_an_imbalanced_router_is_slower() -> None:
    layout = TrainingLayouts.of(8, pp=4, dp=64, ep=64, micro_batches=32)
    calibration = load_training_calibration()
    pool = read_cluster("h100-sxm").pools[0]
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    even, skewed = (price(MOE, layout, rates, Job(4096, imbalance=x)) for x in (1.0, 1.5))
    assert skewed.step.step_s > even.step.step_s


def test_llama_70b_without_sharding_needs_more_than_a_gpu() -> None:
    found = priced(TrainingLayouts.of(8, tp=1, dp=8, sharding=SHARDINGS["none"]))
    assert found.memory.needed > 18 * 70e9
    assert found.memory.needed > 80 * GIB
