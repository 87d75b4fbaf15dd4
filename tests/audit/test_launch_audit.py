"""Launch commands as a user has them judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from launch_commands import DEEPSEEK, LLAMA

from optimizer.audit.launch import audit_launches
from optimizer.audit.launch.pricing import same_gpus
from optimizer.cli import optimize
from optimizer.errors import SpecError
from optimizer.pipeline import optimize as plan
from optimizer.spec.reading import read_cluster, read_job

SCHEMA = Path(__file__).parents[2] / "configs" / "schema" / "audit.json"
LOAD = ("--input-len", "1024", "--output-len", "1024", "--concurrency", "256")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(optimize, ["audit", *arguments])
    if result.exception is not None and not isinstance(result.exception, (SystemExit, SpecError)):
        raise result.exception
    return result.exit_code, result.output


def judged(engine: str, command: str, gpus: int = 8, **flags: Any) -> dict[str, Any]:
    load = {"input_len": 1024, "output_len": 1024, "concurrency": 256, **flags}
    found = audit_launches([(engine, command)], "h200-sxm", gpus, flags=load)
    document: dict[str, Any] = found.model_dump(mode="json")
    return document


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    """The worst verdict of each quantity."""
    found: dict[str, str] = {}
    for finding in document["findings"]:
        if found.get(finding["quantity"]) != "refuted":
            found[finding["quantity"]] = finding["verdict"]
    return found


def test_a_good_command_is_confirmed_and_predicted() -> None:
    document = judged("vllm", f"vllm serve {DEEPSEEK} -tp 8 -dp 2 -ep --port 1", 16)
    assert verdicts(document) == {
        "layout": "confirmed",
        "gpus": "confirmed",
        "engine rule": "confirmed-under-reading",  # TP 8 keeps the latent cache eight times
        "memory": "confirmed",
        "cache": "confirmed-under-reading",  # 1,024 full contexts do not fit at once
        "flags": "unverifiable",
    }
    (ready,) = document["readiness"]
    assert ready["ready"]
    assert "TTFT" in ready["arithmetic"]
    assert "TPOT" in ready["arithmetic"]


def test_the_better_plan_is_the_planners_own_on_the_same_gpus() -> None:
    """On 16 of 32 GPUs, for as many requests in flight."""
    document = judged("vllm", f"vllm serve {DEEPSEEK} -tp 8 -dp 2", 32)
    flags = {"input_len": 1024, "output_len": 1024, "concurrency": 256, "engine": "vllm"}
    job = read_job("h200-sxm", "deepseek-v3", None, flags, 16)
    best = plan(job.cluster, job.model, job.workload, top=1).best
    (better,) = document["better"]
    assert better["plan"] == best.name
    assert better["claimed_plan"] == "ETP16-TP8-DP2"


def test_the_same_gpus_are_the_first_ones_alive() -> None:
    cluster = read_cluster("h200-sxm", gpus=24)
    assert same_gpus(cluster, 12).num_live_gpus == 12
    assert [len(domain.gpus) for domain in same_gpus(cluster, 12).domains] == [8, 4, 0]
    assert same_gpus(cluster, 24).num_live_gpus == 24


@pytest.mark.parametrize(
    ("engine", "command", "gpus", "quantity"),
    [
        ("vllm", f"vllm serve {LLAMA} -tp 7", 8, "engine rule"),
        ("vllm", f"vllm serve {DEEPSEEK} -tp 8 -dp 2", 8, "gpus"),
        ("vllm", f"vllm serve {DEEPSEEK} -tp 4", 8, "memory"),
        ("vllm", f"vllm serve {LLAMA} --gpu-memory-utilization 0.99", 8, "cache"),
        ("sglang", f"sglang serve --model {DEEPSEEK} --tp 8 --ep 3", 8, "engine rule"),
        ("sglang", f"sglang serve --model {LLAMA} --tp 4 --mem-fraction-static 0.99", 8, "memory"),
        ("trtllm", f"trtllm-serve {DEEPSEEK} --tp_size 8 --ep_size 3", 8, "engine rule"),
    ],
)
def test_what_cannot_run_is_refuted_and_not_ready(
    engine: str, command: str, gpus: int, quantity: str
) -> None:
    document = judged(engine, command, gpus)
    assert verdicts(document)[quantity] == "refuted"
    (ready,) = document["readiness"]
    assert not ready["ready"]
    assert ready["limits"]


def test_requests_beyond_the_engines_limit_wait() -> None:
    document = judged("vllm", f"vllm serve {LLAMA} -tp 8 --max-num-seqs 64")
    assert "192 of 256 requests wait (--max-num-seqs 64)" in document["readiness"][0]["arithmetic"]


def test_a_limit_of_the_workload_is_held_against_the_prediction() -> None:
    command = f"vllm serve {LLAMA} -tp 8"
    assert verdicts(judged("vllm", command, tpot="10 s"))["tpot"] == "confirmed"
    assert verdicts(judged("vllm", command, tpot="1 ms"))["tpot"] == "refuted"


def test_a_percentile_is_further_out_than_the_mean() -> None:
    command, bounds = f"vllm serve {LLAMA} -tp 8", {}
    for limit in ("1 ms", "1 ms p99"):
        (row,) = (
            row
            for row in judged("vllm", command, tpot=limit)["findings"]
            if row["quantity"] == "tpot"
        )
        bounds[limit] = row["derived_value"]
    assert bounds["1 ms p99"] > bounds["1 ms"]


def test_a_missed_limit_still_compares_with_the_best_plan() -> None:
    command = f"vllm serve {DEEPSEEK} -tp 8"
    free = judged("vllm", command)
    tight = judged("vllm", command, tpot="35 ms")
    assert not tight["readiness"][0]["ready"]
    assert "TPOT" in tight["readiness"][0]["arithmetic"]
    assert "no plan" not in free["better"][0]["comparison"]
    impossible = judged("vllm", command, tpot="1 ms")["better"][0]
    assert impossible["comparison"].startswith("no plan on 8 GPUs")


def test_only_vllm_refuses_to_start_below_one_full_request() -> None:
    load = {"input_len": 512, "output_len": 64, "concurrency": 4}
    vllm = judged("vllm", f"vllm serve {LLAMA} -tp 1 --gpu-memory-utilization 0.99", **load)
    assert verdicts(vllm)["cache"] == "refuted"
    command = f"sglang serve --model {LLAMA} --tp 1 --mem-fraction-static 0.95"
    assert verdicts(judged("sglang", command, **load))["cache"] == "confirmed-under-reading"
    stated = judged("sglang", f"{command} --context-length 131072", **load)
    assert verdicts(stated)["cache"] == "refuted"


def test_a_training_command_has_memory_by_hand_and_a_step() -> None:
    shape = "--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --vocab-size 32000"
    command = (
        f"torchrun --nproc_per_node 8 pretrain_gpt.py {shape} --tensor-model-parallel-size 2 "
        "--use-distributed-optimizer --global-batch-size 64 --seq-length 4096 --lr 1e-4"
    )
    document = judged("megatron", command)
    assert verdicts(document)["memory"] == "confirmed"
    (memory,) = (row for row in document["findings"] if row["quantity"] == "memory")
    assert "x (6 + 12/4) B" in memory["arithmetic"]
    assert "predicted step" in document["readiness"][0]["arithmetic"]


def test_many_commands_are_judged_in_one_run(tmp_path: Path) -> None:
    table = tmp_path / "fleet.csv"
    table.write_text(f"name,command\ngood,vllm serve {LLAMA} -tp 8\nbad,vllm serve {LLAMA} -tp 6\n")
    folder = tmp_path / "out"
    arguments = ("--vllm", str(table), "--hardware", "h200-sxm", *LOAD, "--out", str(folder))
    code, output = run(*arguments)
    assert code == 4
    assert "bad: -tp 6, serving: NOT READY" in output
    assert "good: -tp 8, serving: READY" in output
    document = json.loads((folder / "audit.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert {finding["case"] for finding in document["findings"]} == {"good", "bad"}
    assert "## good" in (folder / "audit.md").read_text()


def test_a_good_command_exits_0_and_commands_stand_beside_claims(tmp_path: Path) -> None:
    command = ("--vllm", f"vllm serve {LLAMA} -tp 8", "--hardware", "h200-sxm", *LOAD)
    assert run(*command, "--out", str(tmp_path), "--quiet") == (0, "")
    both = ("configs/cases/d/claims.yaml", *command, "--out", str(tmp_path))
    code, output = run(*both)
    assert code == 4
    assert "vllm: -tp 8, serving: READY" in output


def test_commands_of_one_name_are_told_apart() -> None:
    sources = [("vllm", f"vllm serve {LLAMA} -tp {tp}") for tp in (4, 8)]
    found = audit_launches(sources, "h200-sxm")
    assert [ready.case for ready in found.readiness] == ["vllm", "vllm (2)"]


def test_two_kinds_of_gpus_leave_open_which_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "mixed.yaml"
    links = (
        "intra_node: {bandwidth: 450 GB/s, latency: 3 us}, inter_node: {bandwidth: 50 GB/s, "
        "latency: 10 us}"
    )
    gpu = "memory_bandwidth: 3350 GB/s, flops: {bf16: 989 TFLOP/s}}"
    path.write_text(
        "pools:\n"
        f"  - {{name: a, gpu: {{memory: 80 GiB, {gpu}, {links}}}\n"
        f"  - {{name: b, gpu: {{memory: 141 GiB, {gpu}, {links}}}\n"
    )
    with pytest.raises(SpecError, match="one kind of GPU"):
        audit_launches([("vllm", f"vllm serve {LLAMA} -tp 8")], path)


def test_what_is_missing_is_said() -> None:
    assert run()[0] == 2
    assert run("--vllm", f"vllm serve {LLAMA}")[0] == 2
    command = [("vllm", f"vllm serve {LLAMA}")]
    with pytest.raises(SpecError, match="--input-len"):
        audit_launches(command, "h200-sxm", flags={"batch": 8, "seq_len": 128})
