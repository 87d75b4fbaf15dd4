"""How well training is predicted, and how well its layouts are chosen.

    python benchmarks/training_accuracy.py [ROWS.csv]

Prints errors of step time in sample and with each family left out (with the priors that ship, and
with neutral ones: the honest estimate for an unseen model), by source, GPU, precision and family;
memory and out-of-memory detection; and what choosing by the predictions loses, with its counts.
Families that no fold leaves out (rows of your own) are predicted with the constants that ship.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from fit_training import FOLDS, chosen
from training_choices import ab_rows, bloom_sweep, published, sweeps
from training_rows import DATA, Floats, Table, read_rows, read_table

from optimizer.cost.training import Job, TrainingLayouts, load_training_calibration, price, rates_of
from optimizer.evaluating_training import evaluate_training
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LayerRun,
    LayerType,
    ModelSpec,
)
from optimizer.spec.reading import read_cluster
from optimizer.units import GIB

COLUMNS = ("in sample", "left out", "neutral")


def predictions(table: Table) -> pd.DataFrame:
    """Step seconds of each row by column of COLUMNS; allocated, shown and needed bytes, in sample
    and (left_*) with the family left out."""
    shipped, folds = load_training_calibration().values(), pd.read_csv(FOLDS)
    kinds = [facts.source.memory for facts in table.facts]
    found = pd.DataFrame(index=table.rows.index)

    def fill(column: str, constants: dict[str, float], mine: Floats) -> None:
        pick, seconds = chosen(table, constants)
        memory = table.take(pick).memory(constants)
        shown = np.array([getattr(memory, kind)[i] for i, kind in enumerate(kinds)])
        values = {
            column: seconds[pick],
            f"memory {column}": shown / GIB,
            f"needed {column}": memory.needed / GIB,
            f"static {column}": memory.stages["first"].static / GIB,
        }
        for name, numbers in values.items():
            found.loc[mine, name] = numbers[mine]

    everyone = np.ones(len(table.rows), dtype=bool)
    for column in COLUMNS:
        fill(column, shipped, everyone)
    for column, priors in (("left out", "shipped"), ("neutral", "neutral")):
        for _, fold in folds[folds["priors"] == priors].iterrows():
            mine = (table.rows["family"] == fold["family"]).to_numpy()
            if mine.any():
                numbers = {name: float(fold[name]) for name in shipped if name in fold.index}
                fill(column, shipped | numbers, mine)
    found["limit"] = [facts.pool.gpu.memory_bytes / GIB for facts in table.facts]
    return found


def errors(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean absolute errors of step time in % by groups, and the signed mean of the last column."""
    found = {}
    for key, group in rows.groupby(by):
        relative = {name: group[name] / group["step"] - 1 for name in COLUMNS}
        numbers = {name: 100 * error.abs().mean() for name, error in relative.items()}
        found[key if len(by) > 1 else key[0]] = {
            "rows": len(group),
            **numbers,
            "neutral bias": 100 * relative["neutral"].mean(),
        }
    return pd.DataFrame(found).T.round(1)


def step_report(rows: pd.DataFrame) -> None:
    full = rows[rows["full"]]
    for title, part in (("full layout", full), ("all, blanks chosen", rows[rows["step"].notna()])):
        print(f"\nStep time, mean absolute error in %, {title}")
        print(errors(part, ["kind"]).to_string())
        families = errors(part, ["kind", "family"])
        means = families.groupby(level=0)[list(COLUMNS)].mean().round(1)
        print("mean over families\n" + means.to_string())
    measured = rows[rows["step"].notna()]
    for by in ("publisher", "gpu_type", "bits", "family"):
        print(f"\nBy {by}")
        print(errors(measured, ["kind", by]).to_string())


def memory_report(rows: pd.DataFrame) -> None:
    peaks = rows[rows["measured_mem_gb"].notna()]
    print("\nPeak memory, mean absolute error in %")
    for name, part in (("all", peaks), *peaks.groupby("family")):
        for column in ("in sample", "left out"):
            error = (part[f"memory {column}"] / part["measured_mem_gb"] - 1).abs().mean()
            print(f"  {name:12s} {column:10s} {len(part):4d} rows {100 * error:6.1f}")
    print("Static memory, error in %")
    for name, measured, predicted in [*static_logs(), *static_allocations(rows)]:
        print(f"  {name:50s} {measured:8.2f} GiB {100 * (predicted / measured - 1):+6.1f}")
    print("Out of memory")
    stated = rows["recompute"].notna() & rows["micro_batch"].notna()
    for column in ("in sample", "left out"):
        over = rows[f"needed {column}"] > rows["limit"]
        failed, ran = rows["oom"], ~rows["oom"] & stated
        bloom = failed & (rows["family"] == "bloom")
        print(
            f"  {column:10s} refused {(over & bloom).sum()} of BLOOM's {bloom.sum()} and "
            f"{(over & failed & ~bloom).sum()} of {(failed & ~bloom).sum()} others that failed, "
            f"{(over & ran).sum()} of {ran.sum()} that ran with recomputation stated "
            f"({100 * (over & ran).sum() / max(ran.sum(), 1):.1f} %), "
            f"{(over & ~failed & ~stated).sum()} of {(~failed & ~stated).sum()} that ran without"
        )

    answers = evaluate_training(rows[rows.columns[: rows.columns.get_loc("family")]])["feasible"]
    failed = rows["oom"]
    refused, ran = (~answers & ~failed).sum(), (~failed).sum()
    print(
        f"  optimize evaluate (blank recomputation may spare memory): {(~answers & failed).sum()} "
        f"of {failed.sum()} that failed, {refused} of {ran} that ran ({100 * refused / ran:.1f} %)"
    )


