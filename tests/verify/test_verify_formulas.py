"""The second opinion's own arithmetic against numbers worked out by hand or published."""

from __future__ import annotations

import pytest

from optimizer.verify.cache import sequence_bytes
from optimizer.verify.document import Unreadable, members, quantity
from optimizer.verify.finding import all_hold, equal
from optimizer.verify.gpus import domains_of
from optimizer.verify.matrices import Matrix, attention_matrices, layer_matrices, stored_bytes, up

ALONE = {"tp": 1, "cp": 1, "dp": 1, "ep": 1, "etp": 1, "pp": 1, "replicas": 1, "width": 1}

GROUPED = {
    "kind": "gqa",
    "num_heads": 32,
    "num_kv_heads": 8,
    "head_dim": 128,
    "window": None,
    "chunk": None,
    "bias": False,
    "qkv_bias": False,
    "qk_norm": False,
    "qk_norm_full": False,
    "sinks": False,
    "output_gate": False,
}
LATENT = {
    "kind": "mla",
    "num_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "indexer": None,
}
DENSE = {"kind": "dense", "intermediate_size": 14336, "gated": True, "bias": False}


def elements(matrices: list[Matrix]) -> int:
    return sum(m.copies * m.inputs * m.outputs for m in matrices)


def test_llama_3_1_8b_has_its_published_parameters() -> None:
    model = {
        "hidden_size": 4096,
        "layer_types": {"only": {"attention": GROUPED, "ffn": DENSE}},
    }
    layer = elements(layer_matrices(model, "only", ALONE))
    # 32 layers, untied embedding and head of 128,256 x 4,096, final norm (model card)
    assert 32 * layer + 2 * 128_256 * 4096 + 4096 == 8_030_261_248


def test_a_deepseek_v3_attention_layer_has_187_107_328_elements() -> None:
    # 7168 x 1536 + 1536 x 24576 + 7168 x 576 + 512 x 32768 + 16384 x 7168 + norms 1536 + 512
    matrices = list(attention_matrices(LATENT, 7168, 1))
    assert elements(matrices) == 187_107_328


def test_deepseek_v3_caches_70_272_bytes_a_token() -> None:
    # 61 layers x (512 + 64) x 2 bytes, the figure of its technical report
    assert 61 * sequence_bytes(LATENT, 1, ALONE, 2) == 70_272


def test_kv_heads_fewer_than_ranks_are_copied_and_not_cut() -> None:
    eight = sequence_bytes(GROUPED, 100, {**ALONE, "tp": 8}, 2)
    assert eight == sequence_bytes(GROUPED, 100, {**ALONE, "tp": 16}, 2) == 100 * 2 * 128 * 2


def test_a_sliding_window_caps_the_cache_at_its_length() -> None:
    windowed = {**GROUPED, "window": 128}
    assert sequence_bytes(windowed, 5000, ALONE, 2) == 128 * 2 * 8 * 128 * 2


def test_block_scales_are_counted_for_blocks_that_are_not_full() -> None:
    # 130 x 129 elements of 8 bits, and 2 x 2 scales of 4 bytes
    assert stored_bytes(130, 129, "fp8_block") == 130 * 129 + 16
    # 33 x 3 elements of 4 bits are 49.5 bytes; 2 scales for each of 3 columns
    assert stored_bytes(33, 3, "mxfp4") == 50 + 6


def test_shards_of_a_matrix_sum_to_the_whole_where_heads_divide() -> None:
    whole = elements(list(attention_matrices(GROUPED, 4096, 1)))
    assert 8 * elements(list(attention_matrices(GROUPED, 4096, 8))) == whole
    assert up(7, 2) == 4


def test_an_unknown_number_format_is_named() -> None:
    with pytest.raises(Unreadable, match="'fp6' is no number format"):
        stored_bytes(8, 8, "fp6")


@pytest.mark.parametrize(
    ("text", "held"), [("", []), ("3", [3]), ("0-2", [0, 1, 2]), ("0-1,4,6-7", [0, 1, 4, 6, 7])]
)
def test_ranges_are_inclusive(text: str, held: list[int]) -> None:
    assert members(text, 8) == held


@pytest.mark.parametrize(
    "text", ["a", "3-1", "-1", "0-", ",", "0-8", "²", "0-99999999999", None, 7]
)
def test_what_is_no_range_is_refused(text: object) -> None:
    with pytest.raises(Unreadable):
        members(text, 8)


def test_quantities_are_read_exactly() -> None:
    assert quantity("85899345920 B", "B") == 85_899_345_920
    assert quantity("5e-06 s", "s") == 5e-06
    for wrong in ("5 GiB", "5", 5, "inf B", "1e99 B", " B"):
        with pytest.raises(Unreadable):
            quantity(wrong, "B")


def test_dead_gpus_leave_their_domain_and_nodes_join_one() -> None:
    pool = {
        "name": "p",
        "nodes": 3,
        "gpus_per_node": 2,
        "node_sizes": None,
        "nvlink_domain": 4,
        "dead": ["node0/gpu1", "node2"],
    }
    plan = {"cluster": {"pools": [pool]}}
    assert domains_of(plan, pool) == [["node0/gpu0", "node1/gpu0", "node1/gpu1"], []]


def test_nan_equals_nothing_and_true_is_no_number() -> None:
    nan = float("nan")
    assert not equal("x", nan, nan)[0]
    assert not equal("x", True, 1)[0]
    assert equal("x", 4, 4.0)[0]


def test_many_comparisons_name_the_first_that_fails() -> None:
    ok, detail = all_hold("rows", [equal("a", 1, 1), equal("b", 2, 3), equal("c", 5, 6)])
    assert not ok
    assert "b: the plan says 2, derived 3" in detail
