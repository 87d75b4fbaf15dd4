"""The fastest training layout on a launch's GPUs: every layout that Megatron takes, priced.

The batch, the sequence length and the number formats stay as the command states them; optimizer
states are sharded over data parallelism. Stages hold equal numbers of layers or, where those do not
come out even, at most ceil(layers / stages) by --pipeline-model-parallel-layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.cost.training import MODULES, Job, Rates, TrainingLayouts, scan
from optimizer.layout import ParallelLayout
from optimizer.layout.rules import Rule, ep_rules, etp_rules, tp_rules
from optimizer.spec.model import ModelSpec

MARGIN = 0.05  # of a GPU's memory, left free, as in planning
MICRO_BATCHES = (1, 2, 4, 8)
CONTEXTS = (1, 2, 4, 8, 16)
RECOMPUTE = (0, MODULES["full"])
COLUMNS = ("tp", "cp", "pp", "vp", "dp", "ep", "etp", "micro_batch", "micro_batches", "recompute")
MOST_LAYOUTS = 2_000_000


class Fastest(NamedTuple):
    """The layout with the shortest step, and what else it takes."""

    layout: ParallelLayout
    micro_batch: int
    recompute: bool
    step_s: float
    needed_bytes: float
    priced: int

    @property
    def name(self) -> str:
        rest = ", full recompute" if self.recompute else ""
        return f"{self.layout.name}, micro-batch {self.micro_batch}{rest}"


def fastest(
    launch: TrainingLaunch, model: ModelSpec, rates: Rates, domain: int, gpu_bytes: float
) -> Fastest | None:
    """The shortest step that fits; None where nothing does."""
    rows = list(_rows(launch, model))
    if not rows or len(rows) > MOST_LAYOUTS:
        return None
    columns = dict(zip(COLUMNS, np.array(rows, dtype=np.int64).T, strict=True))
    layouts = TrainingLayouts.of(domain, len(rows), **columns, bits=launch.bits)
    job = Job(launch.seq_length, mtp_layers=launch.mtp_layers)
    step_s, needed = scan(model, layouts, rates, job)
    step_s = np.where(needed <= (1 - MARGIN) * gpu_bytes, step_s, np.inf)
    best = int(step_s.argmin())
    if not np.isfinite(step_s[best]):
        return None
    row = dict(zip(COLUMNS, rows[best], strict=True))
    degrees = {name: row[name] for name in ("pp", "vp", "tp", "cp", "dp")}
    if model.moe is not None:
        width = row["tp"] * row["cp"] * row["dp"]
        degrees |= {"ep": row["ep"], "etp": row["etp"], "edp": width // (row["ep"] * row["etp"])}
    return Fastest(
        ParallelLayout(**degrees),
        row["micro_batch"],
        bool(row["recompute"]),
        float(step_s[best]),
        float(needed[best]),
        len(rows),
    )


def _rows(launch: TrainingLaunch, model: ModelSpec) -> Iterator[tuple[int, ...]]:
    """Every choice that Megatron takes, as rows of COLUMNS."""
    world, layers, batch = launch.gpus, model.num_layers, launch.global_batch
    divisors = [degree for degree in range(1, world + 1) if world % degree == 0]
    tps = _admitted(divisors, tp_rules(model))
    cps = [cp for cp in CONTEXTS if cp == 1 or launch.seq_length % (2 * cp) == 0]
    grids = [(1, 1)]
    if model.moe is not None:
        eps = _admitted(divisors, ep_rules(model, "megatron"))
        grids = list(product(eps, _admitted(divisors, etp_rules(model))))
    pps = [pp for pp in divisors if (pp - 1) * -(-layers // pp) < layers]
    for tp, cp, pp, micro in product(tps, cps, pps, MICRO_BATCHES):
        if world % (tp * cp * pp) or launch.seq_length % tp:
            continue
        width = world // pp
        dp = width // (tp * cp)
        if batch % (micro * dp):
            continue
        count = batch // (micro * dp)
        vps = [vp for vp in range(1, layers // pp + 1) if layers // pp % vp == 0]
        vps = vps if pp > 1 and count % pp == 0 and layers % pp == 0 else [1]
        for (ep, etp), vp, recompute in product(grids, vps, RECOMPUTE):
            if width % (ep * etp) == 0:
                yield tp, cp, pp, vp, dp, ep, etp, micro, count, recompute


def _admitted(degrees: list[int], rules: list[Rule]) -> list[int]:
    return [degree for degree in degrees if all(holds(degree) for _, holds in rules)]
