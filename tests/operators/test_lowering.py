"""What one rank runs: shapes, bytes and kernels against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.operators import Operator, lower
from optimizer.operators.experts import hottest_load, largest_normal, touched_experts
from optimizer.spec.model import ModelSpec, MoeFfn
from optimizer.spec.reading import read_model

FOUR = MoeFfn(num_experts=4, num_experts_per_token=2, intermediate_size=64)
COLUMNS = ("tp", "cp", "dp", "ep", "etp", "span", "tokens", "sequences", "context", "logits")


def lowered(name: str, engine: str = "any", **changes: float) -> dict[tuple[str, str], Operator]:
    """(part, operator name) -> operator of one step on one rank."""
    model = read_model(name).model
    alone = {"imbalance": 1.0, "pp_inside": 1.0, "pp_leaf": np.inf}
    alone |= dict.fromkeys(("leaf", "tp_leaf", "cp_leaf"), np.inf)
    step = {**dict.fromkeys(COLUMNS, 1.0), **alone, **changes}
    step["tp_inside"] = min(step["tp"], step["span"])
    step["cp_inside"] = max(1.0, step["span"] // step["tp"])
    columns = {key: np.array([value]) for key, value in step.items()}
    return {
        (family.part, operator.name): operator
        for family in lower(model, engine)
        for operator in family.build({key: columns[key] for key in family.depends})
    }


def array(*values: float) -> np.ndarray:
    return np.array(values)


def test_a_token_touches_no_more_experts_than_it_picks() -> None:
    # lambda = -ln(1 - 2/4) = 0.693; 4 x 0.693 / 1.693 = 1.637
    found = touched_experts(FOUR, array(1.0, 1e6), array(1.0, 1.0))
    assert found == pytest.approx([1.637, 4.0], rel=1e-3)


@given(st.floats(1, 4096), st.integers(0, 7))
def test_touched_experts_grow_with_tokens_and_stay_within_the_rank(
    tokens: float, doublings: int
) -> None:
    ffn = read_model("deepseek-v3").model.moe
    assert ffn is not None
    ep = array(2.0**doublings)
    less, more = (touched_experts(ffn, array(count), ep)[0] for count in (tokens, 1.1 * tokens))
    assert 0 < less <= more * (1 + 1e-12)
    assert more <= ffn.num_experts / ep[0]


def test_the_hottest_of_two_ranks_is_half_a_deviation_above_the_mean() -> None:
    # 1 + 0.564 x sqrt(0.5 / 50)
    assert hottest_load(array(50.0), array(2.0))[0] == pytest.approx(1.0564)
    assert hottest_load(array(50.0), array(1.0))[0] == 1.0
    assert hottest_load(array(0.01), array(4.0))[0] == 4.0


def test_the_largest_of_1000_normals_is_known() -> None:
    assert largest_normal(array(1000.0))[0] == pytest.approx(3.241, rel=2e-3)  # Harter, 1961


def test_matrices_that_share_an_input_are_one_product() -> None:
    found = lowered("llama-3.1-8b", tokens=16.0, sequences=16.0)
    ((part, _), qkv), *_ = found.items()
    # 32 query and 2 x 8 key-value heads of 128
    assert (qkv.name, qkv.n[0], qkv.k[0]) == ("q_proj/k_proj/v_proj", 48 * 128, 4096)
    assert qkv.flops[0] == 2 * 16 * 48 * 128 * 4096
    # weights in bf16, and input and output rows of 16 tokens
    assert qkv.bytes[0] == 2 * 48 * 128 * 4096 + 2 * 16 * (4096 + 48 * 128)
    assert found[part, "gate/up"].n[0] == 2 * 14336


@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen3-235b-a22b", "gpt-oss-120b"])
def test_products_of_all_shards_are_the_products_of_the_whole(name: str) -> None:
    step = {"tokens": 64.0, "sequences": 64.0, "logits": 64.0, "context": 1000.0}
    whole = lowered(name, **step)
    shard = lowered(name, **step, tp=4.0, etp=4.0, span=4.0)
    for key, operator in whole.items():
        if operator.kind in ("gemm", "grouped_gemm") and key[1] != "router":
            assert 4 * shard[key].flops[0] == pytest.approx(operator.flops[0]), key


def test_decode_reads_the_cache_and_prefill_the_prompt_once() -> None:
    # llama-3.1-8b: 2 x 8 heads x 128 x 2 bytes a token; q, k, v and the output beside it
    beside = 2 * 128 * (2 * 32 + 2 * 8)
    decode = lowered("llama-3.1-8b", tokens=4.0, sequences=4.0, context=1000.0)
    prefill = lowered("llama-3.1-8b", tokens=1000.0, sequences=1.0, context=500.5)
    (part,) = {part for part, name in decode if name == "gqa_attention"}
    assert decode[part, "gqa_attention"].bytes[0] == 4 * 1000 * 4096 + 4 * beside
    assert prefill[part, "gqa_attention"].bytes[0] == 1000 * 4096 + 1000 * beside


def test_a_sliding_window_is_all_that_is_read() -> None:
    near, far = (
        lowered("gpt-oss-120b", tokens=8.0, sequences=8.0, context=context)
        for context in (1000.0, 100_000.0)
    )
    same = [near[key].bytes[0] == far[key].bytes[0] for key in near if key[1] == "gqa_attention"]
    assert sorted(same) == [False, True]  # every other layer attends to all


def test_the_indexer_reads_all_keys_and_attention_only_what_it_picks() -> None:
    near, far = (
        lowered("glm-5", tokens=8.0, sequences=8.0, context=context)
        for context in (4096.0, 65536.0)
    )
    for key in near:
        if key[1] == "mla_attention":
            assert near[key].bytes[0] == far[key].bytes[0]
        if key[1] == "indexer":
            assert 16 * near[key].bytes[0] == far[key].bytes[0]


def test_sglang_fuses_what_moves_8_bit_experts_where_a_rank_has_them_all() -> None:
    def kernels(engine: str, ep: float) -> float:
        found = lowered("deepseek-v3", engine, ep=ep, span=ep, dp=ep, tokens=8.0, sequences=8.0)
        return float(np.asarray(found["moe", "expert_rows"].kernels).ravel()[0])

    assert kernels("vllm", 1.0) == kernels("vllm", 8.0) == kernels("sglang", 8.0) == 9.0
    assert kernels("sglang", 1.0) == 1.0


def test_block_scaled_products_round_each_input_once() -> None:
    found = lowered("deepseek-v3", tokens=4.0, sequences=4.0)
    rounding = found["moe", "attention_projections_rounding"]
    # inputs of q_a and kv_a, of q_b, of kv_b, of the output
    assert rounding.kernels == 4.0
    assert rounding.bytes[0] == 3 * 4 * (7168 + 1536 + 512 + 128 * 128)


def test_models_of_the_zoo_lower_to_finite_operators() -> None:
    for name in ("kimi-k2.5", "minimax-m2.5", "qwen3.5-397b-a17b", "llama-4-maverick"):
        for operator in lowered(name, tokens=3.0, sequences=3.0, context=700.0).values():
            for values in (operator.flops, operator.bytes, operator.payload_bytes):
                assert np.isfinite(values).all(), (name, operator.name)
    assert isinstance(read_model("kimi-k2.5").model, ModelSpec)
