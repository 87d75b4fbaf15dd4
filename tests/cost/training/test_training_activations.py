"""Korthikanti et al., 2022: bytes of activations under every way to cut and to recompute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optimizer.cost.training import (
    MODULES,
    SHARDINGS,
    Job,
    Rates,
    TrainingLayouts,
    load_training_calibration,
    rates_of,
)
from optimizer.cost.training.memory import activation_bytes, in_flight, state_bytes
from optimizer.simulate.schedules import SCHEDULES
from optimizer.spec.model import DenseFfn, GroupedQueryAttention, LayerType
from optimizer.spec.reading import read_cluster

SEQUENCE, MICRO_BATCH = 2048, 1
MODELS = {"175B": (96, 12288), "530B": (128, 20480)}  # heads, hidden: their table 3


def unfused_rates() -> Rates:
    """Megatron-LM of 2022: stored scores, dropout, everything in 16 bits."""
    calibration = load_training_calibration()
    pool = read_cluster("a100-sxm").pools[0]
    return rates_of(calibration.values(), pool, calibration.software["megatron-2021"])


def layer_bytes(model: str, tp: int, sequence_parallel: int, recompute: int) -> float:
    heads, hidden = MODELS[model]
    layer = LayerType(
        attention=GroupedQueryAttention(
            num_heads=heads, num_kv_heads=heads, head_dim=hidden // heads
        ),
        ffn=DenseFfn(intermediate_size=4 * hidden, gated=False),
    )
    layout = TrainingLayouts.of(
        8, tp=tp, sequence_parallel=sequence_parallel, micro_batch=MICRO_BATCH, recompute=recompute
    )
    job = Job(SEQUENCE, flash=False)
    return float(activation_bytes(layer, hidden, layout, unfused_rates(), job)[0][0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("tp", "sequence_parallel", "recompute", "formula"),
    [
        (1, 0, 0, lambda t, scores: 34 + scores),
        (8, 0, 0, lambda t, scores: 10 + 24 / t + scores / t),
        (8, 1, 0, lambda t, scores: (34 + scores) / t),
        (8, 0, MODULES["core_attn"], lambda t, scores: 10 + 24 / t),
        (8, 1, MODULES["core_attn"], lambda t, scores: 34 / t),
        (8, 0, MODULES["full"], lambda t, scores: 2),
    ],
    ids=["no parallelism", "tp", "tp + sp", "tp, selective", "tp + sp, selective", "full"],
)
def test_a_layer_keeps_what_table_2_says(
    model: str, tp: int, sequence_parallel: int, recompute: int, formula: object
) -> None:
    heads, hidden = MODELS[model]
    assert callable(formula)
    wanted = SEQUENCE * MICRO_BATCH * hidden * formula(tp, 5 * heads * SEQUENCE / hidden)
    found = layer_bytes(model, tp, sequence_parallel, recompute)
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(("model", "saved"), [("175B", 0.70), ("530B", 0.65)])
def test_selective_recomputation_saves_the_published_share(model: str, saved: float) -> None:
    kept = layer_bytes(model, 8, 1, MODULES["core_attn"]) / layer_bytes(model, 8, 1, 0)
    assert 1 - kept == pytest.approx(saved, abs=0.01)  # section 5 of the paper


def test_sequence_parallelism_and_selection_save_a_factor_of_five() -> None:
    both = layer_bytes("530B", 8, 1, MODULES["core_attn"])
    assert 4.5 < layer_bytes("530B", 8, 0, 0) / both < 5.5  # their abstract: "5 times"


def test_the_first_stage_keeps_a_micro_batch_for_each_stage() -> None:
    layouts = TrainingLayouts.of(8, 3, pp=8, micro_batches=[64, 64, 3], vp=[1, 3, 1])
    assert in_flight(layouts) == pytest.approx([8, 8 * (1 + 7 / 24), 3])  # their equation 5 ff.


def test_later_stages_keep_fewer() -> None:
    layout = TrainingLayouts.of(8, pp=4, micro_batches=16)
    assert [float(in_flight(layout, float(stage))[0]) for stage in range(4)] == [4, 3, 2, 1]


@pytest.mark.parametrize(("pp", "vp"), [(2, 2), (4, 3), (8, 12)])
def test_interleaved_stages_keep_what_their_order_of_passes_has_open(pp: int, vp: int) -> None:
    """Forward passes whose backward has not run, counted along each stage's own order."""
    layout = TrainingLayouts.of(8, pp=pp, vp=vp, micro_batches=4 * pp)
    for stage in range(pp):
        kinds = [each.kind for each in SCHEDULES["interleaved"](stage, pp, vp, 4 * pp)]
        opened = np.cumsum([1 if kind == "forward" else -1 for kind in kinds])
        assert in_flight(layout, float(stage)) == pytest.approx(opened.max() / vp)


@pytest.mark.parametrize(
    ("sharding", "ranks", "wanted"),
    [
        ("none", 8, 18.0),
        ("optimizer", 8, 6 + 12 / 8),
        ("optimizer", 64, 6 + 12 / 64),
        ("parameters", 64, 16 / 64),
    ],
)
def test_states_take_the_bytes_that_megatron_documents(
    sharding: str, ranks: int, wanted: float
) -> None:
    calibration = load_training_calibration()
    pool = read_cluster("h100-sxm").pools[0]
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    layout = TrainingLayouts.of(8, dp=ranks, sharding=SHARDINGS[sharding])
    (dense, _), (adam, _) = state_bytes(layout, rates, 1.0)
    assert float(dense[0] + adam[0]) == pytest.approx(wanted)


def test_experts_share_their_state_over_expert_data_parallel_ranks_only() -> None:
    calibration = load_training_calibration()
    pool = read_cluster("h100-sxm").pools[0]
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    layout = TrainingLayouts.of(8, tp=2, dp=32, ep=16, etp=1)
    assert int(layout.edp[0]) == 4  # 2 x 1 x 32 / (16 x 1)
    (_, experts), (_, adam) = state_bytes(layout, rates, 1.0)
    assert float(experts[0] + adam[0]) == pytest.approx(6 + 12 / 4)


def test_flash_attention_drops_the_scores() -> None:
    heads, hidden = MODELS["175B"]
    layer = LayerType(
        attention=GroupedQueryAttention(num_heads=heads, num_kv_heads=heads, head_dim=128),
        ffn=DenseFfn(intermediate_size=4 * hidden, gated=False),
    )
    flash = replace(unfused_rates(), flash=1.0)
    layout = TrainingLayouts.of(8, tp=8)
    kept, _ = activation_bytes(layer, hidden, layout, flash, Job(SEQUENCE))
    assert kept == pytest.approx(34 * SEQUENCE * hidden / 8 * np.ones(1))
