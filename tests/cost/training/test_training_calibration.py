"""The constants that ship: whole, in order, and as good on measured rows as the tables claim."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from optimizer.cost.training import Rates, load_training_calibration, rates_of
from optimizer.evaluating_training import evaluate_training, family_of
from optimizer.evaluating_training.names import pool_of, row_names
from optimizer.spec.presets import preset_paths
from optimizer.spec.reading import read_cluster

MEASURED = Path(__file__).resolve().parents[3] / "benchmarks" / "data" / "training.csv"


@pytest.fixture(scope="module")
def evaluated() -> pd.DataFrame:
    found = evaluate_training(pd.read_csv(MEASURED))
    return found.assign(family=[family_of(name).family for name in found["model"]])


def test_every_constant_lies_in_its_own_range() -> None:
    for name, constant in load_training_calibration().constants.items():
        assert constant.low <= constant.value <= constant.high, name


@pytest.mark.parametrize("gpu", sorted(preset_paths("hardware")))
def test_every_gpu_has_rates_under_every_software(gpu: str) -> None:
    calibration = load_training_calibration()
    for software in calibration.software.values():
        rates = rates_of(calibration.values(), read_cluster(gpu).pools[0], software)
        for field in fields(Rates):
            value = float(getattr(rates, field.name))
            assert math.isfinite(value), field.name
            assert value >= 0, field.name


def test_every_source_names_a_software_that_is_known() -> None:
    known = load_training_calibration().software
    for source in row_names().sources:
        assert source.software in known or f"{source.software}-bf16" in known


def test_every_row_has_a_prediction_or_a_reason(evaluated: pd.DataFrame) -> None:
    nothing = evaluated["predicted_step_s"].isna()
    assert (evaluated.loc[nothing, "reason"] != "").all()
    assert not evaluated.loc[nothing, "feasible"].any()
    shapeless = evaluated["layers"].isna() | evaluated["hidden"].isna()
    assert (evaluated.loc[shapeless, "reason"] == "no layers or hidden size").all()
    assert (evaluated.loc[~nothing, "predicted_step_s"] > 0).all()


@pytest.mark.parametrize(("moe", "most"), [(0, 0.06), (1, 0.13)])
def test_measured_steps_are_met_in_the_mean(evaluated: pd.DataFrame, moe: int, most: float) -> None:
    rows = evaluated[evaluated["is_moe"] == moe]
    rows = rows[rows["measured_step_s"].notna() & rows["predicted_step_s"].notna()]
    error = (rows["predicted_step_s"] / rows["measured_step_s"] - 1).abs()
    assert len(error) > 80
    assert error.mean() < most


def test_peaks_are_met_in_the_mean(evaluated: pd.DataFrame) -> None:
    rows = evaluated[evaluated["measured_mem_gb"].notna() & evaluated["predicted_mem_gb"].notna()]
    assert len(rows) > 90
    assert (rows["predicted_mem_gb"] / rows["measured_mem_gb"] - 1).abs().mean() < 0.08


def test_what_ran_out_of_memory_is_refused_and_what_ran_is_not(evaluated: pd.DataFrame) -> None:
    bloom = evaluated[evaluated["family"] == "bloom"]
    bloom = bloom[bloom["predicted_step_s"].notna()]
    failed = bloom["notes"].str.contains(re.escape("OOM (negative label)"))
    assert failed.sum() == 6
    assert (~bloom.loc[failed, "feasible"]).sum() >= 5
    assert bloom.loc[~failed, "feasible"].all()
    ran = evaluated["predicted_step_s"].notna() & ~evaluated["notes"].str.contains("OOM")
    assert (~evaluated.loc[ran, "feasible"]).mean() < 0.03


def test_the_choice_among_blooms_layouts_loses_little(evaluated: pd.DataFrame) -> None:
    rows = evaluated[(evaluated["model"] == "bloom-181B") & (evaluated["gpus"] == 384)]
    rows = rows[(rows["layers"] == 72) & (rows["heads"] == 64) & rows["measured_step_s"].notna()]
    layout = rows.groupby(["tp", "pp", "micro_batch"])
    measured = (rows["global_batch"] / rows["measured_step_s"]).groupby(layout.ngroup()).max()
    speed = np.where(rows["feasible"], rows["global_batch"] / rows["predicted_step_s"], 0.0)
    predicted = pd.Series(speed, rows.index).groupby(layout.ngroup()).max()
    assert len(measured) == 21
    assert 1 - measured[predicted.idxmax()] / measured.max() < 0.03


def test_published_flops_follow_from_published_steps(evaluated: pd.DataFrame) -> None:
    """Every source's TFLOP/s, by the convention that its entry states; BLOOM's count recomputation
    and are left out."""
    rows = evaluated[evaluated["measured_step_s"].notna() & (evaluated["family"] != "bloom")]
    rows = rows[rows["predicted_mfu"].notna() & rows["measured_tflops_per_gpu"].notna()]
    step = rows["measured_step_s"] / rows["predicted_step_s"]
    peaks = [pool_of(gpu).gpu.peak_flops_per_s("bf16") / 1e12 for gpu in rows["gpu_type"]]
    ours = rows["predicted_mfu"] / step * np.array(peaks)
    publisher = rows["source"].str.replace(r" .*", "", regex=True)
    medians = (ours / rows["measured_tflops_per_gpu"]).groupby(publisher).median()
    assert len(medians) == 5
    assert (medians - 1).abs().max() < 0.01
