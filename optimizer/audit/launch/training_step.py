"""A training launch by the cost model: its own stages, its own recomputation."""

from __future__ import annotations

import numpy as np

from optimizer.audit.launch.capacity import stages_of
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.cost.training import (
    MODULES,
    SHARDINGS,
    Job,
    PricedCut,
    TrainingLayouts,
    cut_pieces,
    load_training_calibration,
    price_cut,
    rates_of,
)
from optimizer.layout import Ints
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import Precision


def priced_step(launch: TrainingLaunch, cluster: Cluster) -> PricedCut:
    """Step and memory of the launch, stage by stage as Megatron-LM cuts them."""
    layout = launch.layout
    assert layout is not None
    pool, calibration = cluster.pools[0], load_training_calibration()
    degrees = {name: getattr(layout, name) for name in ("tp", "cp", "pp", "vp", "dp", "ep", "etp")}
    row = TrainingLayouts.of(
        pool.nvlink_domain or pool.gpus_per_node,
        **degrees,
        micro_batch=launch.micro_batch,
        micro_batches=launch.micro_batches,
        sequence_parallel=int(launch.sequence_parallel and layout.tp > 1),
        sharding=SHARDINGS[launch.sharding],
        bits=launch.bits,
    )
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    modes = (sum(MODULES[name] for name in launch.recompute), 0)
    job = Job(launch.seq_length, mtp_layers=launch.mtp_layers)
    model = launch.model.with_precision(Precision())
    return price_cut(cut_pieces(model, row, rates, job, modes), _counts(launch), rates)


def _counts(launch: TrainingLaunch) -> Ints:
    """Layers of each stage and type that recompute, and that do not [stages, types, 2]."""
    assert launch.layout is not None
    stages = stages_of(launch.model, launch.layout.pp, launch.stage_layers)
    layers = np.array([stage.layers for stage in stages], dtype=np.int64)
    repeated = np.rint(launch.recompute_share * layers).astype(np.int64)
    return np.stack([repeated, layers - repeated], axis=2)
