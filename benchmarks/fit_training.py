"""Fits the constants of training's cost model and writes configs/calibration/training.yaml.

    python benchmarks/fit_training.py

Least squares on the logarithm of step seconds and of memory (soft l1, a Gaussian prior on the
logarithm of each constant), on benchmarks/data/training.csv without its duplicates. Rows with a
guessed pipeline, of large families and of untuned runs weigh less; a row that ran is also an upper
bound of its memory. Then each family is left out in turn, once with the priors that ship and once
with neutral ones: the shipped priors were set by people who had seen these rows. Constants of all
folds go to benchmarks/data/training_folds.csv, which benchmarks/training_accuracy.py reads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import least_squares
from training_priors import ASSUMED, MEMORY, NEUTRAL, STEP, Priors
from training_rows import DATA, Floats, Ints, Table, read_table

ROOT = Path(__file__).resolve().parent.parent
FOLDS = DATA / "training_folds.csv"
CALIBRATION = ROOT / "configs" / "calibration" / "training.yaml"
STEP_SCALE, MEMORY_SCALE = 0.10, 0.08  # of a residual, in log space
BOUND_SCALE, BOUND_WEIGHT, ROOM = 0.05, 0.25, 0.98  # of rows that ran, under their GPU's memory
FAMILY_ROWS = 8  # a family weighs as much as so many rows at most
UNTUNED = "CHECK|functional run|un-optimised|CI golden"


def constants_of(priors: Priors, logs: Floats) -> dict[str, float]:
    return dict(zip(priors, np.exp(logs).tolist(), strict=True))


def centre(priors: Priors) -> Floats:
    return np.log([mean for mean, _ in priors.values()])


def width(priors: Priors) -> Floats:
    return np.array([sigma for _, sigma in priors.values()])


def softened(residual: Floats) -> Floats:
    """Soft l1: quadratic near zero, linear far out."""
    clipped = np.clip(residual, -30, 30)
    return np.sign(clipped) * np.sqrt(2 * (np.sqrt(1 + clipped**2) - 1))


def chosen(table: Table, constants: dict[str, float]) -> tuple[Ints, Floats]:
    """(the layout of each row: the fastest that fits, else the fastest; seconds of all)."""
    seconds = table.step_s(constants)
    fits = table.memory(constants).needed <= table.limit
    order = np.lexsort((seconds, ~fits, table.owner))
    return order[np.unique(table.owner[order], return_index=True)[1]], seconds


def step_weights(rows: pd.DataFrame) -> Floats:
    count = rows[rows["step"].notna()].groupby("family")["step"].transform("size")
    crowd = np.minimum(1.0, FAMILY_ROWS / count.reindex(rows.index).fillna(1)) ** 0.5
    untuned = rows["notes"].astype(str).str.contains(UNTUNED)
    weights = np.where(rows["full"], 1.0, 0.5) * np.where(untuned, 0.5, 1.0) * crowd
    return np.asarray(weights, dtype=np.float64)


def fit_step(
    table: Table, priors: Priors, held: dict[str, float], train: Ints, start: Floats, rounds: int
) -> Floats:
    """Logarithms of the step constants from the rows `train`; blanks are chosen anew each round."""
    logs, weights = start, step_weights(table.rows)[train]
    measured = np.log(table.rows["step"].to_numpy()[train])
    for _ in range(rounds):
        pick, _ = chosen(table, held | constants_of(priors, logs))
        part = table.take(pick[train])

        def residual(x: Floats, part: Table = part) -> Floats:
            predicted = np.log(part.step_s(held | constants_of(priors, x)))
            errors = softened((predicted - measured) / STEP_SCALE) * weights
            return np.concatenate([errors, (x - centre(priors)) / width(priors)])

        found = least_squares(
            residual, logs, max_nfev=25, ftol=1e-4, xtol=1e-4, x_scale=width(priors)
        )
        logs = found.x
    return logs


def shown_memory(table: Table, constants: dict[str, float], first: Ints) -> Floats:
    """What each row's source reads: allocated, reserved, or used by nvidia-smi."""
    memory = table.take(first).memory(constants)
    kinds = [facts.source.memory for facts in table.facts]
    return np.array([getattr(memory, kind)[i] for i, kind in enumerate(kinds)])


def fit_memory(table: Table, held: dict[str, float], families: set[str]) -> Floats:
    """Logarithms of the memory constants from measured peaks, and from all that ran as a bound;
    `families` are left out."""
    rows, first = table.rows, np.unique(table.owner, return_index=True)[1]
    kept = ~rows["family"].isin(families)
    peaks = np.flatnonzero(rows["measured_mem_gb"].notna() & kept)
    stated = rows["recompute"].notna() & rows["micro_batch"].notna()
    ran = np.flatnonzero(~rows["oom"] & stated & kept)
    count = rows.loc[peaks].groupby("family")["id"].transform("size").to_numpy()
    weights = np.minimum(1.0, FAMILY_ROWS / count) ** 0.5
    measured = np.log(rows["measured_mem_gb"].to_numpy()[peaks] * 2**30)
    whole = table.take(first)
    kinds = np.array([facts.source.memory for facts in table.facts])

    def residual(x: Floats) -> Floats:
        memory = whole.memory(held | constants_of(MEMORY, x))
        shown = np.select(
            [kinds == "used", kinds == "reserved"], [memory.used, memory.reserved], memory.allocated
        )
        errors = softened((np.log(shown[peaks]) - measured) / MEMORY_SCALE) * weights
        over = np.log(memory.needed[ran] / (ROOM * whole.limit[ran]))
        bound = np.clip(over / BOUND_SCALE, 0, 3) * BOUND_WEIGHT
        return np.concatenate([errors, bound, (x - centre(MEMORY)) / width(MEMORY)])

    return least_squares(residual, centre(MEMORY), x_scale=width(MEMORY)).x


