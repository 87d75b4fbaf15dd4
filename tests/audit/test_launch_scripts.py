"""Training scripts as they are handed around: variables, arrays, defaults and sums."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from launch_commands import layout, training

from optimizer.audit.launch import audit_launches
from optimizer.audit.launch.command import read_commands
from optimizer.audit.launch.job import read_launches
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.audit.launch.megatron_model import moe_pattern
from optimizer.audit.launch.rules import unjudged
from optimizer.audit.launch.script import decided, expanded, started, statements
from optimizer.errors import SpecError
from optimizer.spec.linears import total_parameters
from optimizer.spec.reading import read_cluster, read_model

SCRIPT = """#!/bin/bash
# Runs a model of eight experts; "quotes" and (brackets) in comments are no matter
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-"4"}
WORLD_SIZE=$(($GPUS_PER_NODE*$NNODES))
DATA_PATH=$1   # the first word behind the script
DISTRIBUTED_ARGS="
    --nproc_per_node $GPUS_PER_NODE \\
    --nnodes $NNODES
"
MODEL_ARGS=(
    --num-layers 32            # as published
    --hidden-size 4096 --num-attention-heads 32
    --group-query-attention --num-query-groups 8
    --ffn-hidden-size 14336 --swiglu --vocab-size 32000
    --untie-embeddings-and-output-weights
    --num-experts 8 --moe-router-topk 2
)
TRAINING_ARGS=(
    --seq-length 4096 --micro-batch-size 1
    --global-batch-size $((8 * WORLD_SIZE))
    --expert-model-parallel-size 8 --pipeline-model-parallel-size 2
    --use-distributed-optimizer
)
if [ -n "$WANDB" ]; then
    TRAINING_ARGS+=(--tensor-model-parallel-size 4)
fi
mkdir -p logs
torchrun $DISTRIBUTED_ARGS pretrain_gpt.py \\
    ${MODEL_ARGS[@]} "${TRAINING_ARGS[@]}" --data-path $DATA_PATH 2>&1 | tee log
"""


def read(folder: Path, text: str) -> list[TrainingLaunch]:
    path = folder / "train.sh"
    path.write_text(text)
    found = read_launches([("megatron", str(path))], read_cluster("h100-sxm", gpus=32), None)
    return [each for each in found if isinstance(each, TrainingLaunch)]


def test_a_script_is_read_as_the_command_that_it_starts(tmp_path: Path) -> None:
    (found,) = read(tmp_path, SCRIPT)
    assert layout(found).name == "PP2-EP8-EDP2-DP16"
    assert (found.gpus, found.global_batch, found.seq_length) == (32, 256, 4096)
    mixtral = total_parameters(read_model("mixtral-8x7b").model)
    assert total_parameters(found.model) == pytest.approx(mixtral, rel=1e-6)


def test_what_stands_under_a_condition_is_left_out_and_said(tmp_path: Path) -> None:
    (found,) = read(tmp_path, SCRIPT)
    assert layout(found).tp == 1
    line = next(text for text in found.not_judged if "line" in text)
    assert line.startswith('if [ -n "$WANDB" ]')
    (said,) = (each for each in unjudged("x", found.not_judged) if "line" in each.claim)
    assert "matters" in said.arithmetic


def test_variables_of_a_script_are_the_environment_of_its_command(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text(SCRIPT)
    (command,) = read_commands(str(path), "megatron")
    assert command.environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert command.environment["WORLD_SIZE"] == "32"
    assert SCRIPT.splitlines()[(command.line or 0) - 1].startswith("torchrun")


def test_a_script_that_starts_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="starts no engine"):
        read(tmp_path, "#!/bin/bash\nA=1\necho $A\n")


def test_a_degree_that_the_script_does_not_set_is_asked_for(tmp_path: Path) -> None:
    text = SCRIPT.replace("--expert-model-parallel-size 8", "--expert-model-parallel-size $EP")
    with pytest.raises(SpecError, match=r"'\$EP' is a shell variable; write its value"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "3"),
        ("${A}x", "3x"),
        ("${B:-${A}}", "3"),
        ("${B:-'y z'}", "y z"),
        ("$((A * (A + 1)))", "12"),
        ("$(( $A*$C ))", "12"),
        ("$B", "$B"),
        ("$((B + 1))", "$((B + 1))"),
        ("$((A / 0))", "$((A / 0))"),
        ("$(date)", "'$(date)'"),
    ],
)
def test_values_are_put_in_place(text: str, value: str) -> None:
    assert expanded(text, {"A": "3", "C": "4"}) == value


def test_statements_end_outside_of_quotes_and_brackets() -> None:
    script = 'A=1; B="x; y"\nC=(a\n b) # no; more\nrun \\\n  on\n'
    assert [(line, " ".join(text.split())) for line, text in statements(script)] == [
        (1, "A=1"),
        (1, 'B="x; y"'),
        (2, "C=(a b)"),
        (4, "run on"),
    ]


@pytest.mark.parametrize(
    ("text", "moe"),
    [
        ("1", [True] * 4),
        ("2", [True, False, True, False]),
        ("([0]*1+[1]*3)", [False, True, True, True]),
        ("[0,1,1,0]", [False, True, True, False]),
    ],
)
def test_which_layers_are_moe_is_read_as_megatron_writes_it(text: str, moe: list[bool]) -> None:
    assert moe_pattern(text, 4) == moe


@pytest.mark.parametrize("text", ["[0]*3+[1]*58", "x", "[0]**9", "__import__('os')", "-1"])
def test_a_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--moe-layer-freq"):
        moe_pattern(text, 4)


def test_deepseek_v3_is_described_by_flags_alone() -> None:
    """Latent attention, three dense layers, 58 of experts: the preset's parameters without MTP."""
    shape = (
        "--num-layers 61 --hidden-size 7168 --ffn-hidden-size 18432 --num-attention-heads 128 "
        "--multi-latent-attention --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 "
        "--qk-pos-emb-head-dim 64 --v-head-dim 128 --num-experts 256 --moe-ffn-hidden-size 2048 "
        "--moe-shared-expert-intermediate-size 2048 --moe-router-topk 8 --swiglu "
        "--moe-layer-freq ([0]*3+[1]*58) --untie-embeddings-and-output-weights --vocab-size 129280"
    )
    found = training(f"torchrun --nnodes 4 --nproc_per_node 8 pretrain_gpt.py {shape}")
    preset = read_model("deepseek-v3").model.model_copy(update={"mtp": None})
    assert total_parameters(found.model) == pytest.approx(total_parameters(preset), rel=1e-4)


