"""config.json files: what costs memory or time is read, what is unknown is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimizer.errors import SpecError
from optimizer.spec.linears import total_parameters
from optimizer.spec.model import (
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    LayerType,
    LinearAttention,
    ModelSpec,
    MoeFfn,
)
from optimizer.spec.presets import model_repositories, preset_paths
from optimizer.spec.reading import read_model

Read = Callable[..., ModelSpec]
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 2048,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
QWEN = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
}


@pytest.fixture
def config(tmp_path: Path) -> Read:
    def read(base: dict[str, Any], **changes: Any) -> ModelSpec:
        path = tmp_path / "my-model.json"
        path.write_text(json.dumps({**base, **changes}))
        return read_model(path).model

    return read


def layers_of(name: str) -> tuple[ModelSpec, list[LayerType]]:
    model = read_model(name).model
    return model, [model.layer_types[kind] for kind in model.layer_names]


def windows(model: ModelSpec, what: str) -> list[int | None]:
    return [getattr(model.layer_types[kind].attention, what) for kind in model.layer_names]


# What the published configs mean.


def test_deepseek_v3_has_latent_attention_three_dense_layers_and_mtp() -> None:
    model, layers = layers_of("deepseek-v3")
    assert layers[0].attention == LatentAttention(
        num_heads=128, q_lora_rank=1536, kv_lora_rank=512,
        qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    )  # fmt: skip
    assert [layer.ffn.kind for layer in layers] == ["dense"] * 3 + ["moe"] * 58
    assert layers[3].ffn == MoeFfn(
        num_experts=256, num_experts_per_token=8, intermediate_size=2048,
        shared_intermediate_size=2048, router_correction=True,
    )  # fmt: skip
    assert model.mtp is not None
    assert model.mtp.num_layers == 1
    assert model.precision.attention == model.precision.experts == "fp8_block"
    assert model.precision.router == model.precision.head == "bf16"
    assert model.precision.activations == "fp8"
    assert model.max_context == 163_840


@pytest.mark.parametrize(("name", "heads"), [("deepseek-v3.2", 64), ("glm-5", 32)])
def test_sparse_attention_carries_its_indexer(name: str, heads: int) -> None:
    _, layers = layers_of(name)
    expected = Indexer(num_heads=heads, head_dim=128, top_k=2048)
    assert all(layer.attention.indexer == expected for layer in layers)


@pytest.mark.parametrize(("name", "num_layers"), [("gpt-oss-120b", 36), ("gpt-oss-20b", 24)])
def test_gpt_oss_alternates_sliding_and_full_attention(name: str, num_layers: int) -> None:
    model, layers = layers_of(name)
    assert windows(model, "window") == [128, None] * (num_layers // 2)
    attention = layers[0].attention
    assert isinstance(attention, GroupedQueryAttention)
    assert attention.bias
    assert attention.sinks
    assert layers[0].ffn.bias
    assert model.precision.experts == "mxfp4"
    assert model.precision.attention == model.precision.activations == "bf16"


def test_llama_4_attends_in_chunks_but_for_every_fourth_layer() -> None:
    model, layers = layers_of("llama-4-maverick")
    assert windows(model, "chunk") == [8192, 8192, 8192, None] * 12
    assert [layer.ffn.kind for layer in layers] == ["dense", "moe"] * 24
    assert layers[0].ffn.intermediate_size == 16384
    assert layers[1].ffn.intermediate_size == layers[1].ffn.shared_intermediate_size == 8192
    assert layers[1].ffn.num_experts_per_token == 1
    assert not layers[0].attention.qk_norm


def test_qwen_3_5_has_a_state_in_three_of_four_layers() -> None:
    model, layers = layers_of("qwen3.5-397b-a17b")
    kinds = [layer.attention.kind for layer in layers]
    assert kinds == ["linear", "linear", "linear", "gqa"] * 15
    assert layers[0].attention == LinearAttention(
        num_key_heads=16, num_value_heads=64, key_head_dim=128, value_head_dim=128
    )
    full = layers[3].attention
    assert isinstance(full, GroupedQueryAttention)
    assert (full.num_heads, full.num_kv_heads, full.head_dim) == (32, 2, 256)
    assert full.output_gate
    assert full.qk_norm
    assert layers[0].ffn.shared_gate
    assert layers[0].ffn.shared_intermediate_size == 1024
    assert model.mtp is not None
    assert [extra.name for extra in model.extra_weights] == ["vision_config"]
    # 27 blocks x (4 x 1152^2 + 2 x 1152 x 4304), embeddings of 3 x 2 x 16^2 values and 2,304
    # positions, and the merger 4608 -> 4608 -> 4096.
    encoder = 27 * (4 * 1152**2 + 2 * 1152 * 4304) + 1152 * (1536 + 2304) + 4608 * (4608 + 4096)
    assert model.extra_weights[0].parameters == encoder
    assert any(item.key == "extra_weights.vision_config" for item in model.assumptions)


def test_minimax_normalises_over_all_heads_and_has_three_mtp_modules() -> None:
    model, layers = layers_of("minimax-m2.5")
    attention = layers[0].attention
    assert isinstance(attention, GroupedQueryAttention)
    assert attention.qk_norm_full
    assert not attention.qk_norm
    assert layers[0].ffn.router_correction
    assert model.mtp is not None
    assert model.mtp.num_layers == 3
    # "gate" in its ignore list is the router, not gate_proj: the experts are FP8.
    assert model.precision.experts == "fp8_block"
    assert model.precision.router == "bf16"


def test_kimi_k2_5_quantises_its_experts_alone() -> None:
    precision = read_model("kimi-k2.5").model.precision
    assert precision.experts == "int4"
    assert {precision.attention, precision.ffn, precision.shared_experts} == {"bf16"}
    assert precision.activations == "bf16"


@pytest.mark.parametrize("name", ["qwen3-8b", "qwen3-32b", "qwen3-235b-a22b"])
def test_qwen_3_normalises_each_head(name: str) -> None:
    _, layers = layers_of(name)
    assert all(layer.attention.qk_norm for layer in layers)


@pytest.mark.parametrize("name", model_repositories())
def test_the_context_limit_is_the_configs(name: str) -> None:
    data = json.loads(preset_paths("models")[name].read_text())
    text = data.get("text_config", data)
    assert read_model(name).model.max_context == text["max_position_embeddings"]


# Totals of further published models, from the keys of their configs that count.


@pytest.mark.parametrize(
    ("total", "changes"),
    [
        (
            7_615_616_512,  # Qwen2.5-7B
            {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28,
             "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
             "vocab_size": 152064},
        ),
        (
            494_032_768,  # Qwen2-0.5B: tied embeddings, biases on q, k, v
            {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
             "vocab_size": 151936, "tie_word_embeddings": True},
        ),
        (
            7_241_732_096,  # Mistral-7B-v0.1: a sliding window of 4,096
            {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
             "vocab_size": 32000, "sliding_window": 4096},
        ),
        (
            15_706_484_224,  # DeepSeek-V2-Lite: latent attention without a query rank
            {"model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27,
             "num_attention_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None,
             "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
             "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
             "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
             "moe_layer_freq": 1, "vocab_size": 102400, "topk_method": "greedy"},
        ),
    ],
    ids=["Qwen2.5-7B", "Qwen2-0.5B", "Mistral-7B", "DeepSeek-V2-Lite"],
)  # fmt: skip
def test_further_models_add_up_to_their_published_totals(
    config: Read, total: int, changes: dict[str, Any]
) -> None:
    assert total_parameters(config(LLAMA, **changes)) == total


# Single keys.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window": 64}, [64] * 4),
        ({"sliding_window": 64, "use_sliding_window": False}, [None] * 4),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 3},
         [None, None, None, 64]),
        ({"sliding_window": 64, "sliding_window_pattern": 2}, [64, None, 64, None]),
        ({"sliding_window": None}, [None] * 4),
        ({"sliding_window": 64, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
         [None, None, None, 64]),
    ],
)  # fmt: skip
def test_sliding_windows_by_each_rule(
    config: Read, changes: dict[str, Any], expected: list[int | None]
) -> None:
    assert windows(config(LLAMA, **changes), "window") == expected


def test_chunks_follow_no_rope_layers(config: Read) -> None:
    found = config(LLAMA, attention_chunk_size=32, no_rope_layers=[1, 0, 1, 1])
    assert windows(found, "chunk") == [32, None, 32, 32]


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, "MMMM"),
        ({"first_k_dense_replace": 1}, "DMMM"),
        ({"decoder_sparse_step": 2}, "DMDM"),
        ({"mlp_only_layers": [0, 3]}, "DMMD"),
        ({"moe_layer_freq": 2}, "MDMD"),
        ({"moe_layer_freq": [0, 1, 1, 0]}, "DMMD"),
        ({"moe_layers": [3]}, "DDDM"),
    ],
)
def test_which_layers_are_moe_by_each_rule(
    config: Read, changes: dict[str, Any], kinds: str
) -> None:
    found = config(QWEN, **changes)
    assert (
        "".join(found.layer_types[name].ffn.kind[0].upper() for name in found.layer_names) == kinds
    )


def test_biases_are_read(config: Read) -> None:
    attention = config(LLAMA, attention_bias=True, mlp_bias=True).layer_types["dense"]
    assert attention.attention.bias
    assert attention.ffn.bias
    glm = config({**QWEN, "model_type": "glm4_moe"}, attention_bias=True).layer_types["moe"]
    assert glm.attention.qkv_bias
    assert not glm.attention.bias
    assert glm.ffn.router_correction


def quantised(config: Read, base: dict[str, Any] | None = None, **scheme: Any) -> ModelSpec:
    return config(base or QWEN, quantization_config=scheme)


def test_fp8_with_and_without_blocks(config: Read) -> None:
    blocks = quantised(config, quant_method="fp8", weight_block_size=[128, 128])
    assert (blocks.precision.experts, blocks.precision.activations) == ("fp8_block", "fp8")
    assert quantised(config, quant_method="fp8").precision.experts == "fp8"


@pytest.mark.parametrize(("group", "kind"), [(32, "int4"), (128, "int4_g128")])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_gptq_and_awq_by_group_size(config: Read, method: str, group: int, kind: str) -> None:
    precision = quantised(config, quant_method=method, bits=4, group_size=group).precision
    assert precision.attention == precision.experts == kind
    assert precision.activations == precision.head == "bf16"


def test_modelopt_nvfp4_with_its_ignore_list_and_cache(config: Read) -> None:
    precision = quantised(
        config,
        quant_method="modelopt",
        quant_algo="NVFP4",
        kv_cache_scheme={"num_bits": 8, "type": "float"},
        ignore=["lm_head", "model.layers.*.self_attn*"],
    ).precision
    assert (precision.attention, precision.experts, precision.kv_cache) == ("bf16", "nvfp4", "fp8")


def test_a_separate_quantization_file_in_a_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "Mixtral-NVFP4"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    (folder / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8",
                                     "exclude_modules": ["lm_head"]}})
    )  # fmt: skip
    model = read_model(folder).model
    assert model.name == "Mixtral-NVFP4"
    assert (model.precision.experts, model.precision.kv_cache) == ("fp8", "fp8")


@pytest.mark.parametrize(
    ("pattern", "attention", "experts"),
    [
        ("self_attn", "bf16", "fp8"),
        ("model.layers.*.self_attn", "bf16", "fp8"),
        ("re:.*self_attn.*", "bf16", "fp8"),
        ("re:.*mlp\\.experts\\.\\d+\\.(gate|up|down)_proj", "fp8", "bf16"),
        ("gate", "fp8", "fp8"),
        ("experts", "fp8", "bf16"),
        ("*experts*", "fp8", "bf16"),
    ],
)
def test_ignore_lists_match_real_module_names(
    config: Read, pattern: str, attention: str, experts: str
) -> None:
    found = quantised(config, quant_method="fp8", modules_to_not_convert=[pattern])
    assert (found.precision.attention, found.precision.experts) == (attention, experts)
    assert found.notes == ()


def test_a_part_that_is_quantised_in_some_layers_only_is_noted(config: Read) -> None:
    ignored = [f"model.layers.0.mlp.experts.{name}" for name in ("0",)]
    found = quantised(config, quant_method="fp8", modules_to_not_convert=ignored)
    assert found.precision.experts == "fp8"
    assert found.notes == ("experts: 25 % of the weights are not fp8; counted as fp8",)


@pytest.mark.parametrize(
    "expression", ["(.*)*x", "(a+)+$", ".*.*.*.*.*x", "(?=a)b", "[", "(a|a)*b", "a" * 400]
)
def test_a_regular_expression_that_may_never_end_is_refused(config: Read, expression: str) -> None:
    with pytest.raises(SpecError, match="no simple pattern"):
        quantised(config, quant_method="fp8", ignore=[f"re:{expression}"])


# What cannot be read.


def test_an_unknown_architecture_with_standard_fields_is_read_and_noted(config: Read) -> None:
    found = config(LLAMA, model_type="brand_new", num_memory_slots=64)
    assert found.num_layers == 4
    assert "model_type 'brand_new' is not known" in found.notes[0]
    assert found.notes[1] == "keys not read (taken to cost nothing): num_memory_slots"


def test_an_unknown_architecture_without_them_gets_the_yaml_that_would_do(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "rwkv", "hidden_size": 512, "vocab_size": 1000}')
    with pytest.raises(SpecError) as caught:
        read_model(path)
    message = str(caught.value)
    assert "lacks num_hidden_layers, num_attention_heads, intermediate_size" in message
    yaml = tmp_path / "model.yaml"
    yaml.write_text(message.split("numbers:\n")[1])
    model = read_model(yaml).model
    assert (model.hidden_size, model.vocab_size) == (512, 1000)


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"hidden_size": "big"}, "hidden_size", "must be a whole number from 1 to"),
        ({"vocab_size": -3}, "vocab_size", "not -3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "must divide the 8 heads"),
        ({"num_local_experts": 8}, "num_experts_per_tok", "is missing"),
        ({"num_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok", "more than the 2"),
        ({"layer_types": ["mamba"] * 4}, "layer_types", "names mamba; known are full_attention"),
        ({"layer_types": ["full_attention"]}, "layer_types", "lists 1 layers"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings", "true or false, not 'no'"),
        ({"torch_dtype": "int3"}, "torch_dtype", "one of bfloat16, float16, float32"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers", "from 1 to 1,000"),
        ({"vision_config": {}}, "vision_config", "needs a depth and a hidden_size"),
        ({"quantization_config": {"quant_method": "magic"}}, "quantization_config.quant_method",
         "must be one of fp8, mxfp4"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "quantization_config.bits",
         "must be 4 or 8, not 3"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
         "quantization_config.weight_block_size", "must be [128, 128]"),
    ],
)  # fmt: skip
def test_a_wrong_value_in_a_config_is_called_by_its_key(
    config: Read, changes: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        config(LLAMA, **changes)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message
