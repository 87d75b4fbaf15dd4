"""What choosing a layout by predictions loses against the best one measured."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from training_rows import DATA

# One job on the same GPUs, two layouts or options: (before, after).
AB_ROWS = (
    *(("MBS-70Bsft-0", f"MBS-70Bsft-{name}") for name in ("1", "2", "rc0", "rc1", "rc2")),
    *((f"TT-atp-{i}", f"TT-atp-{i + 1}") for i in (0, 2, 4)),
    ("MCORE-DSV3-GB200", "MCORE-DSV3-GB200-base"),
)
SAME_JOB = ["family", "layers", "heads", "gpu_type", "gpus", "seq_len", "bits", "publisher"]
NEAR = 0.05


def judged(group: pd.DataFrame) -> tuple[float, bool, str]:
    """(loss of the choice, best within the first three or 5 % of the predicted best, choice) of
    layouts with columns rate (measured) and predicted (rate, 0 where it does not fit)."""
    choice, best = group["predicted"].idxmax(), group["rate"].idxmax()
    place = group["predicted"].rank(ascending=False)[best]
    near = group["predicted"][best] >= (1 - NEAR) * group["predicted"].max()
    return 1 - group["rate"][choice] / group["rate"].max(), bool(place <= 3 or near), str(choice)


def rated(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Measured rows with their layout in words, measured and predicted sequences a second."""
    rows = rows[rows["step"].notna()].copy()
    fits = rows[f"needed {column}"] <= rows["limit"]
    rows["rate"] = rows["global_batch"] / rows["step"]
    rows["predicted"] = np.where(fits, rows["global_batch"] / rows[column], 0.0)
    shown = ("tp", "pp", "vp", "ep", "cp", "micro_batch", "zero_or_dist_opt", "global_batch")
    words = [" ".join(f"{name}{row[name]}" for name in shown) for row in rows.to_dict("records")]
    guessed = rows["notes"].astype(str).str.contains("from recipe")  # of another release
    stated = rows["recompute"].astype(str).where(~guessed, "")
    rows["layout"] = [f"{word} {again}" for word, again in zip(words, stated, strict=True)]
    return rows


def bloom_sweep(rows: pd.DataFrame, column: str) -> str | None:
    """The 181B model with 72 layers and 64 heads on 384 GPUs; repeats count at their best."""
    rows = rated(rows, column)
    mine = (rows["model"] == "bloom-181B") & (rows["gpus"] == 384) & (rows["layers"] == 72)
    rows = rows[mine & (rows["heads"] == 64)]
    if rows.empty:
        return None
    names = [f"tp{r['tp']} pp{r['pp']} mbs{r['micro_batch']:g}" for r in rows.to_dict("records")]
    each = rows.assign(name=names).groupby("name")[["rate", "predicted"]].max()
    loss, _, choice = judged(each)
    return (
        f"{len(each)} layouts, chosen {choice}, loses {100 * loss:.1f} % to {each['rate'].idxmax()}"
    )


def sweeps(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Every group of rows of one job whose layouts differ."""
    found = []
    for key, group in rated(rows, column).groupby(SAME_JOB, dropna=False):
        if group["id"].str.startswith("MCORE").any():  # one layout, two dispatchers
            continue
        each = group.groupby("layout").agg(rate=("rate", "max"), predicted=("predicted", "mean"))
        if len(each) > 1:
            loss, near, _ = judged(each)
            found.append({"family": key[0], "layouts": len(each), "loss": loss, "near": near})
    return pd.DataFrame(found, columns=["family", "layouts", "loss", "near"])


def published(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Cases of training_layouts.csv with more than one layout, found again among the rows."""
    table = pd.read_csv(DATA / "training_layouts.csv")
    rows = rated(rows, column)
    found = []
    for case in table[table["n_layouts"] > 1].to_dict("records"):
        best = rows[rows["id"] == case["id"]]
        if best.empty:
            continue
        job = best.iloc[0]
        alike = ["family", "gpu_type", "gpus", "seq_len"]
        same = rows[(rows[alike] == job[alike]).all(axis=1)]
        each = {case["best_layout"]: (case["best"], job["predicted"])}
        for part in str(case["others"]).split(" ; "):
            name, value = part.split("=")
            match = _matching(same, name, job["bits"])
            if len(match):
                each[name] = (float(value), match["predicted"].iloc[0])
        if len(each) > 1:
            loss, near, _ = judged(pd.DataFrame(each, index=["rate", "predicted"]).T)
            found.append({"id": case["id"], "layouts": len(each), "loss": loss, "near": near})
    return pd.DataFrame(found, columns=["id", "layouts", "loss", "near"])


def _matching(rows: pd.DataFrame, name: str, bits: int) -> pd.DataFrame:
    """Rows of "TP1 PP8 VP2 CP1 EP32 MBS1 GBS4096"; "-" and "?" are blank cells."""
    stated = dict(re.findall(r"(TP|PP|VP|CP|EP|MBS|GBS)(\S+)", name))
    columns = {word: word.lower() for word in ("TP", "PP", "VP", "EP")}
    columns |= {"MBS": "micro_batch", "GBS": "global_batch"}
    for word, column in columns.items():
        if stated[word] == "-":
            rows = rows[rows[column].isna()]
        elif stated[word] != "?":
            known = rows[column].fillna(1) if word == "EP" else rows[column]
            rows = rows[known == float(stated[word])]
    alike = rows[rows["bits"] == bits]
    return alike if len(alike) else rows


def ab_rows(rows: pd.DataFrame, column: str) -> list[tuple[str, str, float, float]]:
    """(before, after, measured ratio of step seconds, predicted ratio)."""
    known = rows.set_index("id")
    return [
        (
            first,
            second,
            known["step"][second] / known["step"][first],
            known[column][second] / known[column][first],
        )
        for first, second in AB_ROWS
        if first in known.index and second in known.index
    ]
