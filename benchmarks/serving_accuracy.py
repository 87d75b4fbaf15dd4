"""Accuracy of serving predictions and of the choices that they lead to.

    python benchmarks/serving_accuracy.py benchmarks/data/serving.csv [--shipped] [--silicon]

Each model's runs are predicted with constants fitted on the runs of the other models (suspects are
never fitted on). With --shipped the constants that ship are used instead, for rows that they were
not fitted on. With --silicon the same is done a second time with operators as they were timed (the
optional extra), and both stand side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import serving_choices as choosing

from optimizer.cost.calibration import load_calibration
from optimizer.cost.fitting import PRIORS, held_out, priors_of
from optimizer.cost.silicon.grids import LABELS
from optimizer.cost.silicon.tables import require_tables
from optimizer.errors import SpecError
from optimizer.evaluation import evaluate, measured_runs, read_groups

MEMORY = Path(__file__).resolve().parent / "data" / "vllm_memory.csv"
BANDS = [0, 4, 16, 64, 256, np.inf]
BAND_NAMES = ["1-4", "5-16", "17-64", "65-256", "over 256"]
RUN_SERIES = ["model", "hardware", "engine", "precision", "gpus"]
LEAST_RUNS = 4  # of a series, to give one
GIVEN_SHARE = 0.85  # of the given run's own error that is taken to be its series'
# 2 x layers x KV heads x head dimension x 2 bytes (config.json)
CACHE_GIB_PER_TOKEN = {
    "llama-3.1-8b": 2 * 32 * 8 * 128 * 2 / 2**30,
    "qwen3-0.6b": 2 * 28 * 8 * 128 * 2 / 2**30,
    "qwen3-32b": 2 * 64 * 8 * 128 * 2 / 2**30,
}


def predicted(rows: pd.DataFrame, is_shipped: bool, name: str = "default") -> pd.DataFrame:
    """The rows with predictions and intervals of the calibration of that name; leaving their model
    out unless `is_shipped`."""
    base = load_calibration(name)
    found = evaluate(rows, base)
    found["is_moe"] = is_moe(rows)
    if is_shipped:
        return found
    runs = measured_runs(rows, base)
    labels = rows["model"].astype(str).to_numpy()[runs.members].tolist()
    clean = rows["suspect"].isna().to_numpy()[runs.members]
    times = held_out(runs.prepared, runs.ttft_s, runs.tpot_s, labels, base, priors_of(base), clean)
    for mean, seconds in (("ttft", times.ttft_s), ("tpot", times.tpot_s)):
        column = np.full(len(rows), np.nan)
        column[runs.members] = seconds * 1e3
        found[f"predicted_{mean}_ms"] = column
    return found


def is_moe(rows: pd.DataFrame) -> pd.Series:
    """Whether a row's model has routed experts."""
    found = pd.Series(False, index=rows.index)
    for group in read_groups(rows)[0]:
        found.iloc[group.members] = group.given.model.moe is not None
    return found


def error_cells(rows: pd.DataFrame, name: str) -> str:
    """Mean, median and 90th percentile of the absolute error, median signed one; percent."""
    signed = (rows[f"predicted_{name}_ms"] / rows[f"measured_{name}_ms"] - 1) * 100
    far = signed.abs()
    return (
        f"{far.mean():.1f} | {far.median():.1f} | {far.quantile(0.9):.1f} | {signed.median():+.1f}"
    )


