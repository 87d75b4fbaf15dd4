"""Commands as people write them: quoting, spellings, names of models, files with many."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch_commands import LLAMA, launch, layout

from optimizer.audit.launch.command import read_command, read_commands
from optimizer.audit.launch.flags import flag_table, read_flags
from optimizer.audit.launch.job import read_launches
from optimizer.audit.launch.names import model_of, read_name
from optimizer.errors import SpecError
from optimizer.spec.reading import read_cluster


def values(engine: str, *tokens: str) -> dict[str, object]:
    return dict(read_flags(tokens, flag_table(engine)).values)


def test_a_command_is_split_as_a_shell_splits_it() -> None:
    text = (
        "export NCCL_DEBUG=INFO VLLM_PP_LAYER_PARTITION=40,40 nohup vllm serve \\\n"
        "  'my model' --hf-overrides '{\"a\": 1}' > log.txt 2>&1 &"
    )
    command = read_command(text, "case")
    assert command.tokens == ("vllm", "serve", "my model", "--hf-overrides", '{"a": 1}')
    assert command.environment["VLLM_PP_LAYER_PARTITION"] == "40,40"


def test_long_short_and_joined_spellings_mean_the_same() -> None:
    for tokens in (
        ("--tensor-parallel-size", "8"),
        ("--tensor-parallel-size=8",),
        ("--tensor_parallel_size", "8"),
        ("-tp", "8"),
        ("-tp=8",),
    ):
        assert values("vllm", *tokens) == {"tensor": 8}
    for tokens in (("--tp", "8"), ("--tp-size=8",), ("--tensor-parallel-size", "8")):
        assert values("sglang", *tokens) == {"tensor": 8}


def test_switches_take_no_word_and_may_be_negated() -> None:
    found = read_flags(("-ep", "model", "--no-enable-chunked-prefill"), flag_table("vllm"))
    assert found.values == {"expert_parallel": True, "chunked_prefill": False}
    assert found.words == ("model",)


def test_sizes_are_read_as_vllm_reads_them() -> None:
    assert values("vllm", "--max-model-len", "32k") == {"context": 32_000}
    assert values("vllm", "--max-model-len", "32K") == {"context": 32_768}
    assert values("vllm", "--max-model-len", "auto") == {"context": None}


def test_flags_below_a_json_flag_are_read() -> None:
    assert values("vllm", "--eplb-config.num_redundant_experts=32") == {
        "eplb_config": {"num_redundant_experts": 32}
    }


def test_flags_that_do_not_matter_are_listed() -> None:
    tokens = ("--port", "8000", "--trust-remote-code", "-O3", "--served-model-name", "a", "b")
    found = read_flags(tokens, flag_table("vllm"))
    assert found.not_judged == ("--port", "--trust-remote-code", "-O3", "--served-model-name")
    assert found.words == ()


@pytest.mark.parametrize(
    ("engine", "command", "said"),
    [
        ("vllm", f"vllm serve {LLAMA} --tensor-paralel-size 8", "'--tensor-paralel-size'"),
        ("vllm", f"vllm serve {LLAMA} -tp eight", "'-tp eight' must be a whole number"),
        ("vllm", f"vllm serve {LLAMA} -tp", "'-tp' needs a value"),
        ("vllm", f"vllm serve {LLAMA} -tp 0", "'-tp 0' must be a whole number of at least 1"),
        ("vllm", f"vllm serve {LLAMA} --max-num-seqs 0.9", "of at least 1"),
        ("vllm", f"vllm serve {LLAMA} -tp 8 'x", "no closing quotation"),
        ("vllm", f"vllm serve {LLAMA} -tp $TP", "'$TP' is a shell variable"),
        ("vllm", f"vllm serve {LLAMA} ; vllm serve x", "';' joins commands"),
        ("vllm", f"vllm bench {LLAMA}", "must begin with 'vllm serve ...'"),
        ("vllm", "vllm serve nobody/knows-it", "add --model"),
        ("vllm", "vllm serve", "names no model"),
        ("vllm", f"vllm serve {LLAMA} --kv-cache-dtype nvfp4", "is not modelled"),
        ("vllm", f"vllm serve {LLAMA} --eplb-config [1]", "must be a JSON object"),
        ("vllm", f"VLLM_PP_LAYER_PARTITION=a,b vllm serve {LLAMA}", "must be layers by stage"),
        ("vllm", "", "holds no command"),
        ("sglang", f"sglang serve --model-path {LLAMA} --pp 2", "may be any of"),
        ("megatron", "torchrun train.py", "no --num-layers"),
        ("megatron", "torchrun --nnodes 2", "names no training script"),
        ("megatron", "torchrun --nnodes two train.py --num-layers 2", "add --model"),
        ("trtllm", "missing.yaml", "no such file"),
    ],
)
def test_a_malformed_command_is_an_error_that_shows_the_token(
    engine: str, command: str, said: str
) -> None:
    with pytest.raises(SpecError) as error:
        read_launches([(engine, command)], read_cluster("h200-sxm"), None)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "preset", "kind"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3", None),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3", None),
        ("nvidia/DeepSeek-R1-FP4", "deepseek-v3", "nvfp4"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b", "fp8"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b", None),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b", None),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", None),
        ("/models/gpt-oss-120b/", "gpt-oss-120b", None),
        ("Qwen/Qwen3-32B-AWQ", "qwen3-32b", "int4_g128"),
    ],
)
def test_names_are_read_as_people_write_them(name: str, preset: str, kind: str | None) -> None:
    found = read_name(name)
    assert found is not None
    assert found[:2] == (preset, kind)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("Qwen/Qwen3-235B-A22B", 40_960),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", 262_144),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", 262_144),
        ("moonshotai/Kimi-K2-Instruct", 131_072),
        ("moonshotai/Kimi-K2-Instruct-0905", 262_144),
    ],
)
def test_later_releases_of_one_shape_have_positions_of_their_own(name: str, context: int) -> None:
    """max_position_embeddings of each checkpoint's config.json."""
    assert model_of(name, None).max_context == context


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("--max-model-len 131072", ["refused"]),
        ("--max-model-len 40960", []),
        ("--max-model-len 131072 --hf-overrides {}", []),
    ],
)
def test_a_context_beyond_the_model_needs_more_positions(command: str, kinds: list[str]) -> None:
    found = launch("vllm", f"vllm serve Qwen/Qwen3-235B-A22B -tp 8 {command}")
    assert [rule.kind for rule in found.rules if rule.claim.startswith("--max-model")] == kinds


