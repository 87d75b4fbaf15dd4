"""What model files mean: the flat form, the full form, presets, assumptions, totals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optimizer.spec.linears import total_parameters
from optimizer.spec.model import DenseFfn, GroupedQueryAttention, MoeFfn
from optimizer.spec.reading import ModelInput, read_model

Read = Callable[..., ModelInput]

SHAPE = "num_layers: 6\nhidden_size: 1024\nvocab_size: 1000\n"
HEADS = "attention: {num_heads: 8, num_kv_heads: 2, head_dim: 128}\n"
MOE = "moe: {num_experts: 4, num_experts_per_token: 2, intermediate_size: 512}\n"


@pytest.fixture
def model(tmp_path: Path) -> Read:
    def read(text: str, name: str = "model.yaml") -> ModelInput:
        path = tmp_path / name
        path.write_text(text)
        return read_model(path)

    return read


def test_a_dense_model_is_a_few_lines(model: Read) -> None:
    found = model(SHAPE + HEADS + "ffn: {intermediate_size: 4096, gated: false}\n").model
    (kind,) = found.layer_types.values()
    assert found.layer_names == ("dense",) * 6
    assert kind.attention == GroupedQueryAttention(num_heads=8, num_kv_heads=2, head_dim=128)
    assert kind.ffn == DenseFfn(intermediate_size=4096, gated=False)
    # q and o: 1024 x 1024; k and v: 1024 x 256; up and down: 1024 x 4096; two norms of 1024.
    layer = 2 * 1024 * 1024 + 2 * 1024 * 256 + 2 * 1024 * 4096 + 2 * 1024
    assert total_parameters(found) == 6 * layer + 2 * 1000 * 1024 + 1024


def test_leading_dense_layers_and_every_second_moe(model: Read) -> None:
    text = (
        SHAPE
        + HEADS
        + MOE
        + "ffn: {intermediate_size: 4096}\nleading_dense_layers: 2\nmoe_every: 2"
    )
    assert model(text).model.layer_names == ("dense", "dense", "dense", "moe", "dense", "moe")


def test_listed_attentions_take_turns(model: Read) -> None:
    text = (
        "num_layers: 5\nhidden_size: 1024\nvocab_size: 1000\nffn: {intermediate_size: 4096}\n"
        "attention:\n  - {num_heads: 8, num_kv_heads: 2, head_dim: 128, window: 128}\n"
        "  - {num_heads: 8, num_kv_heads: 2, head_dim: 128}\n"
    )
    found = model(text).model
    assert found.layer_names == (
        "sliding_dense", "full_dense", "sliding_dense", "full_dense", "sliding_dense",
    )  # fmt: skip
    assert found.layer_types["sliding_dense"].attention.window == 128


def test_the_kind_of_attention_follows_from_its_keys(model: Read) -> None:
    latent = (
        "attention: {num_heads: 8, kv_lora_rank: 512, qk_nope_head_dim: 128, "
        "qk_rope_head_dim: 64, v_head_dim: 128}\n"
    )
    linear = (
        "attention: {num_key_heads: 8, num_value_heads: 16, key_head_dim: 128, "
        "value_head_dim: 128}\n"
    )
    ffn = "ffn: {intermediate_size: 4096}\n"
    assert model(SHAPE + latent + ffn).model.layer_types["dense"].attention.kind == "mla"
    assert model(SHAPE + linear + ffn).model.layer_types["dense"].attention.kind == "linear"


def test_shared_experts_are_counted_in_experts(model: Read) -> None:
    text = SHAPE + HEADS + MOE.replace("}", ", shared_experts: 3}")
    ffn = model(text).model.layer_types["moe"].ffn
    assert isinstance(ffn, MoeFfn)
    assert ffn.shared_intermediate_size == 3 * 512


@pytest.mark.parametrize(
    ("stated", "experts", "activations", "head"),
    [("fp8", "fp8", "fp8", "bf16"), ("fp8_block", "fp8_block", "fp8", "bf16"),
     ("int4", "int4", "bf16", "bf16"), ("fp16", "fp16", "fp16", "bf16"),
     ("{weights: fp8, experts: nvfp4, head: fp8}", "nvfp4", "fp8", "fp8")],
)  # fmt: skip
def test_one_word_of_precision_sets_weights_and_activations(
    model: Read, stated: str, experts: str, activations: str, head: str
) -> None:
    precision = model(SHAPE + HEADS + MOE + f"precision: {stated}\n").model.precision
    assert precision.experts == experts
    assert precision.activations == activations
    assert precision.head == head
    assert precision.router == precision.embedding == precision.kv_cache == "bf16"


def test_what_nobody_stated_is_assumed_and_listed(model: Read) -> None:
    found = model("num_layers: 2\nhidden_size: 1024\nmoe: {num_experts: 8}\n").model
    assert {item.key: item.value for item in found.assumptions} == {
        "precision": "bf16",
        "precision.kv_cache": "bf16",
        "vocab_size": "32000",
        "attention.head_dim": "128",
        "attention.num_heads": "8",
        "attention.num_kv_heads": "8",
        "moe.intermediate_size": "4096",
        "moe.gated": "True",
        "moe.num_experts_per_token": "2",
    }
    assert all(item.why for item in found.assumptions)


def test_a_model_that_states_everything_assumes_nothing(model: Read) -> None:
    text = (
        SHAPE
        + HEADS
        + MOE.replace("}", ", gated: true}")
        + "precision: {weights: fp8, kv_cache: fp8}"
    )
    assert model(text).model.assumptions == ()


def test_a_stated_total_is_checked_and_recorded(model: Read) -> None:
    plain = SHAPE + HEADS + MOE
    total = total_parameters(model(plain).model)
    found = model(f"{plain}num_parameters: {total / 1e6:.1f} M\n").model
    assert found.assumptions[-1].key == "num_parameters"
    assert found.assumptions[-1].value == f"{total / 1e9:.4g} B"


def test_a_preset_is_a_start_for_changes(model: Read) -> None:
    text = "preset: deepseek-v3\nname: mine\nprecision: {kv_cache: fp8, experts: nvfp4}\nmtp: 0\n"
    found, preset = model(text).model, read_model("deepseek-v3").model
    assert found.layers == preset.layers
    assert found.layer_types == preset.layer_types
    assert found.mtp is None
    assert found.precision.experts == "nvfp4"
    assert found.precision.attention == "fp8_block"
    assert preset.assumptions != ()
    assert found.assumptions == ()  # the cache's format is stated now


def test_workload_and_strategy_may_stand_beside_the_model(model: Read) -> None:
    found = model(SHAPE + HEADS + MOE + "workload: {batch: 4, seq_len: 8}\nstrategy: EP4_TP2\n")
    assert found.strategy == "EP4_TP2"
    assert found.workload is not None
    assert found.workload.data == {"batch": 4, "seq_len": 8}


def test_the_full_form_names_layer_types_and_runs(model: Read) -> None:
    text = (
        "hidden_size: 1024\nvocab_size: 1000\nprecision: bf16\n"
        "layer_types:\n  a: {attention: {num_heads: 8, num_kv_heads: 2, head_dim: 128},\n"
        "      ffn: {intermediate_size: 4096}}\n"
        "  b: {attention: {num_heads: 8, num_kv_heads: 8, head_dim: 128, chunk: 64},\n"
        "      ffn: {num_experts: 4, intermediate_size: 64}}\n"
        "layers: [{types: [a]}, {types: [b, a], repeat: 2}]\n"
    )
    found = model(text, "mine.yaml").model
    assert found.name == "mine"
    assert found.layer_names == ("a", "b", "a", "b", "a")
    assert found.moe is not None
