"""Cache capacity by hand, against published budgets, and what it means for a command's limits."""

from __future__ import annotations

import pytest
from launch_commands import DEEPSEEK, LLAMA, SGLANG, VLLM, launch, training

from optimizer.audit.launch.capacity import capacity_of, room_for_cache
from optimizer.audit.launch.launch import Budget
from optimizer.audit.launch.sglang import default_fraction
from optimizer.audit.launch.training import parameters_held
from optimizer.spec.linears import total_parameters
from optimizer.spec.reading import read_cluster, read_model
from optimizer.units import GIB

H200 = 141 * GIB


def test_latent_attention_keeps_70272_bytes_a_token_on_every_rank() -> None:
    """DeepSeek-V3: 61 layers x (512 + 64) x 2 B."""
    found = launch("vllm", f"{VLLM} {DEEPSEEK} -tp 8 -ep --max-model-len 1000")
    assert capacity_of(found, H200).request_bytes == 61 * (512 + 64) * 2 * 1000 == 70_272_000
    shared = launch("vllm", f"{VLLM} {DEEPSEEK} -tp 8 -dcp 4 -ep --max-model-len 1000")
    assert capacity_of(shared, H200).request_bytes == 70_272_000 / 4


@pytest.mark.parametrize(("tp", "kv_heads"), [(1, 8), (4, 2), (8, 1), (16, 1)])
def test_grouped_query_attention_keeps_a_head_at_least(tp: int, kv_heads: int) -> None:
    """Llama 70B: 2 x 80 layers x KV heads of a rank x 128 x 2 B."""
    found = launch("vllm", f"{VLLM} {LLAMA} -tp {tp} --max-model-len 1000")
    assert capacity_of(found, H200).request_bytes == 2 * 80 * kv_heads * 128 * 2 * 1000


def test_an_fp8_cache_holds_twice_the_requests() -> None:
    one = capacity_of(launch("vllm", f"{VLLM} {LLAMA} -tp 4"), H200)
    two = capacity_of(launch("vllm", f"{VLLM} {LLAMA} -tp 4 --kv-cache-dtype fp8"), H200)
    assert two.requests == pytest.approx(2 * one.requests)


def test_each_engines_budget_by_hand() -> None:
    """100 GiB, 40 of weights, 10 of activations and the rest."""
    amounts = (40 * GIB, 10 * GIB, 100 * GIB)
    for kind, room in (("whole", 40), ("static", 50), ("free", 45)):
        budget = Budget(kind, "", 0.9)
        assert room_for_cache(budget, *amounts).bytes == pytest.approx(room * GIB)
    assert room_for_cache(Budget("stated", "", 1, 7 * GIB), *amounts).bytes == 7 * GIB


@pytest.mark.parametrize(
    ("weights", "peak", "other", "cache"),
    [(14.99, 4.76, 0.13, 51.38), (1.12, 5.56, 0.13, 64.45), (61.03, 5.64, 0.14, 4.45)],
)
def test_vllms_own_budget_adds_up(weights: float, peak: float, other: float, cache: float) -> None:
    """Logs of vLLM on an H100 of 79.18 GiB at 0.9 ("vLLM Empirical Test Results Analysis")."""
    budget = Budget("whole", "", 0.9)
    room = room_for_cache(budget, weights * GIB, (peak + other) * GIB, 79.18 * GIB)
    assert room.bytes / GIB == pytest.approx(cache, abs=0.01)


@pytest.mark.parametrize(
    ("command", "weights", "cache"),
    [
        ("meta-llama/Llama-3.1-8B", 14.99, 51.38),
        ("Qwen/Qwen3-32B", 61.03, 4.45),
        ("Qwen/Qwen3-32B -tp 2", 30.59, 34.49),
    ],
)
def test_capacity_is_near_what_vllm_reported(command: str, weights: float, cache: float) -> None:
    """The same logs: weights to 0.5 %, the cache to 4 %."""
    flags = "--max-model-len 16000 --gpu-memory-utilization 0.9"
    found = capacity_of(launch("vllm", f"{VLLM} {command} {flags}", "h100-sxm"), 79.18 * GIB)
    assert found.static_bytes / GIB == pytest.approx(weights, rel=0.005)
    assert found.room.bytes / GIB == pytest.approx(cache, rel=0.04)


