"""Speed and memory of a whole run, medians of fresh processes.

    python benchmarks/search.py [--runs 3]

Prints wall seconds from process start to exit, user seconds and peak memory of the command, then
where one run spends its time, and combinations priced a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
CASE_D = ROOT / "configs" / "cases" / "d"
POOLS = ROOT / "benchmarks" / "data" / "three_pools.yaml"
LIMITS = ("--ttft", "2s", "--tpot", "50ms")
GPUS = (8, 128, 1024, 16_384, 131_072)
TRAINING = {
    "training GPT-3 175B on 512 A100": (
        *("--hardware", "a100-sxm", "--model", "gpt3-175b", "--gpus", "512"),
        *("--global-batch", "1536", "--sequence-length", "2048"),
    ),
    "training DeepSeek-V3 on 2,048 H800": (
        *("--hardware", "h800-sxm", "--model", "deepseek-v3", "--gpus", "2048"),
        *("--global-batch", "15360", "--sequence-length", "4096"),
    ),
}


def cases() -> dict[str, tuple[str, ...]]:
    """Arguments of each timed run by name."""
    files = ("--hardware", str(CASE_D / "hardware.yaml"), "--model", str(CASE_D / "model.yaml"))
    deepseek = ("--hardware", "h200-sxm", "--model", "deepseek-v3", *LIMITS)
    found = {"case D": files}
    found |= {f"DeepSeek-V3 on {count:,} H200": (*deepseek, "--gpus", str(count)) for count in GPUS}
    found |= {
        f"{model} on 16 H200, 32 H100 and 8 A100": ("--hardware", str(POOLS), "--model", model)
        for model in ("llama-3.1-405b", "deepseek-v3")
    }
    return found | TRAINING


def timed(arguments: tuple[str, ...], folder: str) -> tuple[float, float, float]:
    """(wall seconds, user seconds, peak MB) of one run of the command in a fresh process."""
    command = [sys.executable, "-m", "optimizer.cli", *arguments, "--quiet", "--out", "out"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_utime, usage.ru_maxrss / 1024


def shares() -> list[str]:
    """Where one run spends its time, and how many combinations a second it prices."""
    start = time.perf_counter()
    from optimizer import pipeline
    from optimizer.report.files import run_files
    from optimizer.search.choosing import choose
    from optimizer.search.objectives import OBJECTIVES
    from optimizer.spec.reading import read_job

    imports_s = time.perf_counter() - start
    job = read_job("h200-sxm", "deepseek-v3", flags={"ttft": "2s", "tpot": "50ms"}, gpus=1024)
    rows = []
    start = time.perf_counter()
    spaces = pipeline.enumerate_spaces(job.cluster, job.model, job.workload)
    priced = pipeline.price(job.cluster, job.model, job.workload, spaces)
    pricing_s = time.perf_counter() - start
    start = time.perf_counter()
    chosen = choose(job.cluster, priced.candidates, next(iter(OBJECTIVES)), 5)
    choosing_s = time.perf_counter() - start
    start = time.perf_counter()
    plans = pipeline.place_all(job.model, priced, chosen)
    placing_s = time.perf_counter() - start
    start = time.perf_counter()
    run_files(plans, pipeline.verify(plans))
    writing_s = time.perf_counter() - start
    steps = {
        "imports": imports_s,
        "enumerate and price": pricing_s,
        "sift, dominate, CP-SAT": choosing_s,
        "place": placing_s,
        "verify and write": writing_s,
    }
    total = sum(steps.values())
    rows += [
        f"| {name} | {seconds:.2f} | {seconds / total:.0%} |" for name, seconds in steps.items()
    ]
    rate = len(priced.candidates) / pricing_s
    return [*rows, "", f"{len(priced.candidates):,} candidates priced: {rate:,.0f} a second"]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    print("| run | wall s | user s | peak MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in cases().items():
            found = [timed(arguments, folder) for _ in range(runs)]
            wall, user, peak = (median(column) for column in zip(*found, strict=True))
            print(f"| {name} | {wall:.2f} | {user:.2f} | {peak:.0f} |", flush=True)
    print("\n| DeepSeek-V3 on 1,024 H200 | s | share |\n|---|---|---|")
    print("\n".join(shares()))


if __name__ == "__main__":
    main()
