"""A serving simulation as Chrome trace events: a process a replica, a track a lane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from optimizer.simulate.serving.serve import Outcome


def trace_events(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Runs of steps as slices, requests and cache as counters; microseconds."""
    seen: set[tuple[int, int]] = set()
    for span in outcome.record.spans:
        if (span.replica, -1) not in seen:
            seen.add((span.replica, -1))
            yield _name("process_name", span.replica, 0, f"replica {span.replica}")
        if (span.replica, span.lane) not in seen:
            seen.add((span.replica, span.lane))
            yield _name("thread_name", span.replica, span.lane, f"micro-batch {span.lane}")
        what = "prefill" if span.prefilled else "decode"
        if span.prefilled and span.decoding:
            what = "prefill + decode"
        start, end = span.start_s * 1e6, span.end_s * 1e6
        yield {
            "name": what,
            "ph": "X",
            "pid": span.replica,
            "tid": span.lane,
            "ts": start,
            "dur": end - start,
            "args": {
                "steps": span.steps,
                "sequences": span.decoding,
                "prompt tokens": span.prefilled,
            },
        }
        for counter, values in (
            ("requests", {"running": span.running, "waiting": span.waiting}),
            ("cache blocks", {"used": span.used_blocks}),
        ):
            name = counter if span.lane == 0 else f"{counter}, micro-batch {span.lane}"
            yield {"name": name, "ph": "C", "pid": span.replica, "ts": end, "args": values}


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def timeline(outcome: Outcome) -> str:
    """timeline.json: an array of events, one a line."""
    return "[\n" + ",\n".join(json.dumps(event) for event in trace_events(outcome)) + "\n]\n"