def test_the_stage_with_least_room_counts() -> None:
    found = launch("vllm", f"VLLM_PP_LAYER_PARTITION=50,30 {VLLM} {LLAMA} -tp 2 -pp 2")
    capacity = capacity_of(found, H200)
    assert capacity.stage == 0
    even = capacity_of(launch("vllm", f"{VLLM} {LLAMA} -tp 2 -pp 2"), H200)
    assert capacity.requests < even.requests


def test_redundant_experts_take_room() -> None:
    plain = launch("vllm", f"{VLLM} {DEEPSEEK} -tp 8 -dp 4 -ep --enable-eplb")
    more = launch("vllm", f"{VLLM} {DEEPSEEK} -tp 8 -dp 4 -ep --enable-eplb "
                  "--num-redundant-experts 32")  # fmt: skip
    before, after = (capacity_of(each, H200).components["expert weights"] for each in (plain, more))
    assert after / before == pytest.approx(9 / 8)  # 9 slots a rank and layer, not 8


def test_weights_on_the_host_leave_room() -> None:
    plain = capacity_of(launch("vllm", f"{VLLM} {LLAMA} -tp 2"), H200)
    moved = capacity_of(launch("vllm", f"{VLLM} {LLAMA} -tp 2 --cpu-offload-gb 10"), H200)
    assert moved.room.bytes - plain.room.bytes == pytest.approx(10 * GIB)


def test_sglangs_default_fraction_by_hand() -> None:
    """H200: 512 + 1.5 x 8192 + 8 / 8 x 1024 + 2 x 512 = 14,848 MiB of 141 GiB stay free."""
    model, gpu = read_model("llama-3.1-70b").model, read_cluster("h200-sxm").pools[0].gpu
    assert default_fraction(model, gpu, 8192, 512, 8, 1) == round(1 - 14_848 / (141 * 1024), 3)


def test_a_token_cap_holds() -> None:
    found = launch("sglang", f"{SGLANG} {LLAMA} --tp 8 --max-total-tokens 100000")
    assert capacity_of(found, H200).tokens <= 100_000


def test_megatrons_parameters_add_up() -> None:
    """All ranks of one replica hold the model once: TP 1, EP 1, one stage."""
    shape = "--num-layers 8 --hidden-size 1024 --num-attention-heads 8 --vocab-size 32000"
    found = training(f"torchrun --nproc_per_node 8 train.py {shape}", 8)
    assert parameters_held(found).dense == total_parameters(found.model)


def test_adapters_take_their_slots_from_the_cache() -> None:
    """Llama 3.1 8B, a layer: q and o 8192 each, k and v 5120 each, gate, up and down 18432 each, in
    and out; rank 16 in 16 bits and 32 layers: 83.9 MB a slot."""
    small = "meta-llama/Llama-3.1-8B-Instruct"
    plain = capacity_of(launch("vllm", f"{VLLM} {small}"), H200)
    command = f"{VLLM} {small} --enable-lora --max-loras 4"
    found = capacity_of(launch("vllm", command), H200)
    one = (2 * 8192 + 2 * 5120 + 3 * 18432) * 16 * 2 * 32
    assert found.components["adapters"] == 4 * one
    assert plain.room.bytes - found.room.bytes == pytest.approx(4 * one)


def test_adapters_are_cut_as_their_layers_are_or_in_full() -> None:
    """On two ranks q has 4096 in and 2048 out of each rank; fully sharded both halves."""
    small = "meta-llama/Llama-3.1-8B-Instruct"
    command = f"{VLLM} {small} -tp 2 --enable-lora"
    half = capacity_of(launch("vllm", command), H200).components["adapters"]
    cut = capacity_of(launch("vllm", f"{command} --fully-sharded-loras"), H200)
    columns = 4096 + 2048 + 2 * (4096 + 512) + 2 * (4096 + 7168)  # q, k, v, gate, up
    rows = 2048 + 4096 + 7168 + 4096  # o, down
    assert half == (columns + rows) * 16 * 2 * 32
    assert cut.components["adapters"] == (2 * 8192 + 2 * 5120 + 3 * 18432) / 2 * 16 * 2 * 32