def folds(table: Table, priors: Priors, held: dict[str, float]) -> tuple[Floats, dict[str, Floats]]:
    """(logarithms from all rows, and with each family left out)."""
    have = np.flatnonzero(table.rows["step"].notna())
    whole = fit_step(table, priors, held, have, centre(priors), 2)
    found = {}
    for family in table.rows["family"].unique():
        train = have[table.rows["family"].to_numpy()[have] != family]
        if len(train) < len(have):
            found[family] = fit_step(table, priors, held, train, whole, 1)
    return whole, found


def half_width(table: Table, frame: pd.DataFrame, held: dict[str, float], moe: bool) -> float:
    """80 % of the neutral folds' absolute log errors on rows with a full layout lie within."""
    errors = []
    for family, row in frame[frame["priors"] == "neutral"].groupby("family"):
        numbers = row[list(STEP)].iloc[0].to_dict()
        pick, seconds = chosen(table, held | numbers)
        rows = table.rows
        mine = (rows["family"] == family) & rows["full"] & (rows["is_moe"] == int(moe))
        errors += np.abs(np.log(seconds[pick] / rows["step"]))[mine].tolist()
    return float(np.quantile(errors, 0.8))


def memory_half_width(table: Table, frame: pd.DataFrame, held: dict[str, float]) -> float:
    errors: list[float] = []
    first = np.unique(table.owner, return_index=True)[1]
    for family, row in frame[frame["priors"] == "shipped"].groupby("family"):
        mine = (table.rows["family"] == family) & table.rows["measured_mem_gb"].notna()
        shown = shown_memory(table, held | row[list(MEMORY)].iloc[0].to_dict(), first)
        errors += np.abs(np.log(shown / 2**30 / table.rows["measured_mem_gb"]))[mine].tolist()
    return float(np.quantile(errors, 0.8))


def main() -> None:
    table = read_table()
    families = sorted(table.rows["family"].unique())
    held = {name: value for name, (value, _) in ASSUMED.items()}
    start = held | constants_of(STEP, centre(STEP))
    memory = {"": fit_memory(table, start, set())}
    memory |= {family: fit_memory(table, start, {family}) for family in families}
    held |= constants_of(MEMORY, memory[""])
    records, whole = [], {}
    for name, priors in (("shipped", STEP), ("neutral", NEUTRAL)):
        whole[name], left = folds(table, priors, held)
        for family in families:
            numbers = constants_of(priors, left.get(family, whole[name]))
            numbers |= constants_of(MEMORY, memory[family])
            records.append({"priors": name, "family": family, **numbers})
    frame = pd.DataFrame(records)
    frame.to_csv(FOLDS, index=False, float_format="%.6g", lineterminator="\n")
    values = {**constants_of(STEP, whole["shipped"]), **constants_of(MEMORY, memory[""])}
    shipped = frame[frame["priors"] == "shipped"]
    widths = {
        "dense_step": half_width(table, frame, held, False),
        "moe_step": half_width(table, frame, held, True),
        "memory": memory_half_width(table, frame, held | values),
    }
    CALIBRATION.write_text(document(table, values, shipped, widths), encoding="utf-8")


def document(
    table: Table, values: dict[str, float], folds: pd.DataFrame, widths: dict[str, float]
) -> str:
    """training.yaml with new numbers; software facts, name and date stay as they stand there."""
    old = CALIBRATION.read_text(encoding="utf-8")
    head, tail = old[: old.index("rows:")], old[old.index("# What each software does") :]
    lines = [f"rows: {int(table.rows['step'].notna().sum())}"]
    lines.append("# Half-widths of 80 % intervals in log space: families left out, neutral priors.")
    lines.append("interval:")
    lines += [f"  {name}: {value:.3f}" for name, value in widths.items()]
    lines.append("# Value, then lowest and highest over the fits that leave a family out.")
    lines.append("constants:")
    for name, (value, meaning) in ASSUMED.items():
        lines.append(_line(name, (value, value, value), f"{meaning}; assumed"))
    for priors in (STEP, MEMORY):
        for name in priors:
            low, high = min(folds[name].min(), values[name]), max(folds[name].max(), values[name])
            lines.append(_line(name, (values[name], low, high), priors.meaning[name]))
    return head + "\n".join(lines) + "\n" + tail


def _line(name: str, numbers: tuple[float, float, float], meaning: str) -> str:
    shown = ", ".join(f"{number:.4g}" for number in numbers)
    return f"  {name}: [{shown}]".ljust(56) + f"# {meaning}"


if __name__ == "__main__":
    main()
