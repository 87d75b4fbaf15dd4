"""How long whole fleets take to plan, from the process's start to its end.

    python benchmarks/fleets.py

8 models, each aggregated or with prefill and decode apart, on four pools of 2,336 GPUs; the same
models on 256 irregular nodes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def models() -> list[dict[str, object]]:
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


def main() -> None:
    rows = [["fleet", "seconds", "status", "gap", "vectors", "combinations", "GPUs"]]
    with tempfile.TemporaryDirectory() as folder:
        for name, fleet in fleets().items():
            source, out = Path(folder) / "fleet.yaml", Path(folder) / "fleet.json"
            source.write_text(json.dumps(fleet), encoding="utf-8")
            start = time.perf_counter()
            command = [sys.executable, "-m", "optimizer.cli", "fleet", str(source), "--quiet"]
            subprocess.run([*command, "--out", str(out)], check=True)
            took = time.perf_counter() - start
            document = json.loads(out.read_text(encoding="utf-8"))
            proof = document["proof"]
            rows.append(
                [
                    name,
                    f"{took:.1f}",
                    proof["status"],
                    f"{proof['gap']:.2%}",
                    f"{proof['vectors']:,}",
                    f"{proof['combinations']:.0e}",
                    f"{document['gpus']:,}",
                ]
            )
    print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
