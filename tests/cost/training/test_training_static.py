"""Memory before the first step, against Megatron-LM's console logs (benchmarks/data)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from optimizer.cost.training import (
    Job,
    TrainingLayouts,
    load_training_calibration,
    price,
    rates_of,
)
from optimizer.spec.model import DenseFfn, GroupedQueryAttention, LayerRun, LayerType, ModelSpec
from optimizer.spec.reading import read_cluster
from optimizer.units import GIB

LOGS = Path(__file__).resolve().parents[3] / "benchmarks" / "data" / "training_static.csv"
ROWS = {row["id"]: row for row in pd.read_csv(LOGS).to_dict("records")}


def predicted_gib(row: dict[str, object]) -> float:
    number = {name: int(value) for name, value in row.items() if isinstance(value, int)}
    attention = GroupedQueryAttention(
        num_heads=number["heads"], num_kv_heads=number["kv_heads"], head_dim=number["head_dim"]
    )
    ffn = DenseFfn(intermediate_size=number["ffn_hidden"], gated=bool(number["gated"]))
    model = ModelSpec(
        name="logged",
        hidden_size=number["hidden"],
        vocab_size=number["vocab"],
        tied_embeddings=bool(number["tied"]),
        layer_types={"layer": LayerType(attention=attention, ffn=ffn)},
        layers=(LayerRun(types=("layer",), repeat=number["layers"]),),
    )
    layout = TrainingLayouts.of(
        8,
        tp=number["tp"],
        pp=number["pp"],
        dp=number["dp"],
        sharding=number["distributed_optimizer"],
        recompute=1,
    )
    calibration = load_training_calibration()
    pool = read_cluster("a100-sxm").pools[0]
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    stage = price(model, layout, rates, Job(4096)).memory.stages[str(row["stage"])]
    return float(stage.static[0]) / GIB


@pytest.mark.parametrize("name", ROWS)
def test_static_memory_is_near_the_logged_one(name: str) -> None:
    measured = float(ROWS[name]["measured_static_mib"]) / 1024
    assert predicted_gib(ROWS[name]) == pytest.approx(measured, rel=0.08)


def test_static_memory_is_within_a_twentieth_in_the_mean() -> None:
    errors = [
        abs(predicted_gib(row) / (float(row["measured_static_mib"]) / 1024) - 1)
        for row in ROWS.values()
    ]
    assert sum(errors) / len(errors) < 0.05