def static_logs() -> list[tuple[str, float, float]]:
    """(name, measured, predicted GiB) of benchmarks/data/training_static.csv."""
    calibration = load_training_calibration()
    pool = read_cluster("a100-sxm").pools[0]
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    found = []
    for row in pd.read_csv(DATA / "training_static.csv").to_dict("records"):
        number = {name: int(row[name]) for name in row if isinstance(row[name], int)}
        attention = GroupedQueryAttention(
            num_heads=number["heads"],
            num_kv_heads=number["kv_heads"],
            head_dim=number["head_dim"],
        )
        ffn = DenseFfn(intermediate_size=number["ffn_hidden"], gated=bool(number["gated"]))
        model = ModelSpec(
            name=row["id"],
            hidden_size=number["hidden"],
            vocab_size=number["vocab"],
            tied_embeddings=bool(number["tied"]),
            layer_types={"layer": LayerType(attention=attention, ffn=ffn)},
            layers=(LayerRun(types=("layer",), repeat=number["layers"]),),
        )
        degrees = {name: number[name] for name in ("tp", "pp", "dp")}
        sharding = number["distributed_optimizer"]
        layout = TrainingLayouts.of(8, sharding=sharding, recompute=1, **degrees)
        memory = price(model, layout, rates, Job(4096)).memory
        static = float(memory.stages[row["stage"]].static[0]) / GIB
        found.append((row["id"] + " " + row["stage"], row["measured_static_mib"] / 1024, static))
    return found


def static_allocations(rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Rows whose notes state what was allocated before the first step."""
    found = []
    for row in rows.to_dict("records"):
        stated = re.search(r"static alloc ([\d.]+)", str(row["notes"]))
        if stated:
            found.append((row["id"][:50], float(stated[1]), row["static in sample"]))
    return found


def choice_report(rows: pd.DataFrame) -> None:
    for column in COLUMNS[1:]:
        print(f"\nChoices, {column}")
        bloom = bloom_sweep(rows, column)
        if bloom is not None:
            print(f"  BLOOM 181B, 72 layers, 384 GPUs: {bloom}")
        each = sweeps(rows, column)
        if len(each):
            many = each[each["layouts"] >= 4]
            print(
                f"  all {len(each)} sweeps of 2 to {each['layouts'].max()} layouts: mean loss "
                f"{100 * each['loss'].mean():.1f} %; best within the first three or 5 % in "
                f"{many['near'].sum()} of the {len(many)} with four or more"
            )
        found = published(rows, column)
        if len(found):
            print(
                f"  published best layouts with alternatives: {len(found)} cases, mean loss "
                f"{100 * found['loss'].mean():.1f} %, best within the first three or 5 % in "
                f"{found['near'].sum()}"
            )
        for first, second, measured, predicted in ab_rows(rows, column):
            print(f"  {first} -> {second}: measured x {measured:.3f}, predicted {predicted:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="?", type=Path, default=DATA / "training.csv")
    path = parser.parse_args().rows
    everything, found = read_rows(path)
    reasons = pd.Series([facts for facts in found if isinstance(facts, str)], dtype=object)
    table = read_table(path)
    rows = table.rows.join(predictions(table))
    rows["kind"] = np.where(rows["is_moe"] == 1, "MoE", "dense")
    rows["publisher"] = rows["source"].str.replace(r" .*| L\d+$", "", regex=True)
    rows["bits"] = [int(facts.layouts.bits[0]) for facts in table.facts]
    print(
        f"{len(everything)} rows: {len(rows)} predicted, {int(rows['step'].notna().sum())} of them "
        f"with a measured step; {int(everything['duplicate'].sum())} duplicates dropped; "
        f"no prediction: {reasons.value_counts().to_dict()}"
    )
    step_report(rows)
    memory_report(rows)
    choice_report(rows)


if __name__ == "__main__":
    main()
