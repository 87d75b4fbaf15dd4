"""Parameter totals of published models, to the digits that their makers print."""

from __future__ import annotations

import pytest

from optimizer.spec.linears import expert_parameters, linear_bytes, total_parameters
from optimizer.spec.model import LatentAttention
from optimizer.spec.presets import preset_paths
from optimizer.spec.reading import read_model

# Counted from the published checkpoints (10^9, without MTP layers and vision encoders).
TOTALS = {
    "qwen3-235b-a22b": 235.094,
    "deepseek-v3": 671.026,
    "minimax-m2.5": 228.69,
    "kimi-k2": 1026.41,
    "qwen3-coder-480b-a35b": 480.155,
    "mixtral-8x7b": 46.703,
    "mixtral-8x22b": 140.621,
    "qwen3-30b-a3b": 30.532,
    "llama-3.1-8b": 8.030,
    "llama-3.1-70b": 70.554,
    "llama-3.1-405b": 405.853,
}
STATED_IN_PAPERS = {"gpt3-175b": 174.6}  # Narayanan et al., 2021, with learned positions
IN_EXPERTS = {"qwen3-235b-a22b": 227.096, "deepseek-v3": 653.909}

# As their model cards round them.
ABOUT = {
    "gpt-oss-120b": (116.83, 0.005),
    "gpt-oss-20b": (20.91, 0.005),
    "qwen3.5-397b-a17b": (396.3, 0.1),
    "llama-4-maverick": (400.7, 0.1),
    "glm-5": (744, 0.5),
    "qwen3-32b": (32.8, 0.05),
    "qwen3-8b": (8.2, 0.05),
    "deepseek-v3.2": (671.9, 0.1),
    "kimi-k2.5": (1026.41, 0.005),
}


@pytest.mark.parametrize("name", TOTALS)
def test_the_total_is_the_published_one(name: str) -> None:
    digits = len(str(TOTALS[name]).split(".")[1])
    billions = total_parameters(read_model(name).model) / 1e9
    assert round(billions, digits) == TOTALS[name]


@pytest.mark.parametrize("name", IN_EXPERTS)
def test_the_routed_experts_hold_their_share(name: str) -> None:
    assert round(expert_parameters(read_model(name).model) / 1e9, 3) == IN_EXPERTS[name]


@pytest.mark.parametrize("name", ABOUT)
def test_the_total_is_about_what_the_model_card_says(name: str) -> None:
    published, tolerance = ABOUT[name]
    assert abs(total_parameters(read_model(name).model) / 1e9 - published) <= tolerance


@pytest.mark.parametrize("name", STATED_IN_PAPERS)
def test_the_total_is_the_papers(name: str) -> None:
    billions = total_parameters(read_model(name).model) / 1e9
    assert round(billions, 1) == STATED_IN_PAPERS[name]


def test_every_model_preset_has_its_total_tested() -> None:
    assert set(preset_paths("models")) == set(TOTALS) | set(ABOUT) | set(STATED_IN_PAPERS)


def test_the_latent_cache_of_deepseek_v3_is_70272_bytes_a_token() -> None:
    model = read_model("deepseek-v3").model
    values = 0
    for name in model.layer_names:
        attention = model.layer_types[name].attention
        assert isinstance(attention, LatentAttention)
        values += attention.kv_lora_rank + attention.qk_rope_head_dim
    assert 2 * values == 70_272  # bf16


def test_block_scales_are_counted_in_whole_blocks() -> None:
    precision = read_model("deepseek-v3").model.precision
    # 7168 x 2048 in FP8, and an fp32 scale for each of the 56 x 16 tiles of 128 x 128.
    assert linear_bytes(7168, 2048, False, "experts", precision) == 7168 * 2048 + 56 * 16 * 4
    # One row more starts a new row of tiles.
    assert linear_bytes(7169, 2048, False, "experts", precision) == 7169 * 2048 + 57 * 16 * 4