def test_vllm_takes_a_longer_context_where_it_is_told_to() -> None:
    command = "vllm serve Qwen/Qwen3-235B-A22B -tp 8 --max-model-len 131072"
    found = launch("vllm", f"VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 {command}")
    assert [rule.kind for rule in found.rules if "max-model" in rule.claim] == ["accepted"]


def test_variables_matter_only_where_a_flag_is_judged() -> None:
    found = launch("vllm", f"vllm serve {LLAMA} -tp 8 --host $HOST --api-key ${{KEY}}")
    assert layout(found).name == "TP8"
    with pytest.raises(SpecError, match="shell variable"):
        launch("vllm", "vllm serve $MODEL -tp 8")


def test_a_container_is_looked_into() -> None:
    run = "docker run --gpus all -p 8000:8000"
    flags = f"{LLAMA} --tensor-parallel-size 4"
    found = launch("vllm", f"{run} vllm/vllm-openai:v0.11.0 --model {flags}")
    assert layout(found).name == "TP4"
    inside = f"{run} lmsysorg/sglang:latest python3 -m sglang.launch_server --model-path"
    assert layout(launch("sglang", f"{inside} {LLAMA} --tp 2")).name == "TP2"


def test_an_unknown_name_is_none() -> None:
    assert read_name("my-org/My-Model-7B") is None
    assert read_name("deepseek-v3-banana") is None


