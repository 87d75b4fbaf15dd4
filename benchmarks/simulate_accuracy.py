"""TTFT and TPOT of measured runs: the planner's formulas and the simulator side by side.

python benchmarks/simulate_accuracy.py [--every 8] [--rows]

Every row becomes an operator table by the planner's cost model, and the simulator replays the run:
a closed loop of its concurrency, ten requests a client. The public runs of 1,024 and 8,192 tokens
draw their lengths between 0.8 of the stated ones and these (InferenceX's range ratio), the others
are taken to be of one length.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from optimizer.cost.accounting import phase_tables, stage_memory
from optimizer.cost.calibration import load_calibration
from optimizer.cost.pricing import Job
from optimizer.cost.rows import Rows
from optimizer.evaluation import evaluate, precision_of
from optimizer.layout import Layouts, ParallelLayout
from optimizer.plan import Batch, Deployment, Placement
from optimizer.simulate.serving.arrivals import closed_loop, request_lengths
from optimizer.simulate.serving.policy import settings
from optimizer.simulate.serving.replica import replica_of
from optimizer.simulate.serving.simulation import Entry, simulate
from optimizer.simulate.serving.steps import step_times
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.workload import ServingWorkload

DATA = Path(__file__).resolve().parent / "data" / "serving.csv"
TURNS = 10
DRAWN = {(1024, 1024), (1024, 8192), (8192, 1024)}
DRAWN_SPREAD = 0.2
STEP_TOKENS = 8192


def job_of(row: pd.Series) -> Job:
    """What a row ran, as the cost model reads it; engines fill 0.9 of a GPU."""
    model = read_model(row.model).model
    workload = ServingWorkload(
        engine=row.engine,
        input_len=int(row.input_len),
        output_len=int(row.output_len),
        memory_margin=0.1,
    )
    priced = model.with_precision(precision_of(model, row.precision))
    return Job(read_cluster(row.hardware), 0, priced, workload, load_calibration())


def deployment_of(row: pd.Series, job: Job) -> Deployment:
    """The row's layout with its operator tables; degrees need not divide, since it ran."""
    moe, pool = job.model.moe is not None, job.cluster.pools[0]
    layout = ParallelLayout(
        tp=int(row.tp),
        dp=int(row.dp),
        ep=int(row.ep) if moe else 1,
        etp=int(row.etp) if moe else 1,
    )
    layouts = Layouts.of(layout, min(layout.width, pool.nvlink_domain or pool.gpus_per_node))
    sequences = -(-int(row.concurrency) // layout.dp)
    one = np.ones(1, dtype=np.int64)
    rows = Rows(0 * one, sequences * one, STEP_TOKENS * one, one, one, one)
    placement = Placement.model_construct(stage_layers=((0, job.model.num_layers),))
    return Deployment.model_construct(
        role="serving",
        pool=pool.name,
        layout=layout,
        name=row.id,
        placement=placement,
        batch=Batch(
            sequences_per_rank=sequences,
            prefill_chunk=STEP_TOKENS,
            micro_batches=1,
            concurrency_per_replica=row.concurrency,
            concurrency=row.concurrency,
        ),
        memory=stage_memory(job, rows, layouts),
        phases=phase_tables(job, rows, layouts),
    )


def replay(row: pd.Series) -> tuple[float, float, int]:
    """(TTFT, TPOT) in ms, means over the run's requests, and events."""
    job = job_of(row)
    deployment, workload = deployment_of(row, job), job.workload
    engine = settings().engine(row.engine)
    times = step_times(job.cluster, job.model, deployment, {}, 1.0)
    shape = (int(row.input_len), int(row.output_len))
    clients = int(row.concurrency)
    spread = DRAWN_SPREAD if shape in DRAWN else 0.0
    load = closed_loop(request_lengths(TURNS * clients, *shape, spread, 0), clients)
    replica = replica_of(0, deployment, workload, times, engine, settings().host)
    record = simulate([replica], load, Entry(engine.base_s, 0, lambda tokens: 0.0))
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
    replayed = [replay(row) for _, row in table.iterrows()]
    seconds = time.perf_counter() - start
    for column, name in enumerate(("ttft", "tpot")):
        found[f"simulated_{name}_ms"] = [each[column] for each in replayed]
    print(f"{len(found)} runs, {sum(each[2] for each in replayed):,} events, {seconds:.0f} s")
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
