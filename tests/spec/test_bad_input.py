"""Each kind of wrong input: one message a key, with file, line and what to write; exit code 2."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizer.errors import SpecError
from optimizer.layout import read_strategy
from optimizer.spec.reading import read_cluster, read_job, read_model, read_workload

Reader = Callable[[Path], object]


def refused(reader: Reader, path: Path, content: str | bytes) -> SpecError:
    """The error that a file with this content causes, within a second."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.process_time()
    with pytest.raises(SpecError) as caught:
        reader(path)
    assert time.process_time() - begun < 1
    assert caught.value.exit_code == 2
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return caught.value


CLUSTERS = [
    ("a misspelt key", "preset: h200-sxm\nnodse: 3\n", 2, "nodse", "did you mean 'nodes'?"),
    ("a misspelt inner key", "preset: l4\ngpu: {memroy: 64 GB}", 2, "gpu.memroy", "'memory'"),
    (
        "a missing unit",
        "preset: l4\ngpu: {memory: 64}",
        2,
        "gpu.memory",
        "write for example '80 GiB'",
    ),
    ("a wrong unit", "preset: l4\ngpu: {power: 3 GB}", 2, "gpu.power", "unknown unit 'GB'"),
    ("a negative number", "preset: l4\nnodes: -1", 2, "nodes", "at least 1, not -1"),
    ("a negative size", "preset: l4\ngpu: {memory: -1 GB}", 2, "gpu.memory", "more than zero"),
    ("zero", "preset: l4\ngpus_per_node: 0", 2, "gpus_per_node", "at least 1, not 0"),
    ("no GPUs", "preset: l4\ngpus: 0", 2, "gpus", "from 1 to 1,000,000, not 0"),
    ("NaN", "preset: l4\ngpu: {memory: .nan}", 2, "gpu.memory", "finite number, not .nan"),
    ("infinity", "preset: l4\ngpu:\n  price_per_hour: .inf", 3, "gpu.price_per_hour", "finite"),
    ("an absurd size", "preset: l4\ngpu: {memory: 1e300 GB}", 2, "gpu.memory", "beyond anything"),
    (
        "an absurd count",
        "preset: l4\nnodes: 200000\ngpus_per_node: 1000",
        2,
        "nodes",
        "200,000,000",
    ),
    (
        "text for a number",
        "preset: l4\nnodes: eight",
        2,
        "nodes",
        "whole number of at least 1, not",
    ),
    ("a number for a mapping", "preset: l4\ngpu: 12", 2, "gpu", "a mapping (key: value), not 12"),
    ("a text for a list", "preset: l4\ndead: node0", 2, "dead", "must be a list, [a, b]"),
    ("a dead GPU too many", "preset: l4\ndead: [node0/gpu8]", 2, "dead", "names node0/gpu8, which"),
    ("all GPUs dead", "preset: l4\ndead: [node0]", 2, "dead", "one at least must live"),
    ("a GPU dead twice", "preset: l4\ndead: [node0/gpu1, node0/gpu1]", 2, "dead", "twice"),
    ("an unknown preset", "preset: h20\n", 1, "preset", "did you mean 'h200-sxm'"),
    ("a preset that is a list", "preset: [l4]", 1, "preset", "a preset's name, not a list"),
    (
        "an unknown precision",
        "preset: l4\ngpu: {flops: {fp9: 1 TFLOP/s}}",
        2,
        "gpu.flops.fp9",
        "'fp8'",
    ),
    (
        "an unknown generation",
        "preset: l4\ngpu: {generation: hoper}",
        2,
        "gpu.generation",
        "'hopper'",
    ),
    ("no GPU at all", "nodes: 2", None, "gpu", "is missing; write for example 'gpu: {memory"),
    ("no pools", "pools: []", 1, "pools", "at least one entry"),
    ("two pools of one name", "pools: [{preset: l4}, {preset: l4}]", 1, "pools", "share a name"),
    (
        "node sizes too few",
        "preset: l4\nnodes: 3\nnode_sizes: [8, 4]",
        3,
        "node_sizes",
        "3 nodes, not 2",
    ),
    ("a duplicate key", "preset: l4\nnodes: 1\nnodes: 2", 3, "nodes", "twice, first on line 2"),
    ("an anchor", "a: &x [1]", 1, "a", "anchors and aliases"),
    ("an alias", "a: 1\nb: *x", 2, "b", "anchors and aliases"),
    ("a merge key", "a: 1\n<<: *x", 2, "<<", "anchors and aliases"),
    ("a tag", "a: !!python/object/apply:os.system [ls]", 1, "a", "tags are refused"),
    ("a list for a file", "- a", 1, None, "must hold a mapping"),
    ("a list for a key", "[a]: 1", 1, None, "a key must be a plain word"),
    ("two documents", "a: 1\n---\nb: 1", 2, None, "more than one document"),
    ("broken YAML", "a: [1\nb: 2", 2, None, "is no valid YAML"),
    ("a tabulator", "a:\n\tb: 1", 2, None, "is no valid YAML"),
    ("comments only", "# nothing\n", None, None, "nothing but comments"),
    ("an empty file", " \n", None, None, "is empty"),
    ("a binary file", b"\0\1\2" * 100, None, None, "is a binary file"),
    ("Latin-1", "a: 1\nb: caf\xe9".encode("latin-1"), 2, None, "is not UTF-8"),
    ("100 MB", b"a: " + b"x" * 100_000_000, None, None, "larger than 4 MB"),
    ("a deep flow", "a: " + "[" * 1_000_000, 1, None, "more than 50 deep"),
    ("a deep block", "\n".join(" " * n + "a:" for n in range(100)), 52, None, "more than 50 deep"),
    ("a wide list", "a: [" + "1," * 1_900_000 + "]", 1, None, "more than 100,000 values"),
]


