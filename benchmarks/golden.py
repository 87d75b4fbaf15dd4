"""Writes results/golden: the cases, clusters and fleets that this project holds its choices by.

python benchmarks/golden.py "why the plans changed"
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from optimizer.fleets import plan_fleet
from optimizer.pipeline import optimize
from optimizer.plan import load_plan, sealed, write_plan
from optimizer.plan.fleet import write_fleet
from optimizer.report.files import write_files
from optimizer.spec.fleet_file import read_fleet
from optimizer.spec.reading import read_job

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "configs" / "cases"
DEGRADED = "preset: h100-sxm\nname: h100-sxm-degraded\nnodes: 3\ndead: [node1/gpu3, node2/gpu7]\n"
MIXED = """name: h100-and-a100
pools:
  - {preset: h100-sxm, name: hopper}
  - {preset: a100-sxm, name: ampere, nodes: 2, dead: [node0/gpu5, node1]}
inter_pool: {bandwidth: 25 GB/s, latency: 20 us}
"""
WRITTEN = {"degraded": DEGRADED, "mixed": MIXED}  # clusters that no preset is
Flags = dict[str, int]
CLUSTERS: tuple[tuple[str, str, str, int | None], ...] = (
    ("deepseek-v3-on-16-h200", "h200-sxm", "deepseek-v3", 16),
    ("qwen3-235b-a22b-on-7-h200", "h200-sxm", "qwen3-235b-a22b", 7),
    ("mixtral-8x22b-on-8-a100", "a100-sxm", "mixtral-8x22b", 8),
    ("gpt-oss-120b-on-1-h100", "h100-sxm", "gpt-oss-120b", 1),
    ("llama-3.1-405b-on-22-h100", "degraded", "llama-3.1-405b", None),
    ("deepseek-v3-on-8-h100-and-7-a100", "mixed", "deepseek-v3", None),
)
TRAINED: tuple[tuple[str, Path | str, Path | str, int | None, Flags], ...] = (
    (
        "case-e-trained",
        CASES / "e" / "hardware.yaml",
        CASES / "e" / "model.yaml",
        None,
        {"global_batch": 128, "sequence_length": 1024},
    ),
    (
        "gpt3-175b-trained-on-512-a100",
        "a100-sxm",
        "gpt3-175b",
        512,
        {"global_batch": 1536, "sequence_length": 2048},
    ),
)


def jobs(folder: Path) -> list[tuple[str, Path | str, Path | str, int | None, Flags]]:
    """(name, hardware, model, GPUs, workload flags) of every golden plan."""
    for name, text in WRITTEN.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    cases: list[tuple[str, Path | str, Path | str, int | None, Flags]] = [
        (f"case-{case}", CASES / case / "hardware.yaml", CASES / case / "model.yaml", None, {})
        for case in "abcde"
    ]
    clusters: list[tuple[str, Path | str, Path | str, int | None, Flags]] = [
        (name, folder / f"{hardware}.yaml" if hardware in WRITTEN else hardware, model, gpus, {})
        for name, hardware, model, gpus in CLUSTERS
    ]
    return [*cases, *clusters, *TRAINED]


def main() -> None:
    """Plans each job and writes its best plan, with the reason when a file changes."""
    reason = sys.argv[1] if len(sys.argv) > 1 else ""
    golden = ROOT / "results" / "golden"
    with tempfile.TemporaryDirectory() as folder:
        for name, hardware, model, gpus, flags in jobs(Path(folder)):
            job = read_job(hardware, model, flags=flags, gpus=gpus)
            plan = optimize(job.cluster, job.model, job.workload).best
            path = golden / f"{name}.json"
            accepted = load_plan(path).accepted if path.exists() else ()
            if reason:
                accepted = (*accepted, reason)
            plan = sealed(plan.model_copy(update={"accepted": accepted}))
            write_files(golden, {path.name: write_plan(plan)})
            print(f"{name}: {plan.name}")
    for path in sorted((ROOT / "configs" / "fleets").glob("*.yaml")):
        fleet = plan_fleet(read_fleet(path))
        write_files(golden / "fleets", {f"{path.stem}.json": write_fleet(fleet)})
        print(f"fleet {path.stem}: {fleet.gpus} GPUs in {len(fleet.parts)} parts")


if __name__ == "__main__":
    main()
