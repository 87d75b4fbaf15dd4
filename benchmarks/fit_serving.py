"""Fits the constants of the serving model and writes configs/calibration/default.yaml, or
silicon.yaml with the tables of the optional extra.

    python benchmarks/fit_serving.py [benchmarks/data/serving.csv] [--silicon]

Interval widths and the errors that the file states come from runs of models left out of the fit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optimizer.cost.calibration import Calibration, Constants, load_calibration
from optimizer.cost.fitting import calibrated, fit, held_out, priors_of
from optimizer.evaluation import measured_runs

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "configs" / "calibration"
TABLES = ("gemm", "attention", "all_reduce")  # whose tables help, models left out
ROWS = ROOT / "benchmarks" / "data" / "serving.csv"
HEADER = """\
# Constants of the pricers and of the steady state, written by benchmarks/fit_serving.py. Each is
# a physical quantity; a GPU generation's or an engine's own value stands in for the common one.
# None is keyed by model.
"""


def fitted(rows: pd.DataFrame, base: Calibration) -> Calibration:
    """The base with constants, errors and interval widths of these rows."""
    runs = measured_runs(rows, base)
    labels = rows["model"].astype(str).to_numpy()[runs.members].tolist()
    values = fit(runs.prepared, runs.ttft_s, runs.tpot_s, base, priors_of(base))
    left = held_out(runs.prepared, runs.ttft_s, runs.tpot_s, labels, base, priors_of(base))
    errors, widths = {}, {}
    answers = rows["output_len"].to_numpy(dtype=float)[runs.members] - 1
    for name, seconds, measured in (
        ("tpot", left.tpot_s, runs.tpot_s),
        ("ttft", left.ttft_s, runs.ttft_s),
        ("throughput", left.request_s, runs.ttft_s + answers * runs.tpot_s),
    ):
        far = np.abs(seconds / measured - 1)
        errors[name] = (round(float(far.mean()), 3), round(float(np.median(far)), 3))
        widths[name] = round(float(np.quantile(np.abs(np.log(seconds / measured)), 0.8)), 2)
    newest = rows["measured_on"].dropna().max()
    found = calibrated(base, values)
    bases = [found.engines[engine]["ttft_base_s"] for engine in ("vllm", "sglang", "trtllm")]
    unknown = {"ttft_base_s": float(np.exp(np.mean(np.log(bases))))}
    return found.model_copy(
        update={
            "engines": {**found.engines, "any": unknown},
            "source": f"{len(labels):,} measured runs of vLLM, SGLang and TensorRT-LLM "
            "(benchmarks/data/serving.csv), suspects aside",
            "rows": len(labels),
            "date": str(newest),
            "error": errors,
            "interval": base.interval.model_copy(update=widths),
        }
    )


def text(found: Calibration) -> str:
    """The file: every constant with what it means, where it is a stated one and not fitted."""
    names = set(priors_of(found))
    lines = [HEADER.rstrip(), f"name: {found.name}", f'source: "{found.source}"']
    lines += [f"date: {found.date}", f"rows: {found.rows}"]
    if found.tables:
        lines += [f"tables: [{', '.join(found.tables)}]  # of aiconfigurator-core, where timed"]
    lines += [
        "error:                              # absolute, leaving one model out: mean and median"
    ]
    lines += [f"  {name}: [{pair[0]}, {pair[1]}]" for name, pair in found.error.items()]
    lines += ["constants:"]
    for name in Constants._fields:
        stated = "" if name in names else " (stated)"
        lines.append(f"  {f'{name}: {found.constants[name]:.3g}':<34}# {MEANINGS[name]}{stated}")
    for table in ("generations", "engines"):
        lines.append(f"{table}:")
        for key, own in getattr(found, table).items():
            cells = ", ".join(f"{name}: {value:.3g}" for name, value in own.items())
            lines.append(f"  {key}: {{{cells}}}")
    return "\n".join(lines) + "\n"


MEANINGS = {
    "memory_efficiency": "of the datasheet's bandwidth: weights and element-wise work",
    "cache_memory_efficiency": "KV cache and states",
    "gemm_efficiency": "of the dense 16-bit peak: matrix products and attention",
    "grouped_gemm_efficiency": "of wide experts",
    "fp8_efficiency": "what 8-bit products reach of their peak, over what 16-bit ones reach",
    "block_fp8_efficiency": "the same of 8 bits with scaled blocks, on top",
    "narrow_columns": "shards of so many columns reach half of a wide expert's rate",
    "narrow_read_bytes": "and rows of so many bytes take twice as long to read",
    "kernel_s": "start of one kernel",
    "collective_s": "start of an all-reduce; half of it of any other collective",
    "collective_doubling_s": "and for each doubling of its ranks",
    "ring_step_s": "each of 2 (p - 1) steps of a large all-reduce",
    "link_efficiency": "of the links' bandwidth",
    "gap_s": "before a kernel that was timed alone",
    "meeting_s": "waiting for the last rank at a collective that was timed alone",
    "sequence_s": "host work of a step for each running sequence",
    "prefill_work": "of the others' prefills: the share that interrupts decoding",
    "first_wave": "share of the other requests that arrive in the same instant",
    "bunching": "prefills met by chance, for each square root of the other requests",
    "lockstep": "share of the others that stay in step where prefills go first",
    "lockstep_tokens": "output tokens over which that fades by e",
    "align_steps": "that a prompt waits for prompts of the other attention ranks",
    "ttft_base_s": "before a request is scheduled at all",
}


MEMORY_MEANINGS = {
    "usable": "of the datasheet's memory",
    "utilisation": "of that, the engines' default share",
    "tuned_share": "of what is left beside the least reserve: serves where the share is tuned",
    "context_bytes": "CUDA context and graphs, as vLLM reports them",
    "communication_bytes": "NCCL's buffers where tp > 1",
    "sampler_bytes_per_logit": "peak of the sampler's warm-up over a full batch",
    "sampler_sequences": "of that batch",
    "least_reserve_bytes": "what a tuned deployment still keeps free",
}


def kept(document: dict[str, Any]) -> str:
    """The parts of the file that no constant of the pricers decides."""
    lines = ["memory:                             # stated, from benchmarks/data/vllm_memory.csv"]
    held = document["memory"]
    for name, meaning in MEMORY_MEANINGS.items():
        lines.append(f"  {name + f': {held[name]:.12g}':<34}# {meaning}")
    lines += ["interval:                           # half-widths of 80 % intervals, in log space"]
    lines += [f"  {name}: {width:.3g}" for name, width in document["interval"].items()]
    lines += ["percentiles:                        # over the mean of a run's own requests"]
    for name, ratios in document["percentiles"].items():
        cells = ", ".join(f"{percentile}: {ratio:.3g}" for percentile, ratio in ratios.items())
        lines.append(f"  {name}: {{{cells}}}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fits, prints what was found, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=Path, default=ROWS)
    parser.add_argument("--silicon", action="store_true", help="fit beside measured operators")
    asked = parser.parse_args()
    rows, base = pd.read_csv(asked.rows), load_calibration()
    if asked.silicon:
        base = base.model_copy(update={"name": "silicon", "tables": TABLES})
    found = fitted(rows[rows["suspect"].isna()].reset_index(drop=True), base)
    document = found.model_dump(mode="json")
    (FOLDER / f"{found.name}.yaml").write_text(text(found) + kept(document), encoding="utf-8")
    own = sum(map(len, found.generations.values())) + sum(map(len, found.engines.values()))
    number = len(priors_of(found))
    print(f"{number} constants fitted on {found.rows:,} rows; {own} are an engine's or a GPU")
    print(f"generation's own. Leaving one model out: {found.error}, widths {found.interval}")


if __name__ == "__main__":
    main()
