"""What prices candidates, and the columns of the steps that they take."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.cost.calibration import Calibration, Constants
from optimizer.cost.demand import Device
from optimizer.cost.rank_order import OrderOf, usual_order
from optimizer.cost.rows import Rows
from optimizer.cost.silicon import with_tables
from optimizer.cost.stages import Cut, even_stages
from optimizer.layout import Layouts, boundary_leaf, leaf_gpus
from optimizer.operators import Floats
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import ForwardWorkload, ServingWorkload


class Job(NamedTuple):
    """What prices candidates: one pool of a cluster, a model in one set of formats, a workload."""

    cluster: Cluster
    pool: int
    model: ModelSpec
    workload: ForwardWorkload | ServingWorkload
    calibration: Calibration
    imbalances: tuple[tuple[int, float], ...] = ()  # EP -> hottest rank's load over the mean
    cut: Cut = even_stages
    order: OrderOf = usual_order

    @property
    def device(self) -> Device:
        """The pool's, with the tables that the calibration goes with."""
        device = Device.of(self.cluster, self.pool)
        tables, timed = self.calibration.tables, self.calibration.timed
        return with_tables(device, self.workload.engine, tables, timed)

    @property
    def constants(self) -> Constants:
        """The calibration's constants of this engine on this pool's GPUs."""
        generation = self.cluster.pools[self.pool].gpu.generation
        return self.calibration.constants_of(self.workload.engine, generation)

    @property
    def memory_limit_bytes(self) -> float:
        """What a plan may fill of one GPU: its memory less the workload's margin."""
        gpu = self.cluster.pools[self.pool].gpu
        return gpu.memory_bytes * (1.0 - self.workload.memory_margin)


Steps = dict[str, dict[str, Floats]]  # phase -> columns of one step


def sequence_tokens(workload: ForwardWorkload | ServingWorkload) -> int:
    """Tokens of one sequence at its end."""
    if isinstance(workload, ForwardWorkload):
        return workload.seq_len
    return workload.input_len + workload.output_len


def degree_columns(job: Job, layouts: Layouts) -> dict[str, Floats]:
    """The columns that follow from the degrees alone [layouts]."""
    columns = {
        name: getattr(layouts, name).astype(np.float64)
        for name in ("pp", "tp", "cp", "dp", "ep", "etp")
    }
    columns["imbalance"] = np.full(len(layouts), job.workload.expert_imbalance or 1.0)
    for degree, factor in job.imbalances:
        columns["imbalance"][layouts.ep == degree] *= factor
    order = job.order(layouts)
    columns["span"] = (layouts.span // order.pp).astype(np.float64)
    columns["tp_inside"] = order.tp.astype(np.float64)
    columns["cp_inside"] = order.cp.astype(np.float64)
    near = whole_inside(job, layouts) | (order.pp > 1)
    columns["pp_inside"] = np.where((layouts.pp > 1) & near, 2.0, 1.0)
    columns["leaf"] = leaf_gpus(job.cluster, job.pool, layouts)
    columns["tp_leaf"] = columns["cp_leaf"] = columns["leaf"]
    if job.cluster.pools[job.pool].leaf is not None:
        domains, of_tp = columns["leaf"] / layouts.span, layouts.tp / order.tp
        rows = np.floor(domains / of_tp)  # domains follow each other as ranks do, tensor first
        columns["tp_leaf"] = order.tp * np.minimum(domains, of_tp)
        columns["cp_leaf"] = order.cp * np.clip(rows, 1.0, layouts.cp / order.cp)
    columns["pp_leaf"] = np.full(len(layouts), boundary_leaf(job.cluster, job.pool))
    return columns


def whole_inside(job: Job, layouts: Layouts) -> NDArray[np.bool_]:
    """Whether every boundary of stages is inside a domain: only where whole replicas fill the
    domains without rest [layouts]."""
    sizes = job.cluster.live_sizes[job.pool]
    whole = np.all([size % layouts.gpus_per_replica == 0 for size in sizes], axis=0)
    found: NDArray[np.bool_] = whole | (sum(sizes.values()) == 1)
    return found


def micro_sequences(rows: Rows) -> Floats:
    """Sequences of one micro-batch."""
    return np.ceil(rows.sequences / rows.micro_batches)


def step_columns(job: Job, rows: Rows, layouts: Layouts) -> Steps:
    """The columns of each phase's step, as operators.lower reads them."""
    degrees, workload = degree_columns(job, layouts), job.workload
    shared = {name: column[rows.layout] for name, column in degrees.items()}
    cp = shared["cp"]
    if isinstance(workload, ForwardWorkload):
        length, micro = workload.seq_len, micro_sequences(rows)
        return {
            "prefill": {
                **shared,
                "tokens": np.ceil(micro * length / cp),
                "sequences": micro,
                "context": np.full(len(rows), (length + 1) / 2.0),
                "logits": micro,
            }
        }
    fresh, micro = workload.input_len - workload.prefix_len, micro_sequences(rows)
    ones = np.ones(len(rows))
    chunks = np.ceil(fresh / rows.chunk)
    return {
        "prefill": {
            **shared,
            "tokens": np.ceil(fresh / chunks / cp),
            "sequences": ones,
            "context": ones * (workload.prefix_len + (fresh + 1) / 2.0),
            "logits": ones,
        },
        "decode": {
            **shared,
            "tokens": micro,
            "sequences": micro,
            "context": np.ceil((workload.input_len + workload.output_len / 2.0) / cp),
            "logits": micro,
        },
    }
