"""How long whole fleets take to plan, from the process's start to its end.

    python benchmarks/fleets.py

8 models, each aggregated or with prefill and decode apart, on four pools of 2,336 GPUs; the same
models on 256 irregular nodes; and the first fleet again with every second rate 10 % up, near what
ran before.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from optimizer.report.table import aligned

RATES = {
    "deepseek-v3": 40,
    "qwen3-235b-a22b": 60,
    "llama-3.1-70b": 100,
    "qwen3-32b": 150,
    "gpt-oss-120b": 90,
    "mixtral-8x22b": 50,
    "llama-3.1-8b": 300,
    "kimi-k2": 20,
}
POOLS = (
    ("h200-sxm", 96, 3.8),
    ("h100-sxm", 128, 2.5),
    ("a100-sxm", 40, 1.3),
    ("b200-sxm", 28, 5.3),
)


def models() -> list[dict[str, Any]]:
    load = {"input_len": 2048, "output_len": 512, "ttft": "3 s", "tpot": "60 ms"}
    return [
        {"model": model, "workload": {**load, "request_rate": f"{rate} req/s"}}
        for model, rate in RATES.items()
    ]


def fleets() -> dict[str, dict[str, object]]:
    pools = [
        {"preset": preset, "name": preset, "nodes": nodes, "gpu": {"price_per_hour": price}}
        for preset, nodes, price in POOLS
    ]
    sizes = random.Random(1).choices((8, 8, 8, 7, 6, 5), k=256)
    irregular = {"preset": "h200-sxm", "node_sizes": sizes}
    found: dict[str, dict[str, object]] = {}
    for objective in ("gpus", "money"):
        hardware = {"name": "four pools", "pools": pools}
        found[f"8 models, 4 pools, {objective}"] = {"hardware": hardware, "objective": objective}
    found["8 models, 256 irregular nodes, gpus"] = {"hardware": irregular}
    return {name: {**fleet, "models": models()} for name, fleet in found.items()}


def grown(fleet: dict[str, object]) -> dict[str, object]:
    """The fleet with every second rate 10 % up."""
    found = models()
    for number, (entry, rate) in enumerate(zip(found, RATES.values(), strict=True)):
        entry["workload"] |= {"request_rate": f"{rate * (1.1 if number % 2 else 1):g} req/s"}
    return {**fleet, "models": found}


def timed(folder: Path, fleet: dict[str, object], *options: str) -> float:
    """User seconds of a whole run, which writes fleet.json in the folder."""
    source = folder / "fleet.yaml"
    source.write_text(json.dumps(fleet), encoding="utf-8")
    command = [sys.executable, "-m", "optimizer.cli", "fleet", str(source), "--quiet", *options]
    process = subprocess.Popen([*command, "--out", str(folder / "fleet.json")])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime


def main() -> None:
    rows = [["fleet", "user s", "status", "gap", "vectors", "combinations", "GPUs", "moves"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plans = fleets()
        for title, fleet in plans.items():
            rows.append([title, *row_of(timed(folder, fleet), folder), ""])
        first, fleet = next(iter(plans.items()))
        timed(folder, fleet)
        current = (folder / "fleet.json").rename(folder / "current.json")
        took = timed(folder, grown(fleet), "--current", str(current))
        moves = json.loads((folder / "moves.json").read_text(encoding="utf-8"))
        chosen, best = (moves[which]["moved_bytes"] / 1e12 for which in ("chosen", "best"))
        told = f"{chosen:.2f} TB (best fleet: {best:.2f})"
        rows.append([f"{first}, grown, near it", *row_of(took, folder), told])
    print("\n".join(aligned(rows)))


def row_of(took_s: float, folder: Path) -> list[str]:
    """What stands in the table of one run."""
    document = json.loads((folder / "fleet.json").read_text(encoding="utf-8"))
    proof = document["proof"]
    return [
        f"{took_s:.1f}",
        proof["status"],
        f"{proof['gap']:.2%}",
        f"{proof['vectors']:,}",
        f"{proof['combinations']:.0e}",
        f"{document['gpus']:,}",
    ]


if __name__ == "__main__":
    main()