def test_what_matters_and_is_not_priced_stands_apart() -> None:
    command = "vllm serve meta-llama/Llama-3.1-8B-Instruct --port 1 --enable-lora --api-key x"
    load = {"input_len": 64, "output_len": 64, "concurrency": 4}
    found = audit_launches([("vllm", command)], "h100-sxm", flags=load).findings
    flags = {each.claim: each.arithmetic for each in found if each.quantity == "flags"}
    assert flags["--enable-lora"].startswith("matters and is not priced: the time of adapters")
    assert flags["--port --api-key"].startswith("not judged")


def test_only_flags_are_known_by_their_words() -> None:
    """A registry's image and a way to exchange are no encoders."""
    found = list(
        unjudged("x", ("srun --container-image=a", "--cp-comm-type", "--mm-encoder-tp-mode"))
    )
    assert [each.claim for each in found] == [
        "--mm-encoder-tp-mode",
        "srun --container-image=a --cp-comm-type",
    ]


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("[ a = a ]", True),
        ('[[ "a" == "b" ]]', False),
        ("[ 8 -gt 1 ]", True),
        ("[ 8 -gt x ]", None),
        ('[ -n "a" ]', True),
        ('[ -z "" ]', True),
        ('[ -n "$A" ]', None),
        ("[ -f train.py ]", None),
        ("[[ a == b ]] || [[ c == c ]]", True),
        ("[ a = a ] && [ $X = 1 ]", None),
        ("[ a = b ] && [ $X = 1 ]", False),
    ],
)
def test_conditions_are_decided_where_their_values_are_known(
    condition: str, verdict: bool | None
) -> None:
    assert decided(condition) is verdict


def test_the_branch_that_the_scripts_own_values_choose_is_read() -> None:
    script = """
PRECISION=bf16
if [ "$PRECISION" = fp8 ]; then
    FLAGS="--fp8-format hybrid"
elif [ "$PRECISION" = bf16 ]; then
    FLAGS="--bf16"
else
    FLAGS="--fp16"
fi
if [ -n "$UNSET" ]; then FLAGS="$FLAGS --x"; else FLAGS="$FLAGS --y"; fi
for i in 1 2; do FLAGS="$FLAGS --z"; done
run $FLAGS
"""
    (found,) = started(script)
    assert found.text == "run --bf16"
    assert found.left_out == (
        'if [ -n "$UNSET" ] ... (line 10)',
        "for i in 1 2 ... (line 11)",
    )


def test_elements_of_an_array_fall_apart_without_quotes_only() -> None:
    script = """A=("--split 9,1" "--x")
run ${A[@]}
run "${A[@]}"
"""
    assert [shlex.split(found.text) for found in started(script)] == [
        ["run", "--split", "9,1", "--x"],
        ["run", "--split 9,1", "--x"],
    ]


def test_what_another_command_prints_is_one_unknown_word(tmp_path: Path) -> None:
    ports = SCRIPT.replace("    --nnodes $NNODES\n", "    --nnodes $NNODES --master_port $PORT\n")
    text = ports.replace("GPUS_PER_NODE=8", "GPUS_PER_NODE=8\nPORT=$(shuf -n 1 -i 1000-2000)")
    (found,) = read(tmp_path, text)
    assert found.gpus == 32
    (command,) = started("P=$(shuf -n 1)\nA=(--port $P)\nrun ${A[@]}")
    assert shlex.split(command.text) == ["run", "--port", "$(shuf -n 1)"]
    with pytest.raises(SpecError, match="shell variable"):
        read(tmp_path, SCRIPT.replace("GPUS_PER_NODE=8", "GPUS_PER_NODE=`nvidia-smi -L | wc -l`"))


def test_other_programs_of_a_script_are_passed_over(tmp_path: Path) -> None:
    """Preparation by Python, a profiler around the run, a server in a function's braces."""
    text = SCRIPT.replace("mkdir -p logs", "python tools/preprocess_data.py --input x --workers 8")
    (found,) = read(tmp_path, text.replace("torchrun", "nsys profile -o out torchrun"))
    assert layout(found).name == "PP2-EP8-EDP2-DP16"
    assert found.not_judged[0] == "nsys profile -o out"
    path = tmp_path / "serve.sh"
    path.write_text("serve() {  # until stopped\n  vllm serve a -tp 2 &\n}\nsleep 1\n")
    assert [each.tokens for each in read_commands(str(path), "vllm")] == [
        ("vllm", "serve", "a", "-tp", "2")
    ]


def test_a_command_in_another_shells_quotes_is_found() -> None:
    inner = "trtllm-llmapi-launch trtllm-serve deepseek-ai/DeepSeek-V3 --tp_size 16 --ep_size 4"
    (found,) = read_commands(f'srun -N 2 --ntasks 16 bash -c "{inner}"', "trtllm")
    assert found.tokens[:2] == ("trtllm-serve", "deepseek-ai/DeepSeek-V3")
