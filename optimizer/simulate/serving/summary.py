"""What a simulation found, as figures: latencies as distributions, rates, queue and cache."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.simulate.serving.serve import Outcome
from optimizer.spec.workload import ForwardWorkload

Floats = NDArray[np.float64]
PERCENTILES = (50, 90, 95, 99)


def distribution(values: Floats) -> dict[str, float]:
    """Mean, percentiles and largest; nothing of nothing."""
    if not len(values):
        return {}
    at = np.percentile(values, PERCENTILES)
    found = {"mean": float(values.mean())}
    found |= {f"p{p}": float(value) for p, value in zip(PERCENTILES, at, strict=True)}
    return found | {"max": float(values.max())}


def summarize(outcome: Outcome) -> dict[str, Any]:
    """The document simulation.json; requests that never ended count as lost and nowhere else."""
    record, load, plan = outcome.record, outcome.load, outcome.plan
    arrival, first, finish = (
        np.array(each) for each in (record.arrival_s, record.first_s, record.finish_s)
    )
    outputs = np.array([request.output_tokens for request in load.requests], dtype=np.float64)
    done = np.isfinite(finish)
    several = done & (outputs > 1)
    tokens = float(outputs[done].sum()) * outcome.fold
    if isinstance(plan.workload, ForwardWorkload):
        tokens = float(sum(each.input_tokens for each in load.requests)) * outcome.fold
    end_s = max(record.end_s, 1e-12)
    spans = np.array([span[2:] for span in record.spans]).reshape(-1, 8)
    seconds = spans[:, 1] - spans[:, 0]
    blocks = np.array([max(outcome.num_blocks[span.replica], 1) for span in record.spans])
    lanes = len({span[:2] for span in record.spans})
    found: dict[str, Any] = {
        "plan": plan.name,
        "plan_hash": plan.hash,
        "load": {
            "arrivals": load.name,
            "clients": None if load.clients is None else load.clients * outcome.fold,
            "requests": len(load.requests) * outcome.fold,
        },
        "replicas_simulated": outcome.replicas,
        "each_stands_for": outcome.fold,
        "finished": int(done.sum()) * outcome.fold,
        "lost": record.lost,
        "preemptions": record.preemptions * outcome.fold,
        "seconds": record.end_s,
        "ttft_s": distribution((first - arrival)[done]),
        "tpot_s": distribution((finish - first)[several] / (outputs[several] - 1)),
        "request_s": distribution((finish - arrival)[done]),
        "tokens_per_s": tokens / end_s,
        "tokens_per_s_per_gpu": tokens / end_s / plan.cluster.num_live_gpus,
        "requests_per_s": float(done.sum()) * outcome.fold / end_s,
        "in_flight_mean": record.in_flight_s / end_s * outcome.fold,
        "waiting": {
            "mean": float((spans[:, 5] * seconds).sum()) / end_s * outcome.fold,
            "max_of_a_lane": int(spans[:, 5].max(initial=0)),
        },
        "cache": {
            "blocks_of_a_rank": max(outcome.num_blocks),
            "block_tokens": outcome.block_tokens,
            "fullest_share": float((spans[:, 7] / blocks).max(initial=0)),
        },
        "busy_share": float(seconds.sum()) / end_s / max(lanes, 1),
        "steps": int(spans[:, 2].sum()) * outcome.fold,
        "events": record.events,
        "notes": list(outcome.notes),
    }
    found["beside_the_plan"] = beside(outcome, found) if outcome.as_planned else {}
    return found


def beside(outcome: Outcome, found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Means beside what the plan predicts; difference is simulated over predicted, less one."""
    simulated = {
        name: found[name]["mean"] for name in ("ttft_s", "tpot_s", "request_s") if found[name]
    }
    simulated |= {name: found[name] for name in ("tokens_per_s", "requests_per_s")}
    if isinstance(outcome.plan.workload, ForwardWorkload):
        simulated = {"latency_s": found["seconds"], "tokens_per_s": found["tokens_per_s"]}
    return {
        name: {
            "predicted": prediction.value,
            "low": prediction.low,
            "high": prediction.high,
            "simulated": simulated[name],
            "difference": simulated[name] / prediction.value - 1,
        }
        for name, prediction in outcome.plan.predictions.items()
        if name in simulated
    }


def summary_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def summary_text(found: dict[str, Any]) -> str:
    """The figures for a reader."""
    load = found["load"]
    clients = "" if load["clients"] is None else f" of {load['clients']:,} clients"
    lines = [
        f"{found['plan']}: {load['requests']:,} requests, {load['arrivals']}{clients}; "
        f"{found['finished']:,} finished in {found['seconds']:,.3f} s, {found['lost']:,} lost, "
        f"{found['preemptions']:,} preemptions"
    ]
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("request_s", "request")):
        if found[name]:
            values = "   ".join(f"{key} {value * 1e3:,.1f}" for key, value in found[name].items())
            lines.append(f"  {label:<8} ms   {values}")
    lines.append(
        f"  {found['tokens_per_s']:,.0f} tokens/s, {found['requests_per_s']:,.2f} requests/s, "
        f"{found['in_flight_mean']:,.1f} in flight, {found['waiting']['mean']:,.1f} waiting, "
        f"cache {found['cache']['fullest_share']:.0%} full at most, "
        f"busy {found['busy_share']:.0%}"
    )
    if found["beside_the_plan"]:
        lines.append("  simulated over predicted:")
    for name, each in found["beside_the_plan"].items():
        lines.append(
            f"    {name:<14} {each['simulated']:.5g} of {each['predicted']:.5g} "
            f"({each['difference']:+.1%}; interval {each['low']:.5g} to {each['high']:.5g})"
        )
    lines += [f"  {note}" for note in found["notes"]]
    return "\n".join(lines)