def test_a_quantised_name_loads_fewer_bytes() -> None:
    assert model_of("Qwen/Qwen3-235B-A22B-FP8", None).precision.experts == "fp8_block"
    four = model_of("Qwen/Qwen3-235B-A22B-NVFP4", None).precision
    assert (four.experts, four.attention) == ("nvfp4", "bf16")
    assert model_of("nvidia/Llama-3.1-70B-Instruct-FP8", None).precision.ffn == "fp8"


def test_quantization_is_of_plain_checkpoints_only() -> None:
    found = launch("vllm", f"vllm serve {LLAMA} -tp 4 --quantization fp8 --kv-cache-dtype fp8")
    assert (found.model.precision.ffn, found.model.precision.kv_cache) == ("fp8", "fp8")
    found = launch("vllm", "vllm serve openai/gpt-oss-120b --quantization mxfp4")
    assert found.model.precision.experts == "mxfp4"


def test_a_file_holds_one_command_a_line(tmp_path: Path) -> None:
    path = tmp_path / "many.sh"
    path.write_text("# ours\nvllm serve a \\\n  -tp 8\n\nvllm serve b -tp 4\n")
    found = read_commands(str(path), "vllm")
    assert [(each.line, each.tokens[2:]) for each in found] == [
        (2, ("a", "-tp", "8")),
        (5, ("b", "-tp", "4")),
    ]


def test_a_csv_holds_a_command_a_row_and_its_name(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text('name,command\nprod,"vllm serve a -tp 8"\n,"vllm serve ""b c"""\n')
    found = read_commands(str(path), "vllm")
    assert [each.name for each in found] == ["prod", "vllm 2"]
    assert found[1].tokens == ("vllm", "serve", "b c")


def test_every_malformed_line_of_a_file_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("vllm serve 'a\nvllm serve b\nvllm serve \"c\n")
    with pytest.raises(SpecError) as error:
        read_commands(str(path), "vllm")
    assert [problem.line for problem in error.value.problems] == [1, 3]


def test_a_csv_without_commands_says_which_columns_it_has(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("name,model\na,b\n")
    with pytest.raises(SpecError, match="no column 'command'; its columns: name, model"):
        read_commands(str(path), "vllm")


def test_a_config_file_stands_below_the_commands_own_flags(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "tensor-parallel-size: 2\nmax-model-len: 8k\nenable-expert-parallel: true\n"
        "eplb-config: {num_redundant_experts: 0}\nenable-eplb: false\nport: 8000\n"
    )
    found = launch("vllm", f"vllm serve deepseek-ai/DeepSeek-V3 --config {path} -tp 8")
    assert (layout(found).name, found.context) == ("EP8-TP8", 8000)
    assert found.not_judged == ("--port",)
    path.write_text("tp-size: 2\ntrust-remote-code: true\n")
    found = launch("sglang", f"sglang serve --config={path} --model {LLAMA}")
    assert layout(found).name == "TP2"


def test_every_flag_table_is_whole() -> None:
    """No spelling stands twice, and everything judged is a spelling."""
    for engine in ("vllm", "sglang", "trtllm", "trtllm-yaml", "megatron"):
        table = flag_table(engine)
        assert all(flag.takes for flag in table.flags.values())
        assert all(" " not in name for name in table.flags)
        assert len([flag for flag in table.flags.values() if flag.key]) > 8


def test_environment_and_flags_together_make_one_layout() -> None:
    partition = "VLLM_PP_LAYER_PARTITION=21,19,20,20"
    found = launch("vllm", f"{partition} vllm serve {LLAMA} -tp 2 -pp 4")
    assert layout(found).name == "PP4-TP2"
    assert found.stage_layers == (21, 19, 20, 20)
    assert not found.rules