@pytest.mark.parametrize(
    ("content", "line", "key", "message"),
    [row[1:] for row in CLUSTERS],
    ids=[row[0] for row in CLUSTERS],
)
def test_a_wrong_cluster_file_says_where_and_what_to_write(
    tmp_path: Path, content: str | bytes, line: int | None, key: str | None, message: str
) -> None:
    error = refused(read_cluster, tmp_path / "hardware.yaml", content)
    (problem,) = error.problems
    assert (problem.line, problem.key) == (line, key)
    assert message in problem.message


FLAT = "num_layers: 2\nhidden_size: 1024\n"
MODELS = [
    ("a misspelt key", "num_layers: 2\nhiden_size: 4\nffn: {}", 2, "hiden_size", "'hidden_size'"),
    (
        "text for a number",
        FLAT + "ffn: {intermediate_size: big}",
        3,
        "ffn.intermediate_size",
        "'big'",
    ),
    ("no layers", "hidden_size: 4\nffn: {}", None, "num_layers", "is missing; write"),
    ("too many layers", "num_layers: 99999\nffn: {}", 1, "num_layers", "from 1 to 1,000"),
    (
        "no FFN",
        FLAT,
        None,
        "ffn",
        "is missing; write for example 'ffn: {intermediate_size: 14336}', or moe",
    ),
    (
        "an absurd size",
        "num_layers: 2\nhidden_size: 99999999\nffn: {}",
        2,
        "hidden_size",
        "at most",
    ),
    (
        "heads that do not group",
        FLAT + "ffn: {}\nattention: {num_heads: 10, num_kv_heads: 3}",
        4,
        "attention.num_kv_heads",
        "must divide the 10 heads",
    ),
    (
        "more experts than there are",
        FLAT + "moe: {num_experts: 4, num_experts_per_token: 9}",
        3,
        "moe.num_experts_per_token",
        "is 9, more than the 4 experts",
    ),
    (
        "a misspelt shorthand",
        FLAT + "moe: {num_experts: 4, sahred_experts: 1}",
        3,
        "moe.sahred_experts",
        "'shared_experts'",
    ),
    ("an unknown format", FLAT + "ffn: {}\nprecision: fp7", 4, "precision", "did you mean 'fp8'?"),
    (
        "an unknown attention",
        FLAT + "ffn: {}\nattention: {kind: gka}",
        4,
        "attention.kind",
        "one of gqa",
    ),
    (
        "no MoE layer left",
        FLAT + "moe: {num_experts: 4}\nleading_dense_layers: 2",
        3,
        "moe",
        "leaves none",
    ),
    (
        "flat beside full",
        "layers: [{types: [a]}]\nnum_layers: 2\nhidden_size: 4\nvocab_size: 4\n"
        "layer_types: {a: {attention: {num_heads: 1}, ffn: {intermediate_size: 4}}}",
        2,
        "num_layers",
        "belongs to the flat form",
    ),
    (
        "an unknown layer type",
        "layers:\n  - {types: [b]}\nhidden_size: 4\nvocab_size: 4\n"
        "layer_types: {a: {attention: {num_heads: 1}, ffn: {intermediate_size: 4}}}",
        1,
        "layers",
        "names b; layer_types has a",
    ),
    (
        "a wrong total",
        FLAT + "ffn: {}\nnum_parameters: 30 B",
        4,
        "num_parameters",
        "says 30 B, but",
    ),
    (
        "a total that is no number",
        FLAT + "ffn: {}\nnum_parameters: many",
        4,
        "num_parameters",
        "'30 B'",
    ),
    (
        "stated and assumed",
        FLAT + "ffn: {}\nassumed: {hidden_size: 3, why: x}",
        4,
        "assumed.hidden_size",
        "both stated and assumed",
    ),
    (
        "a strategy that is a list",
        FLAT + "ffn: {}\nstrategy: [TP2]",
        4,
        "strategy",
        "a name such as",
    ),
    (
        "a workload that is a number",
        FLAT + "ffn: {}\nworkload: 3",
        4,
        "workload",
        "must be a mapping",
    ),
    ("an unknown preset", "preset: deepseek-v33", 1, "preset", "did you mean 'deepseek-v3"),
    (
        "a million experts a layer",
        "num_layers: 999\nmoe: {num_experts: 100000}",
        None,
        "layers",
        "99,900,000 experts",
    ),
]