def error_table(found: pd.DataFrame) -> list[str]:
    """One line a group of rows."""
    clean = found[found["suspect"].isna()]
    band = pd.cut(clean["concurrency"], BANDS, labels=BAND_NAMES)
    lines = [
        "| rows | n | TPOT mean % | median | p90 | bias | TTFT mean % | median | p90 | bias |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: list[tuple[str, pd.DataFrame]] = [("all", clean), ("all and suspects", found)]
    kinds = clean["is_moe"].map({True: "experts", False: "dense"})
    for labels in (clean["model"], clean["engine"], clean["hardware"], kinds, clean["precision"]):
        groups += [(str(label), part) for label, part in clean.groupby(labels)]
    groups += [(f"concurrency {label}", part) for label, part in clean.groupby(band, observed=True)]
    return lines + [
        f"| {label} | {len(part)} | {error_cells(part, 'tpot')} | {error_cells(part, 'ttft')} |"
        for label, part in groups
    ]


def logs(rows: pd.DataFrame, name: str) -> pd.Series:
    """log(predicted / measured)."""
    return np.log(rows[f"predicted_{name}_ms"] / rows[f"measured_{name}_ms"])


def interval_table(found: pd.DataFrame, is_shipped: bool) -> list[str]:
    """Coverage of 80 % intervals and their half-width in percent of the prediction; each model's
    width is the 80 % quantile over the other models' errors, or the calibration's own."""
    clean = found[found["suspect"].isna()]
    lines = ["| 80 % interval | covered % | half-width % |", "|---|---|---|"]
    for name in ("tpot", "ttft"):
        errors = logs(clean, name).abs()
        widths = pd.Series(getattr(load_calibration().interval, name), index=clean.index)
        if not is_shipped:
            for model, part in clean.groupby("model"):
                widths[part.index] = errors[clean["model"] != model].quantile(0.8)
        covered = (errors <= widths).mean() * 100
        lines.append(f"| {name.upper()} | {covered:.1f} | {np.sinh(widths.median()) * 100:.1f} |")
    return lines


def choice_table(found: pd.DataFrame) -> list[str]:
    """Predictions beside rules of thumb."""
    clean = found[found["suspect"].isna()]
    lines = ["| choice | by | n | right % | lost % | limit missed % |", "|---|---|---|---|---|---|"]
    rules: list[tuple[str, choosing.Pick]] = [
        ("fewest GPUs", choosing.fewest_gpus),
        ("largest TP", choosing.largest_tp),
        ("random", choosing.at_random()),
    ]
    for label, pick in [("predictions", choosing.least_tpot), *rules]:
        line = choosing.summary(list(choosing.by_layout(clean, pick)))
        lines.append(f"| (a) layout | {label} | {line} |")
    for label, pick in [("predictions", choosing.most_tokens), *rules]:
        line = choosing.summary(list(choosing.by_limit(clean, pick)))
        lines.append(f"| (b) layout and load | {label} | {line} |")
    line = choosing.summary(list(choosing.by_limit(clean, choosing.most_tokens, 0.95)))
    return [*lines, f"| (b) layout and load | predictions, to 0.95 of the limit | {line} |"]


def one_run_given(found: pd.DataFrame) -> list[str]:
    """Errors when one run of each series, that of median concurrency, tells its offset."""
    clean = found[found["suspect"].isna()]
    lines = [
        "| one run given | n | mean % | median % | without it, median % |",
        "|---|---|---|---|---|",
    ]
    for name in ("tpot", "ttft"):
        before, after = [], []
        for _, part in clean.groupby(RUN_SERIES):
            if len(part) < LEAST_RUNS:
                continue
            order = part.sort_values(["concurrency", "input_len", "output_len"], kind="stable")
            given = order.index[(len(order) - 1) // 2]
            errors = logs(order, name)
            rest = errors.drop(given)
            before += rest.tolist()
            after += (rest - GIVEN_SHARE * errors[given]).tolist()
        far = np.abs(np.expm1(after)) * 100
        was = np.abs(np.expm1(before)) * 100
        lines.append(
            f"| {name.upper()} | {len(far)} | {far.mean():.1f} | {np.median(far):.1f} "
            f"| {np.median(was):.1f} |"
        )
    return lines


def memory_table() -> list[str]:
    """Whole requests that vLLM had room for, at its default share of the memory, beside ours."""
    known = pd.read_csv(MEMORY)
    asked = known.assign(
        hardware=known["gpu"],
        engine="vllm",
        precision="bf16",
        input_len=known["seq_len"] - 1,
        output_len=1,
        concurrency=1,
    )
    found = evaluate(asked)
    lines = ["| vLLM run | requests of seq_len measured | ours | off % |", "|---|---|---|---|"]
    for row in found.itertuples():
        held = row.kv_gib / row.seq_len / CACHE_GIB_PER_TOKEN[row.model] * row.tp
        off = (row.resident_sequences / held - 1) * 100
        lines.append(
            f"| {row.model} tp {row.tp}, {row.seq_len:,} tokens | {held:.1f} "
            f"| {row.resident_sequences:.1f} | {off:+.1f} |"
        )
    return lines


def beside(roofline: pd.DataFrame, silicon: pd.DataFrame) -> list[str]:
    """Errors on the roofline and with measured operators, mean and median in percent, over all
    and by GPU and engine; the shares of a decode step that were measured, and so on."""
    lines = [
        "| rows | n | TPOT roofline | TPOT silicon | TTFT roofline | TTFT silicon "
        "| measured % | interpolated % | extrapolated % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    clean = roofline["suspect"].isna()
    groups = [("all", clean)]
    for name in ("hardware", "engine", "precision"):
        groups += [(str(at), clean & (roofline[name] == at)) for at in sorted(set(roofline[name]))]
    for label, chosen in groups:
        cells = [
            " / ".join(error_cells(found[chosen], name).split(" | ")[:2])
            for name in ("tpot", "ttft")
            for found in (roofline, silicon)
        ]
        shares = [f"{silicon.loc[chosen, f'decode_{at}_share'].mean() * 100:.0f}" for at in LABELS]
        lines.append(f"| {label} | {int(chosen.sum())} | {' | '.join((*cells, *shares))} |")
    return lines


def main() -> None:
    """Prints every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--shipped", action="store_true", help="use the constants that ship")
    parser.add_argument("--silicon", action="store_true", help="and measured operators beside")
    asked = parser.parse_args()
    if asked.silicon:
        try:
            require_tables()
        except SpecError as error:
            parser.error(str(error))
    rows = pd.read_csv(asked.rows)
    for name in {"suspect", "engine_version"} - set(rows.columns):
        rows[name] = None
    found = predicted(rows, asked.shipped)
    priced = found[found["predicted_tpot_ms"].notna()]
    how = "shipped constants" if asked.shipped else f"{len(PRIORS)} constants, leaving a model out"
    print(f"{len(rows)} rows, {len(priced)} predicted, {how}")
    print(f"called infeasible: {int((~priced['feasible'].astype(bool)).sum())}\n")
    for table in (
        error_table(priced),
        interval_table(priced, asked.shipped),
        choice_table(priced),
        one_run_given(priced),
        memory_table(),
    ):
        print("\n".join(table) + "\n")
    if asked.silicon:
        other = predicted(rows, asked.shipped, "silicon").loc[priced.index]
        print("with measured operators (aiconfigurator-core)\n")
        for table in (beside(priced, other), interval_table(other, False), choice_table(other)):
            print("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
