"""Layouts by each engine's own rules, what it refuses, and what it takes and should not."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch_commands import DEEPSEEK, LLAMA, QWEN, SGLANG, VLLM, broken, launch, layout, training

from optimizer.errors import SpecError


@pytest.mark.parametrize(
    ("flags", "name", "gpus"),
    [
        ("-tp 8", "ETP8-TP8", 8),  # without EP experts are cut by TP x DP x PCP
        ("-tp 8 --enable-expert-parallel", "EP8-TP8", 8),
        ("-tp 8 -dp 2 -ep", "EP16-TP8-DP2", 16),
        ("-tp 4 -dp 2", "ETP8-TP4-DP2", 8),
        ("-dp 8 --enable-expert-parallel", "EP8-DP8", 8),
        ("-tp 2 -pcp 2 -dp 2 -pp 2 -ep", "PP2-EP8-TP2-CP2-DP2", 16),
    ],
)
def test_vllm_spans_experts_over_tp_x_dp_x_pcp(flags: str, name: str, gpus: int) -> None:
    found = launch("vllm", f"{VLLM} {DEEPSEEK} {flags}")
    assert (layout(found).name, found.gpus) == (name, gpus)
    assert layout(found).gpus == gpus


def test_a_dense_models_dp_ranks_are_replicas_in_vllm() -> None:
    found = launch("vllm", f"{VLLM} {LLAMA} -tp 4 -dp 2")
    assert (layout(found).name, found.gpus) == ("TP4-x2", 8)


@pytest.mark.parametrize(
    ("command", "kind", "claim"),
    [
        (f"{LLAMA} -tp 7", "refused", "-tp 7"),  # 64 heads
        (f"{DEEPSEEK} -tp 8 -dcp 3", "refused", "-dcp 3"),  # 8 % 3
        (f"{QWEN} -tp 8 -dcp 4", "refused", "-dcp 4"),  # 4 KV heads: at most 8 // 4
        (f"{QWEN} -tp 8 --enable-eplb", "refused", "--enable-eplb"),
        (f"{DEEPSEEK} -tp 8 -ep --num-redundant-experts 8", "refused", "num_redundant_experts 8"),
        (
            f"{DEEPSEEK} -tp 8 -ep --enable-eplb --eplb-config '{{\"num_redundant_experts\": 3}}'",
            "refused",
            "EP 8 with 3 redundant experts",
        ),
        (f"{QWEN} -tp 2 -dp 3 -ep", "wasteful", "EP 6"),
        (f"{LLAMA} -ep", "refused", "--enable-expert-parallel"),
        (f"{LLAMA} -tp 4 --max-model-len 200000", "refused", "--max-model-len 200000"),
        (
            f"{LLAMA} --max-num-batched-tokens 64 --max-num-seqs 128",
            "refused",
            "--max-num-batched-tokens 64",
        ),
        (
            f"{LLAMA} --max-model-len 16384 --no-enable-chunked-prefill "
            "--max-num-batched-tokens 8192",
            "refused",
            "--max-num-batched-tokens 8192",
        ),
        (
            f"{LLAMA} -tp 16 -dcp 2 --gpu-memory-utilization 1",
            "refused",
            "--gpu-memory-utilization 1",
        ),
        (f"{QWEN} -tp 64 -dcp 3", "refused", "-dcp 3"),  # 16 query heads a KV head % 3
        (f"{DEEPSEEK} -tp 8 --kv-cache-dtype fp8_e5m2", "refused", "--kv-cache-dtype fp8_e5m2"),
        (f"{DEEPSEEK} -tp 8", "wasteful", "-tp 8"),  # a latent on each rank
        (f"{QWEN} -tp 8", "wasteful", "-tp 8"),  # 4 KV heads twice each
        (f"{LLAMA} --gpu-memory-utilization 1.5", "refused", "--gpu-memory-utilization 1.5"),
        (f"{LLAMA} -pp 81", "refused", "VLLM_PP_LAYER_PARTITION 81"),
        (f"{LLAMA} -dp 2 -dpl 4", "refused", "-dpl 4"),
    ],
)
def test_vllm_refuses(command: str, kind: str, claim: str) -> None:
    assert (kind, claim) in broken(launch("vllm", f"{VLLM} {command}"))


@pytest.mark.parametrize(
    "command",
    [
        f"{DEEPSEEK} -tp 8 -dcp 8",  # one latent for all heads: at most 8 // 1
        f"{QWEN} -tp 8 -dcp 2",
        f"{DEEPSEEK} -dp 32 -ep --enable-eplb --num-redundant-experts 32",  # 288 % 32
        f"{LLAMA} --max-num-batched-tokens 64",  # the default of --max-num-seqs follows
        f"{QWEN} -tp 4 -ep",
        f"{LLAMA} -tp 8 -pp 2",
    ],
)
def test_vllm_takes(command: str) -> None:
    assert broken(launch("vllm", f"{VLLM} {command}")) == []


def test_uneven_experts_are_counted_as_vllm_spreads_them() -> None:
    """128 on EP6: 22, 22, 21, 21, 21, 21."""
    (rule,) = launch("vllm", f"{VLLM} {QWEN} -tp 2 -dp 3 -ep").rules
    assert "22, 22, 21, 21, 21, 21" in rule.arithmetic


def test_a_partition_names_each_stage_and_layer() -> None:
    found = launch("vllm", f"VLLM_PP_LAYER_PARTITION=20,25,25 {VLLM} {LLAMA} -pp 4")
    assert [rule.arithmetic for rule in found.rules] == [
        "names 3 stages, the pipeline has 4",
        "sums to 70 layers, the model has 80",
    ]


@pytest.mark.parametrize(
    ("flags", "name", "gpus"),
    [
        ("--tp 8", "ETP8-TP8", 8),
        ("--tp 8 --ep 8", "EP8-TP8", 8),
        ("--tp 8 --ep 4", "EP4-ETP2-TP8", 8),
        ("--tp 16 --attn-dp-size 4 --ep 16", "EP16-TP4-DP4", 16),
        ("--tp 16 --dp 16 --enable-dp-attention --ep 16", "EP16-DP16", 16),  # the old spelling
        ("--tp 8 --dp-size 2 --ep 8", "EP8-TP8-x2", 16),  # dp counts replicas now
        ("--tp 8 --moe-a2a-backend deepep", "EP8-TP8", 8),  # forces ep = tp
        ("--tp 8 --pp-size 2 --ep 8", "PP2-EP8-TP8", 16),
        ("--tp 8 --attn-cp-size 2 --ep 8", "EP8-TP4-CP2", 8),
    ],
)
def test_sglangs_tp_is_the_whole_width(flags: str, name: str, gpus: int) -> None:
    found = launch("sglang", f"{SGLANG} {DEEPSEEK} {flags}")
    assert (layout(found).name, found.gpus) == (name, gpus)


@pytest.mark.parametrize(
    ("command", "kind", "claim"),
    [
        (f"{DEEPSEEK} --tp 8 --ep 3", "accepted", "--tp-size 8 --ep-size 3"),
        (f"{DEEPSEEK} --tp 8 --ep 16", "accepted", "--tp-size 8 --ep-size 16"),
        (f"{LLAMA} --tp 7", "accepted", "attention TP 7"),
        (f"{DEEPSEEK} --tp 8 --attn-dp-size 3", "refused", "--tp-size 8 --attn-dp-size 3"),
        (
            f"{DEEPSEEK} --tp 8 --ep 8 --enable-eplb --ep-num-redundant-experts 4",
            "refused",
            "--ep-size 8",
        ),
        (f"{LLAMA} --tp 8 --ep 8", "accepted", "--ep-size 8"),
        (f"{LLAMA} --mem-fraction-static 1.2", "refused", "--mem-fraction-static 1.2"),
    ],
)
def test_sglang_is_judged_more_strictly_than_its_parser(
    command: str, kind: str, claim: str
) -> None:
    assert (kind, claim) in broken(launch("sglang", f"{SGLANG} {command}"))


TRTLLM = """\
model: {model}
tensor_parallel_size: 8
moe_expert_parallel_size: {ep}
enable_attention_dp: {dp}
max_batch_size: 256
max_num_tokens: 4096
kv_cache_config: {{free_gpu_memory_fraction: 0.8, dtype: fp8, enable_block_reuse: false}}
"""


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "llm.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("ep", "dp", "name"),
    [("8", "true", "EP8-DP8"), ("4", "false", "EP4-ETP2-TP8"), ("2", "true", "EP2-ETP4-DP8")],
)
def test_tensorrt_llms_attention_dp_is_its_tp(tmp_path: Path, ep: str, dp: str, name: str) -> None:
    source = yaml_file(tmp_path, TRTLLM.format(model=DEEPSEEK, ep=ep, dp=dp))
    found = launch("trtllm", source)
    assert layout(found).name == name
    assert (found.sequences, found.step_tokens, found.budget.fraction) == (256, 4096, 0.8)
    assert found.model.precision.kv_cache == "fp8"
    assert found.not_judged == ("kv_cache_config.enable_block_reuse",)
    assert not found.refused


def test_tensorrt_llms_expert_grid_must_cover_its_tp(tmp_path: Path) -> None:
    text = TRTLLM.format(model=DEEPSEEK, ep="3", dp="false")
    found = launch("trtllm", yaml_file(tmp_path, text))
    assert found.layout is None
    assert broken(found) == [("refused", "moe_expert_parallel_size 3")]
    both = TRTLLM.format(model=DEEPSEEK, ep="2", dp="false") + "moe_tensor_parallel_size: 8\n"
    assert launch("trtllm", yaml_file(tmp_path, both)).layout is None


def test_tensorrt_llms_slots_hold_every_expert(tmp_path: Path) -> None:
    text = TRTLLM.format(model=QWEN, ep="8", dp="true")
    few = text + "moe_config: {load_balancer: {num_slots: 120}}\n"
    assert ("refused", "num_slots 120") in broken(launch("trtllm", yaml_file(tmp_path, few)))
    more = text + "moe_config: {load_balancer: {num_slots: 144}}\n"
    found = launch("trtllm", yaml_file(tmp_path, more))
    assert (found.redundant_experts, found.rules) == (16, ())
    short = "moe_config: {load_balancer: {num_slots: 144, initial_global_assignments: {0: [1]}}}\n"
    found = launch("trtllm", yaml_file(tmp_path, text + short))
    assert ("refused", "initial_global_assignments of layer 0") in broken(found)


def test_a_yaml_of_a_command_wins_over_its_flags(tmp_path: Path) -> None:
    source = yaml_file(tmp_path, "tensor_parallel_size: 4\nenable_attention_dp: true\n")
    command = f"trtllm-serve {QWEN} --tp_size 8 --ep_size 4 --extra_llm_api_options {source}"
    assert layout(launch("trtllm", command)).name == "EP4-DP4"


def test_a_wrapped_command_is_read_from_its_program() -> None:
    command = f"mpirun -n 8 trtllm-llmapi-launch trtllm-serve {QWEN} --tp_size 8 --ep_size 8"
    found = launch("trtllm", command)
    assert (layout(found).name, found.gpus) == ("EP8-TP8", 8)
    assert found.not_judged == ("mpirun -n 8 trtllm-llmapi-launch",)


def test_more_gpus_than_exist_are_refused() -> None:
    for engine, command in (
        ("vllm", f"{VLLM} {DEEPSEEK} -tp 100000 -dp 100000"),
        ("sglang", f"{SGLANG} {DEEPSEEK} --tp 100000000 --dp 16"),
        ("trtllm", f"trtllm-serve {DEEPSEEK} --tp_size 1000000000"),
    ):
        with pytest.raises(SpecError, match="more than 1,000,000 are refused"):
            launch(engine, command)


def test_every_wrong_key_of_a_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    source = yaml_file(
        tmp_path, f"model: {DEEPSEEK}\ntensor_paralel_size: 8\nmax_batch_size: many\n"
    )
    with pytest.raises(SpecError) as error:
        launch("trtllm", source)
    first, second = error.value.problems
    assert (first.line, second.line) == (2, 3)
    assert "did you mean 'tensor_parallel_size'" in first.message
    assert "'max_batch_size many' must be a whole number" in second.message


SHAPE = "--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --vocab-size 32000"
MOE = f"{SHAPE} --num-experts 8 --moe-ffn-hidden-size 14336 --swiglu"


@pytest.mark.parametrize(
    ("degrees", "name"),
    [
        ("--tensor-model-parallel-size 4", "TP4-DP8"),
        ("--tensor-model-parallel-size 4 --pipeline-model-parallel-size 2", "PP2-TP4-DP4"),
        ("--tensor-model-parallel-size 2 --context-parallel-size 4", "TP2-CP4-DP4"),
        (
            "--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 2 "
            "--global-batch-size 64",
            "PP4-VP4-DP8",
        ),
    ],
)
def test_megatrons_dp_is_the_rest_of_the_world(degrees: str, name: str) -> None:
    command = f"torchrun --nnodes 4 --nproc_per_node 8 pretrain_gpt.py {SHAPE} {degrees}"
    found = training(command)
    assert (layout(found).name, found.gpus, broken(found)) == (name, 32, [])


def test_megatrons_expert_grid_has_a_dp_of_its_own() -> None:
    """World 32 / (ETP 2 x EP 8 x PP 1) = EDP 2; ETP is TP unless stated."""
    command = f"torchrun --nnodes=4 --nproc-per-node=8 pretrain_gpt.py {MOE} --sequence-parallel "
    command += "--tensor-model-parallel-size 2 --expert-model-parallel-size 8"
    assert layout(training(command)).name == "EP8-ETP2-EDP2-TP2-DP16"
    one = command + " --expert-tensor-parallel-size 1"
    assert layout(training(one)).name == "EP8-EDP4-TP2-DP16"


@pytest.mark.parametrize(
    ("flags", "claim"),
    [
        ("--tensor-model-parallel-size 3", "TP 3 PP 1 CP 1"),
        (
            "--tensor-model-parallel-size 2 --expert-model-parallel-size 8",
            "TP 2 EP 8",  # needs sequence parallelism
        ),
        ("--expert-model-parallel-size 5", "ETP 1 EP 5 PP 1"),
        ("--global-batch-size 33", "--global-batch-size 33"),
        ("--pipeline-model-parallel-size 16 --num-layers 30", "--pipeline-model-parallel-size 16"),
        (
            '--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout "Ett|ttL"',
            "--pipeline-model-parallel-layout Ett|ttL",
        ),
        (
            "--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 3",
            "--num-layers-per-virtual-pipeline-stage 3",
        ),
    ],
)
def test_megatron_refuses(flags: str, claim: str) -> None:
    command = f"torchrun --nnodes 4 --nproc_per_node 8 pretrain_gpt.py {MOE} {flags}"
    assert ("refused", claim) in broken(training(command))


def test_a_pipeline_layout_is_read_piece_by_piece() -> None:
    """Two chunks a rank: stage 0 has pieces 0 and 2."""
    text = (
        '--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout "Et*7|t*9|(t|)*1t*15L"'
    )
    command = f"torchrun --nnodes 4 --nproc_per_node 8 pretrain_gpt.py {SHAPE} {text}"
    found = training(f"{command} --global-batch-size 64")
    assert (layout(found).vp, found.stage_layers, found.rules) == (2, (8, 24), ())