@pytest.mark.parametrize(
    ("content", "line", "key", "message"),
    [row[1:] for row in MODELS],
    ids=[row[0] for row in MODELS],
)
def test_a_wrong_model_file_says_where_and_what_to_write(
    tmp_path: Path, content: str, line: int | None, key: str | None, message: str
) -> None:
    error = refused(read_model, tmp_path / "model.yaml", content)
    (problem,) = error.problems
    assert (problem.line, problem.key) == (line, key)
    assert message in problem.message


WORKLOADS = [
    (
        "two kinds at once",
        "batch: 3\ninput_len: 4",
        2,
        "input_len",
        "of serving and batch of a forward",
    ),
    ("an unknown kind", "kind: servign", 1, "kind", "one of forward, serving"),
    ("a limit without unit", "ttft: 2", 1, "ttft", "2 has no unit; write for example '50 ms'"),
    ("an unknown percentile", "tpot: 50 ms p98", 1, "tpot", "one of mean, p50"),
    ("an unknown engine", "engine: vlm", 1, "engine", "did you mean 'vllm'?"),
    ("a prefix longer than the input", "input_len: 8\nprefix_len: 9", 2, "prefix_len", "less than"),
    ("both loads", "concurrency: 8\nrequest_rate: 1 /s", 2, "request_rate", "one of the two"),
    ("a margin above one", "memory_margin: 2", 1, "memory_margin", "at most 1"),
    ("a misspelt key", "input_length: 3", 1, "input_length", "did you mean 'input_len'?"),
]


@pytest.mark.parametrize(
    ("content", "line", "key", "message"),
    [row[1:] for row in WORKLOADS],
    ids=[row[0] for row in WORKLOADS],
)
def test_a_wrong_workload_file_says_where_and_what_to_write(
    tmp_path: Path, content: str, line: int, key: str, message: str
) -> None:
    error = refused(read_workload, tmp_path / "workload.yaml", content)
    (problem,) = error.problems
    assert (problem.line, problem.key) == (line, key)
    assert message in problem.message


