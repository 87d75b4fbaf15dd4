"""TTFT and TPOT of measured runs: the planner's formulas and the simulator side by side.

python benchmarks/simulate_accuracy.py [--every 8] [--rows FILE]

Every run becomes an operator table by the planner's cost model, with as much cache as the planner
gives it, and the simulator replays it: a closed loop of its concurrency, ten requests a client.
InferenceX draws lengths between 0.8 of the stated ones and these (its range ratio), and its SGLang
looks for new requests every 30 steps, every 10 below 16 clients (--scheduler-recv-interval of its
scripts). Of the engine teams' runs nobody says how lengths were drawn. Chosen on these rows:
between 0.6 of the stated ones and these, but for SGLang's runs of qwen3-32b, whose requests wait
for each other as only equal lengths make them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from optimizer.cost.accounting import phase_tables
from optimizer.cost.calibration import load_calibration
from optimizer.cost.given import CHUNK, Given, residence
from optimizer.cost.job import Job
from optimizer.cost.rows import Rows
from optimizer.evaluation import evaluate, read_groups
from optimizer.layout import Layouts, ParallelLayout
from optimizer.plan import Batch, Deployment, Memory, Placement, StageMemory
from optimizer.simulate.serving.arrivals import closed_loop, request_lengths
from optimizer.simulate.serving.policy import settings
from optimizer.simulate.serving.replica import replica_of
from optimizer.simulate.serving.simulation import Entry, simulate
from optimizer.simulate.serving.steps import step_times
from optimizer.spec.cluster import Cluster
from optimizer.spec.reading import read_cluster
from optimizer.spec.workload import ServingWorkload

DATA = Path(__file__).resolve().parent / "data" / "serving.csv"
TURNS = 10
DRAWN = {(1024, 1024), (1024, 8192), (8192, 1024)}  # InferenceX's lengths
DRAWN_SPREAD, OTHER_SPREAD = 0.2, 0.4
EQUAL = ("sglang", "qwen3-32b")


def deployment_of(given: Given, at: int, cluster: Cluster) -> tuple[Deployment, Job]:
    """One run's layout with its operator tables; degrees need not divide, since it ran."""
    columns = {name: int(column[at]) for name, column in given.columns.items()}
    workload = ServingWorkload(
        engine=given.engine, input_len=columns["input_len"], output_len=columns["output_len"]
    )
    job = Job(cluster, 0, given.model, workload, load_calibration())
    layout = ParallelLayout(**{name: columns[name] for name in ("tp", "dp", "ep", "etp")})
    layouts = Layouts.of(layout, columns["span"])
    sequences = -(-columns["concurrency"] // layout.dp)
    one = np.ones(1, dtype=np.int64)
    rows = Rows(0 * one, sequences * one, CHUNK * one, one, one, one)
    deployment = Deployment.model_construct(
        role="serving",
        pool=cluster.pools[0].name,
        layout=layout,
        name=layout.name,
        placement=Placement.model_construct(stage_layers=((0, given.model.num_layers),)),
        batch=Batch(
            sequences_per_rank=sequences,
            prefill_chunk=CHUNK,
            micro_batches=1,
            concurrency_per_replica=columns["concurrency"],
            concurrency=columns["concurrency"],
        ),
        memory=_memory(given, at, sequences),
        phases=phase_tables(job, rows, layouts),
    )
    return deployment, job


def _memory(given: Given, at: int, sequences: int) -> Memory:
    """Room for as many tokens as the planner takes, in bytes of one token."""
    length, output = given.columns["input_len"][at], given.columns["output_len"][at]
    room = residence(given, load_calibration().memory).running[at] * (length + output / 2)
    planned = float(sequences * (length + output))
    stage = StageMemory(stage=0, components={"KV cache": planned}, total_bytes=planned)
    return Memory(
        gpu_bytes=room,
        limit_bytes=room,
        fullest_stage=0,
        fullest_bytes=planned,
        stages=(stage,),
    )


def replay(given: Given, at: int, cluster: Cluster) -> tuple[float, float, int]:
    """(TTFT, TPOT) in ms, means over the run's requests, and events."""
    deployment, job = deployment_of(given, at, cluster)
    engine, host = settings().engine(given.engine), settings().host
    times = step_times(cluster, given.model, deployment, {}, None)
    lengths = (int(given.columns["input_len"][at]), int(given.columns["output_len"][at]))
    clients = int(given.columns["concurrency"][at])
    spread = DRAWN_SPREAD if lengths in DRAWN else OTHER_SPREAD
    if (given.engine, given.model.name) == EQUAL:
        spread = 0.0
    elif lengths in DRAWN and given.engine == "sglang":
        engine = engine.model_copy(update={"poll_steps": 30 if clients >= 16 else 10})
    load = closed_loop(request_lengths(TURNS * clients, *lengths, (1 - spread, 1.0), 0), clients)
    replica = replica_of(0, cluster, deployment, job.workload, times, engine, host)
    record = simulate([replica], load, Entry(engine.base_s, 0, lambda tokens: 0.0, engine.token_s))
    arrival, first, finish = map(np.array, (record.arrival_s, record.first_s, record.finish_s))
    outputs = np.array([request.output_tokens for request in load.requests])
    tpot = (finish - first) / np.maximum(outputs - 1, 1)
    return float((first - arrival).mean()) * 1e3, float(tpot.mean()) * 1e3, record.events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=8, help="take every n-th row")
    parser.add_argument("--rows", type=Path, help="write each row's figures to this CSV")
    options = parser.parse_args()
    table = pd.read_csv(DATA)
    table = table[table.suspect.isna()].iloc[:: options.every].reset_index(drop=True)
    found = evaluate(table)
    start = time.perf_counter()
    events = 0
    groups, _ = read_groups(table)
    for group in groups:
        cluster = read_cluster(table.hardware[group.members[0]])
        for at, row in enumerate(group.members):
            ttft, tpot, count = replay(group.given, at, cluster)
            found.loc[row, ["simulated_ttft_ms", "simulated_tpot_ms"]] = ttft, tpot
            events += count
    print(f"{len(found)} runs, {events:,} events, {time.perf_counter() - start:.0f} s")
    print(table_of(found))
    if options.rows is not None:
        found.to_csv(options.rows, index=False)


