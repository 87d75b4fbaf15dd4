"""The command as a user meets it: files, exit codes, messages, the same bytes everywhere."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from optimizer.plan import read_plan
from optimizer.spec.data import configs_root

CASES = configs_root() / "cases"
CASE_D = ("--hardware", str(CASES / "d/hardware.yaml"), "--model", str(CASES / "d/model.yaml"))


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a fresh process, in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "optimizer.cli", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_main_job_writes_its_files_and_they_verify(tmp_path: Path) -> None:
    done = run(*CASE_D, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "report-d"
    assert (
        sorted(path.name for path in folder.iterdir())[:3]
        == [
            "implementation_guide.md",
            "optimal_parallel_strategy.json",
            "pareto.csv",
        ]
        or (folder / "optimal_parallel_strategy.json").exists()
    )
    assert json.loads((folder / "verification_results.json").read_text())["ok"] is True
    alone = subprocess.run(
        [sys.executable, "-I", "verify_strategy.py", "optimal_parallel_strategy.json"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stdout


def test_the_claimed_strategy_is_beaten_and_the_run_says_by_how_much(tmp_path: Path) -> None:
    for case in "abd":
        files = (str(CASES / case / "hardware.yaml"), str(CASES / case / "model.yaml"))
        done = run("--hardware", files[0], "--model", files[1], folder=tmp_path)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("claimed EP64"))
        assert float(line.split(" gives ")[1].split(" x ")[0]) > 1.5
        assert "one replica of the model fits 1 GPU (TP1)" in done.stdout


def test_a_strategy_that_needs_more_gpus_is_refused_with_both_numbers(tmp_path: Path) -> None:
    files = (str(CASES / "e/hardware.yaml"), str(CASES / "e/model.yaml"))
    done = run(
        *("--hardware", files[0], "--model", files[1], "--strategy", "EP16_TP1_PP1_DP4"),
        *("--out", "refused"),
        folder=tmp_path,
    )
    assert done.returncode == 3
    assert "GPUs: at least 64 needed (EP16-DP16-x4), 16 there" in done.stdout
    assert "1. replicas 4 -> 1: EP16-DP16 (EP16_TP1_PP1_DP1)" in done.stdout
    assert "refused/infeasible.json" in done.stderr
    assert "Traceback" not in done.stderr
    refusal = json.loads((tmp_path / "refused/infeasible.json").read_text())
    for repair in refusal["repairs"]:
        assert read_plan((tmp_path / "refused" / repair["plan"]["file"]).read_text())


def test_the_remedies_of_case_e_are_priced(tmp_path: Path) -> None:
    files = ("--hardware", str(CASES / "e/hardware.yaml"), "--model", str(CASES / "e/model.yaml"))
    strategy = ("--strategy", "EP16_TP1_PP1_DP1")
    done = run("remedies", *files, *strategy, "weights=fp16", "batch=64", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "worse" in lines["weights=fp16"]
    assert "better" in lines["batch=64"]
    wrong = run("remedies", *files, *strategy, "more magic", folder=tmp_path)
    assert wrong.returncode == 2
    assert "is no remedy" in wrong.stderr


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_the_same_input_gives_the_same_bytes_everywhere(tmp_path: Path, seed: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    for folder, environment in (
        (here, {"PYTHONHASHSEED": "1", "LC_ALL": "C"}),
        (there, {"PYTHONHASHSEED": seed, "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}),
    ):
        done = run(*CASE_D, "--out", "out", folder=folder, **environment)
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (here / "out").iterdir())
    assert names == sorted(path.name for path in (there / "out").iterdir())
    for name in names:
        assert (here / "out" / name).read_bytes() == (there / "out" / name).read_bytes(), name


def test_an_unwritable_folder_is_one_message_and_nothing_half_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    done = run(*CASE_D, "--out", str(blocker / "sub"), folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "--out" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"ulimit -f 16; exec '{sys.executable}' -m optimizer.cli {' '.join(CASE_D)} --out out",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (2, 153), done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_what_an_earlier_run_left_is_not_taken_for_this_one(tmp_path: Path) -> None:
    small = ("--hardware", "h100-sxm", "--gpus", "2", "--out", "out")
    refused = run(*small, "--model", "llama-3.1-405b", folder=tmp_path)
    (tmp_path / "out" / "mine.json").write_text("{}")
    assert refused.returncode == 3
    assert (tmp_path / "out" / "infeasible.json").exists()
    planned = run(*small, "--model", "llama-3.1-8b", folder=tmp_path)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert planned.returncode == 0
    assert "optimal_parallel_strategy.json" in names
    assert not {name for name in names if name.startswith(("infeasible", "repair"))}
    assert "mine.json" in names


@pytest.mark.parametrize(("sink", "code"), [("| head -1", 0), ("> /dev/full", 2)])
def test_nobody_reading_is_no_traceback(tmp_path: Path, sink: str, code: int) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -m optimizer.cli --help {sink}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_stops_without_a_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "optimizer.cli", "--hardware", "h800-sxm", "--gpus", "2048"),
            *("--model", "deepseek-v3", "--workload", "train", "--out", "out"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert process.returncode in (0, 130)
    assert process.returncode == 0 or not (tmp_path / "out").exists()


def test_a_table_without_a_row_to_price_is_refused_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    done = run("evaluate", "rows.csv", "--out", "out.csv", folder=tmp_path)
    assert done.returncode == 2
    assert "rows.csv: no row can be priced: column missing: model, hardware" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_missing_arguments_say_what_to_give(tmp_path: Path) -> None:
    done = run("--hardware", "h200-sxm", folder=tmp_path)
    assert done.returncode == 2
    assert "--model" in done.stderr


def test_json_prints_the_plan_and_nothing_else(tmp_path: Path) -> None:
    done = run(*CASE_D, "--json", folder=tmp_path)
    assert json.loads(done.stdout)["schema_version"] == "1.0"


def test_help_tells_every_option_once_and_in_sections() -> None:
    from optimizer.cli import optimize

    for command in (optimize, *optimize.commands.values()):
        text = command.get_help(click.Context(command))
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help or option.show_default, option.name
                assert len(re.findall(rf"^  {option.opts[-1]}\b", text, re.MULTILINE)) == 1
    assert "Serving:\n  --input-len" in optimize.get_help(click.Context(optimize))


def test_help_imports_neither_solver_nor_tables(tmp_path: Path) -> None:
    probe = (
        "import sys; sys.argv = ['optimize', '--help']\n"
        "import optimizer.cli\n"
        "try: optimizer.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = ('ortools', 'pandas', 'numpy', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("[]")
