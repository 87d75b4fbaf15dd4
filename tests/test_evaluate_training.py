"""`optimize evaluate` on training rows: what is predicted, what is chosen, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from optimizer.cli.evaluate import evaluate
from optimizer.evaluating_training import OUTPUTS, evaluate_training, family_of, is_training

GPT_175B = {
    "id": "gpt-175b",
    "source": "Korthikanti et al. 2022 (arXiv 2205.05198) Table 5",
    "model": "gpt-175b",
    "layers": 96,
    "hidden": 12288,
    "heads": 96,
    "vocab": 51200,
    "seq_len": 2048,
    "global_batch": 64,
    "micro_batch": 1,
    "gpus": 64,
    "gpu_type": "A100-80GB",
    "tp": 8,
    "pp": 8,
    "vp": 3,
    "recompute": "selective+SP",
    "seq_parallel": 1,
    "precision": "fp16",
    "notes": "",
}


def rows(**changed: object) -> pd.DataFrame:
    return pd.DataFrame([{**GPT_175B, **changed}])


def test_the_published_step_of_gpt_175b_is_met_within_a_tenth() -> None:
    found = evaluate_training(rows()).iloc[0]
    assert found["predicted_step_s"] == pytest.approx(
        13.75, rel=0.10
    )  # Korthikanti et al., table 5
    assert (
        found["predicted_step_s_low"] < found["predicted_step_s"] < found["predicted_step_s_high"]
    )
    assert found["predicted_mem_gb"] == pytest.approx(55.1, rel=0.12)
    assert found["feasible"]
    assert found["reason"] == ""


def test_rates_follow_from_the_step() -> None:
    found = evaluate_training(rows()).iloc[0]
    tokens = 64 * 2048 / 64 / found["predicted_step_s"]
    assert found["predicted_tokens_per_s_per_gpu"] == pytest.approx(tokens)
    assert 0.4 < found["predicted_mfu"] < 0.6


@pytest.mark.parametrize("column", ["layers", "hidden"])
def test_a_row_without_its_shape_says_so_and_predicts_nothing(column: str) -> None:
    found = evaluate_training(rows(**{column: None})).iloc[0]
    assert found["reason"] == "no layers or hidden size"
    assert pd.isna(found["predicted_step_s"])
    assert not found["feasible"]


def test_an_unknown_gpu_is_named_with_those_that_are_known() -> None:
    found = evaluate_training(rows(gpu_type="V100")).iloc[0]
    assert found["reason"].startswith("unknown GPU 'V100'; known are a100-sxm")


def test_blank_cells_are_chosen_and_said_so() -> None:
    found = evaluate_training(rows(micro_batch=None)).iloc[0]
    assert found["reason"].startswith("chosen: micro_batch ")
    assert found["feasible"]


def test_blank_degrees_find_a_layout_at_least_as_fast() -> None:
    found = evaluate_training(rows(tp=None, pp=None, micro_batch=None)).iloc[0]
    assert found["predicted_step_s"] <= evaluate_training(rows()).iloc[0]["predicted_step_s"]
    assert found["reason"].startswith("chosen: tp ")


def test_a_layout_that_cannot_fit_is_infeasible_with_both_sizes() -> None:
    found = evaluate_training(rows(tp=1, pp=1)).iloc[0]
    assert not found["feasible"]
    assert found["reason"].startswith("needs ")
    assert found["reason"].endswith("of 80.0 GiB")
    assert found["predicted_step_s"] > 0


def test_every_spelling_of_a_model_is_one_family() -> None:
    spellings = ("DeepSeekV3", "deepseek-v3", "DeepSeek V3 671B", "DeepSeekV3 (w/o MTP)")
    assert {family_of(name).family for name in spellings} == {"deepseek-v3"}
    assert {family_of(f"bloom-{size}B").family for size in (176, 181, 200)} == {"bloom"}
    assert family_of("LLAMA3_70B").family == family_of("Llama-3.1-70B").family == "llama3-70b"


def test_the_command_knows_training_rows_by_their_columns(tmp_path: Path) -> None:
    assert is_training(rows())
    rows().to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(evaluate, [str(tmp_path / "rows.csv"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 of 1 rows priced" in result.output
    found = pd.read_csv(out)
    assert list(found.columns)[-len(OUTPUTS) :] == list(OUTPUTS)
    assert list(found.columns)[: len(GPT_175B)] == list(GPT_175B)


def test_what_ran_without_room_is_feasible_where_unstated_recomputation_makes_room() -> None:
    bridge = "NVIDIA-NeMo/Megatron-Bridge docs/performance-summary-archive.md (26.04)"
    tight = rows(source=bridge, tp=8, pp=2, vp=1, micro_batch=4, recompute=None)
    found = evaluate_training(tight.assign(gpus=512, global_batch=2048)).iloc[0]
    assert found["feasible"]
    assert found["reason"].startswith("needs ")
    assert "recompute full fits" in found["reason"]
    assert "chosen: " in found["reason"]


def test_a_shape_that_cannot_be_says_which_number_is_wrong() -> None:
    found = evaluate_training(rows(kv_heads=7)).iloc[0]
    assert found["reason"] == "num_kv_heads must divide the 96 heads, and 7 does not"
    assert pd.isna(found["predicted_step_s"])