JSON = [
    ("a trailing comma", '{"a": 1,}', 1, None, "is no valid JSON"),
    ("a duplicate key", '{"a": 1,\n "b": {"c": 1,\n "c": 2}}', 3, "b.c", "twice, first on line 2"),
    ("NaN", '{"a": [1,\n NaN]}', 2, "a[1]", "finite number, not NaN"),
    ("a number beyond all", '{"a": 1e999}', 1, "a", "finite number, not 1e999"),
    ("a number of 5,000 digits", '{"a": ' + "1" * 5000 + "}", None, None, "thousands of digits"),
    ("deep nesting", "[" * 500_000, None, None, "more than 50 deep"),
    ("legal deep nesting", '{"a":' * 60 + "1" + "}" * 60, None, None, "more than 50 deep"),
    (
        "millions of lists",
        '{"a": [' + "[]," * 1_900_000 + "1]}",
        None,
        None,
        "holds millions of values",
    ),
    ("a list", "[1]", 1, None, "must hold a mapping"),
]


@pytest.mark.parametrize(
    ("content", "line", "key", "message"), [row[1:] for row in JSON], ids=[row[0] for row in JSON]
)
def test_a_wrong_json_file_says_where(
    tmp_path: Path, content: str, line: int | None, key: str | None, message: str
) -> None:
    error = refused(read_model, tmp_path / "config.json", content)
    (problem,) = error.problems
    assert (problem.line, problem.key) == (line, key)
    assert message in problem.message


def test_all_problems_of_all_inputs_come_at_once(tmp_path: Path) -> None:
    hardware, model, workload = (tmp_path / f"{name}.yaml" for name in ("h", "m", "w"))
    hardware.write_text("preset: h200-sxm\nnodse: 3\ngpu: {memory: 64, flops: {bf16: fast}}\n")
    model.write_text("num_layers: eight\nffn: {intermediate_size: 0}\n")
    workload.write_text("batch: none\n")
    with pytest.raises(SpecError) as caught:
        read_job(hardware, model, workload, flags={"seq_len": -1})
    found = {
        (problem.file and Path(problem.file).name, problem.line, problem.key)
        for problem in caught.value.problems
    }
    assert found == {
        ("h.yaml", 2, "nodse"),
        ("h.yaml", 3, "gpu.memory"),
        ("h.yaml", 3, "gpu.flops.bf16"),
        ("m.yaml", 1, "num_layers"),
        ("m.yaml", 2, "ffn.intermediate_size"),
        ("w.yaml", 1, "batch"),
        (None, None, "--seq-len"),
    }


def test_a_folder_without_a_model_says_which_file_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"config\.json.*cannot be read: No such file"):
        read_model(tmp_path)


def test_hostile_files_stay_under_500_megabytes(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("a: [" + "[]," * 1_300_000 + "]")
    (tmp_path / "wide.json").write_text('{"a": [' + '{"":0},' * 590_000 + "1]}")
    (tmp_path / "emoji.json").write_text('{"a": "' + "\U0001f600" + "x" * 31_000_000 + '"}')
    program = (
        "import sys\n"
        "from optimizer.errors import SpecError\n"
        "from optimizer.spec.reading import read_model\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_model(path)\n    except SpecError:\n        pass\n"
        "    else:\n        sys.exit('accepted')\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    files = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 500_000  # KiB at the peak


def test_a_misspelt_number_of_layers_says_nothing_of_experts(tmp_path: Path) -> None:
    text = "n_layers: 2\nhidden_size: 64\nvocab_size: 9\nattention: {num_heads: 2}\n"
    text += "moe: {num_experts: 4, num_experts_per_token: 2, intermediate_size: 8}\n"
    error = refused(read_model, tmp_path / "model.yaml", text)
    assert [problem.key for problem in error.problems] == ["num_layers", "n_layers"]


def test_loads_that_cannot_be_read_name_the_key_that_asks_for_them(tmp_path: Path) -> None:
    text = "input_len: 8\noutput_len: 8\nexpert_loads: nowhere.csv\n"
    error = refused(read_workload, tmp_path / "workload.yaml", text)
    assert "workload.yaml:3: expert_loads: nowhere.csv: cannot be read" in str(error)


def test_what_only_experts_have_is_refused_by_its_own_name() -> None:
    with pytest.raises(SpecError) as caught:
        read_job("h100-sxm", "llama-3.1-8b", flags={"redundant_experts": 8})
    assert (
        str(caught.value) == "redundant_experts: llama-3.1-8b has no routed experts; leave it out"
    )
    with pytest.raises(SpecError, match="has no experts"):
        read_strategy("EP8", num_gpus=8, has_experts=False)
