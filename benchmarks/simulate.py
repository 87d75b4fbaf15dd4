"""The simulator beside closed forms, beside the planner on the golden plans, and its speed.

python benchmarks/simulate.py
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from optimizer.pipeline import optimize
from optimizer.plan import Plan, load_plan
from optimizer.simulate.serving.arrivals import Load, Request, poisson
from optimizer.simulate.serving.asked import asked_load
from optimizer.simulate.serving.cache import BlockCache, BlockPool
from optimizer.simulate.serving.curves import Curve, Surface
from optimizer.simulate.serving.lane import Lane
from optimizer.simulate.serving.policy import Host
from optimizer.simulate.serving.queue import Rank
from optimizer.simulate.serving.replica import Replica
from optimizer.simulate.serving.serve import serve
from optimizer.simulate.serving.simulation import Entry, Record, simulate
from optimizer.simulate.serving.steps import Phase, StepTimes
from optimizer.simulate.serving.summary import summarize
from optimizer.spec.reading import read_job

GOLDEN = Path(__file__).resolve().parent.parent / "results" / "golden"
SEEDS = range(8)
ARRIVALS = 100_000


def main() -> None:
    print("closed forms\n")
    for row in [*queue_rows(), little_row()]:
        print("| " + " | ".join(row) + " |")
    print("\ngolden plans: simulated / predicted (difference)\n")
    print("| plan | TTFT, s | TPOT, s | tokens/s | pass, s |\n|---|---|---|---|---|")
    for path in sorted(GOLDEN.glob("*.json")):
        if "trained" in path.stem:
            continue
        print(golden_row(path.stem, load_plan(path)))
    print("\nspeed\n")
    print("| run | requests | events | s | events/s |\n|---|---|---|---|---|")
    for name, plan, load in speed_runs():
        start = time.perf_counter()
        record = serve(plan, load).record
        seconds = time.perf_counter() - start
        row = (name, f"{len(load.requests):,}", f"{record.events:,}", f"{seconds:.2f}")
        print("| " + " | ".join((*row, f"{record.events / seconds:,.0f}")) + " |")


def single_server(load: Load) -> Record:
    """One request a step, one second each."""
    nothing, second = Curve([0.0], [0.0]), Curve([0.0], [1.0])
    phases = {"prefill": Phase(second, Surface([0.0], [([0.0], [0.0])]), nothing, nothing)}
    lane = Lane([Rank(BlockCache(BlockPool(1 << 40), 16), 1 << 30)], 8, True, 1)
    times = StepTimes(phases, (phases,), 1, 1.0, 1.0)
    replica = Replica(0, "serving", [lane], times, Host(sequence_s=0.0), 1.0, [0.0], version=[0])
    return simulate([replica], load, Entry(0.0, 0, lambda tokens: 0.0))


def queue_rows() -> list[tuple[str, ...]]:
    """Waiting of M/D/1 in services, rho / (2 (1 - rho)) at the load that was drawn."""
    rows = []
    for rho in (0.3, 0.5, 0.7):
        waits, drawn = [], []
        for seed in SEEDS:
            load = poisson([(8, 1)] * ARRIVALS, rho, seed)
            record = single_server(load)
            waits.append(np.mean(np.array(record.first_s) - np.array(record.arrival_s)) - 1.0)
            drawn.append(ARRIVALS / load.requests[-1].arrival_s)
        exact, found = (
            float(np.mean([each / (2 - 2 * each) for each in drawn])),
            float(np.mean(waits)),
        )
        name = f"M/D/1 waiting at {rho:.0%} load, {len(SEEDS)} x {ARRIVALS:,} arrivals"
        rows.append((name, f"{exact:.4f}", f"{found:.4f}", f"{found / exact - 1:+.2%}"))
    return rows


def little_row() -> tuple[str, ...]:
    """Requests in flight over arrivals a second times their mean time in the system."""
    record = single_server(poisson([(8, 1)] * ARRIVALS, 0.7, 0))
    sojourn = np.mean(np.array(record.finish_s) - np.array(record.arrival_s))
    expected = ARRIVALS / record.end_s * float(sojourn)
    found = record.in_flight_s / record.end_s
    return ("Little's law", f"{expected:.4f}", f"{found:.4f}", f"{found / expected - 1:+.2%}")


def golden_row(name: str, plan: Plan) -> str:
    beside = summarize(serve(plan, asked_load(plan)))["beside_the_plan"]
    cells = []
    for key in ("ttft_s", "tpot_s", "tokens_per_s", "latency_s"):
        each = beside.get(key)
        cells.append(
            f"{each['simulated']:.4g} / {each['predicted']:.4g} ({each['difference']:+.1%})"
            if each
            else ""
        )
    return f"| {name} | " + " | ".join(cells) + " |"


def speed_runs() -> list[tuple[str, Plan, Load]]:
    job = read_job("h200-sxm", "deepseek-v3", gpus=128)
    large = optimize(job.cluster, job.model, job.workload, top=1).best
    small = load_plan(GOLDEN / "deepseek-v3-on-16-h200.json")
    return [
        (f"{large.name}, 128 GPUs, 61 layers", large, asked_load(large, "poisson", "50 /s", 1000)),
        (f"{small.name}, a drawn trace", small, drawn_trace(100_000, 30.0)),
        (f"{large.name}, a drawn trace", large, drawn_trace(100_000, 200.0)),
    ]


def drawn_trace(count: int, rate_per_s: float) -> Load:
    """Poisson arrivals with log-normal lengths, 700 in and 200 out in the median."""
    draw = np.random.default_rng(0)
    arrivals = np.cumsum(draw.exponential(1 / rate_per_s, count)).tolist()
    inputs = np.clip(draw.lognormal(np.log(700), 1.0, count), 1, 8000).astype(int).tolist()
    outputs = np.clip(draw.lognormal(np.log(200), 0.8, count), 1, 2000).astype(int).tolist()
    return Load("trace", tuple(map(Request, arrivals, inputs, outputs)))


if __name__ == "__main__":
    main()