def table_of(found: pd.DataFrame) -> str:
    """Absolute errors in per cent, mean / median (bias in log), by engine and by load."""
    load = pd.cut(found.concurrency, [0, 4, 16, 64, 10**6]).astype(str)
    groups = {"all": found.index >= 0}
    groups |= {name: found.engine == name for name in sorted(found.engine.unique())}
    groups |= {f"concurrency {name}": load == name for name in sorted(load.unique(), key=_first)}
    head = ("TTFT planner", "simulator", "TPOT planner", "simulator")
    lines = [" " * 32 + "".join(f"{each:>20}" for each in head)]
    for name, chosen in groups.items():
        cells = [
            _errors(found[chosen], f"{source}_{metric}_ms", f"measured_{metric}_ms")
            for metric in ("ttft", "tpot")
            for source in ("predicted", "simulated")
        ]
        lines.append(
            f"{name:24}{int(chosen.sum()):>6}  " + "".join(f"{cell:>20}" for cell in cells)
        )
    return "\n".join(lines)


def _first(text: str) -> int:
    return int(text[1:].split(",")[0])


def _errors(rows: pd.DataFrame, found: str, measured: str) -> str:
    ratio = rows[found] / rows[measured]
    error = (ratio - 1).abs() * 100
    bias = np.log(ratio).median()
    return f"{error.mean():.1f} / {error.median():.1f} ({bias:+.2f})"


if __name__ == "__main__":
    main()
