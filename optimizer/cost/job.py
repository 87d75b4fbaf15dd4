"""What prices candidates, and the columns of the steps that they take."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optimizer.cost.calibration import Calibration, Constants
from optimizer.cost.demand import Device
from optimizer.cost.rank_order import best_order, usual_order
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
    reorder: bool = (
        True  # whether another order of ranks than the usual is taken where it is faster
    )

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
        for name in ("pp", "tp", "cp", "dp", "ep", "etp", "span")
    }
    columns["imbalance"] = np.full(len(layouts), job.workload.expert_imbalance or 1.0)
    for degree, factor in job.imbalances:
        columns["imbalance"][layouts.ep == degree] *= factor
    sizes = job.cluster.live_sizes[job.pool]
    # Every boundary is inside a domain only where whole replicas fill the domains without rest.
    whole = np.all([size % layouts.gpus_per_replica == 0 for size in sizes], axis=0)
    inside = whole | (sum(sizes.values()) == 1)
    columns["pp_inside"] = np.where((layouts.pp > 1) & inside, 2.0, 1.0)
    columns |= usual_order(layouts)
    columns["leaf"] = leaf_gpus(job.cluster, job.pool, layouts)
    columns["pp_leaf"] = np.full(len(layouts), boundary_leaf(job.cluster, job.pool))
    if (
        job.reorder
        and isinstance(job.workload, ForwardWorkload)
        and job.cluster.pools[job.pool].leaf is None
    ):
        sequence = sequence_tokens(job.workload)
        columns |= best_order(job.model, sequence, job.device, job.constants, layouts, columns)
    return columns


def split_order(job: Job, layouts: Layouts) -> int | None:
    """Of one layout, the context ranks of a group in one domain where that is not the usual."""
    own = degree_columns(job, layouts)["cp_inside"]
    return None if own[0] == usual_order(layouts)["cp_inside"][0] else int(own[0])


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
