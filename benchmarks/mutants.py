"""Mutants of every shipped input: refused with problems, or planned and verified; never a crash.

    python benchmarks/mutants.py [--mutants 20000] [--seed 1]

Prints how many were refused, read and too large to plan here, without a plan, and planned with all
checks of verify holding; lists whatever did anything else, and exits with 1 then.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from optimizer.errors import InfeasibleError, SpecError
from optimizer.pipeline import optimize, verify
from optimizer.spec.data import configs_root
from optimizer.spec.reading import Job, read_job

MOST_GPUS = 128
ODD = (
    *("-1", "0", "1e999", "NaN", "null", "true", "[]", "{}", '""', "99999999999999999999", "&x"),
    *("*x", "!!x", "- ", "\t", "é", "\0", "%", "0.5", "[[[[", "fp8", "80 GB", "3", "7", "13"),
)


def shipped() -> list[Path]:
    """Every hardware, model and workload file, and the cases."""
    root = configs_root()
    folders = ("hardware", "models", "workloads", "cases")
    found = [path for folder in folders for path in (root / folder).rglob("*.*")]
    return sorted(path for path in found if path.suffix in (".yaml", ".json"))


def mutants(count: int, seed: int) -> Iterator[tuple[Path, str]]:
    """A file with a number changed, or a stretch deleted, doubled, swapped or replaced."""
    files = [path for path in shipped() if path.name != "sources.yaml"]
    chance = random.Random(seed)
    for _ in range(count):
        path = chance.choice(files)
        text = path.read_text(encoding="utf-8")
        digits = [place for place, letter in enumerate(text) if letter.isdigit()]
        start = chance.choice(digits) if digits and chance.random() < 0.5 else 0
        if start:
            end, piece = start + 1, chance.choice(["", "0", "1", "2", "5", "9", "33", "-", "."])
        else:
            start = chance.randrange(len(text))
            end = min(len(text), start + chance.choice([0, 1, 1, 3, 10, 40]))
            other = chance.randrange(len(text))
            pieces = ["", text[start:end] * 2, text[other : other + 10], chance.choice(ODD)]
            piece = chance.choice(pieces)
        yield path, text[:start] + piece + text[end:]


def job_of(source: Path, copy: Path) -> Job:
    """The job that a changed copy makes with whole partners."""
    kind = source.relative_to(configs_root()).parts[0]
    if kind == "cases":
        files = {"hardware.yaml": source.parent / "hardware.yaml"}
        files |= {"model.yaml": source.parent / "model.yaml", source.name: copy}
        return read_job(files["hardware.yaml"], files["model.yaml"])
    hardware = copy if kind == "hardware" else "h200-sxm"
    model = copy if kind == "models" else "qwen3-30b-a3b"
    workload = copy if kind == "workloads" else "chat"
    return read_job(hardware, model, workload)


def outcome(source: Path, copy: Path) -> str:
    """What became of one mutant."""
    try:
        job = job_of(source, copy)
    except SpecError as error:
        return "refused" if error.problems and str(error) else "refused without a reason"
    if job.cluster.num_live_gpus > MOST_GPUS:
        return "read, too large to plan here"
    try:
        plans = optimize(job.cluster, job.model, job.workload, top=1)
    except InfeasibleError as error:
        return "no plan" if error.reasons else "no plan and no reason"
    bad = [finding for finding in verify(plans) if not finding.ok]
    return f"NOT VERIFIED: {bad[0].check}: {bad[0].detail}" if bad else "planned and verified"


FINE = ("refused", "read, too large to plan here", "no plan", "planned and verified")


def main() -> None:
    """Runs the mutants and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, (source, text) in enumerate(mutants(options.mutants, options.seed)):
            copy = Path(folder) / source.name
            copy.write_text(text, encoding="utf-8")
            start = time.perf_counter()
            try:
                found = outcome(source, copy)
            except Exception as error:
                found = f"CRASH: {type(error).__name__}: {error}"
            slowest = max(slowest, time.perf_counter() - start)
            counts[found if found in FINE else "anything else"] += 1
            if found not in FINE:
                print(f"mutant {number} of {source.name}: {found}")
    print("| outcome | mutants |\n|---|---|")
    for name, count in counts.most_common():
        print(f"| {name} | {count:,} |")
    print(f"\nslowest: {slowest:.2f} s")
    sys.exit(1 if counts["anything else"] else 0)


if __name__ == "__main__":
    main()
