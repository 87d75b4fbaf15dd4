"""Choices are legal, what is settled unpriced is no better, and bounds bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_instances import cluster, job_of, model, workload

from optimizer.cost.training.layouts import OPTIMIZER, REPLICATED, ZERO_BUBBLE
from optimizer.layout import enumerate_training_layouts
from optimizer.search.training.bounds import bounds_of, least_step
from optimizer.search.training.choices import count_choices, expand, pairs_of
from optimizer.search.training.cutting import chunk_sizes, cut_rows
from optimizer.search.training.fractions import fraction_bound_s
from optimizer.search.training.job import TrainingJob
from optimizer.search.training.joint import solve_row
from optimizer.search.training.parts import bounded, entries_of
from optimizer.search.training.prices import PriceTable, row_prices

JOBS = {
    "dense": job_of(cluster((4, 4), "4 GB"), model(7), workload(12)),
    "experts": job_of(cluster((3, 3), "4 GB"), model(5, experts=True, lead=2), workload(12)),
}


@pytest.fixture(params=JOBS)
def job(request: pytest.FixtureRequest) -> TrainingJob:
    return JOBS[request.param]


def test_every_choice_keeps_megatrons_rules(job: TrainingJob) -> None:
    layouts = enumerate_training_layouts(job.cluster, 0, job.model, job.workload).layouts
    rows, _ = expand(job, layouts, pairs_of(job, layouts))
    world, load = rows.gpus, job.workload
    assert (world % (rows.tp * rows.cp * rows.pp) == 0).all()
    assert (rows.dp * rows.micro_batch * rows.micro_batches == load.global_batch).all()
    assert (rows.width % (rows.ep * rows.etp) == 0).all()
    assert (world == rows.pp * rows.ep * rows.etp * rows.edp).all() or job.model.moe is None
    interleaved = rows.vp > 1
    assert (rows.micro_batches[interleaved] % rows.pp[interleaved] == 0).all()
    assert (rows.pp[interleaved] > 1).all()
    assert (rows.pp * rows.vp <= job.model.num_layers + 2).all()
    assert (rows.vp[rows.schedule == ZERO_BUBBLE] == 1).all()
    sliced = (rows.cp == 1) | (load.sequence_length % (2 * rows.cp) == 0)
    assert sliced.all()
    if job.model.moe is not None:
        assert (rows.sequence_parallel[rows.tp > 1] == 1).all()
    assert (rows.pp[rows.fully_sharded] == 1).all()
    assert (rows.gpus <= job.cluster.num_live_gpus).all()


def test_choices_are_counted_with_the_settled_ones(job: TrainingJob) -> None:
    layouts = enumerate_training_layouts(job.cluster, 0, job.model, job.workload).layouts
    pairs = pairs_of(job, layouts)
    rows, pair = expand(job, layouts, pairs)
    priced = np.bincount(pair, minlength=len(pairs.owner)) * len(job.modes)
    assert len(rows) > 100
    assert (count_choices(job, layouts, pairs) >= priced).all()


def test_sequence_parallelism_and_sharded_optimizers_are_never_slower_or_fuller(
    job: TrainingJob,
) -> None:
    layouts = enumerate_training_layouts(job.cluster, 0, job.model, job.workload).layouts
    rows, _ = expand(job, layouts, pairs_of(job, layouts))
    for changed, chosen in (
        ({"sequence_parallel": 0}, rows.sequence_parallel == 1),
        ({"sharding": REPLICATED, "shard": 1}, rows.sharding == OPTIMIZER),
    ):
        own = rows.take(chosen)
        other = replace(own, **{key: np.full(len(own), value) for key, value in changed.items()})
        for bits in job.modes.values():
            best = cut_rows(job, own, row_prices(job, own, bits))
            worse = cut_rows(job, other, row_prices(job, other, bits))
            fits = worse.memory_bytes <= job.memory_limit_bytes
            assert (best.memory_bytes <= job.memory_limit_bytes)[fits].all()
            assert (best.step_s[fits] <= worse.step_s[fits] * (1 + 1e-9)).all()


def test_no_choice_beats_its_bounds(job: TrainingJob) -> None:
    layouts = enumerate_training_layouts(job.cluster, 0, job.model, job.workload).layouts
    pairs = pairs_of(job, layouts)
    few, entry = entries_of(job, layouts, pairs)
    bounds = bounds_of(job, layouts, pairs, PriceTable(job, few), entry)
    rows, pair = expand(job, layouts, pairs)
    for bits in job.modes.values():
        prices = row_prices(job, rows, bits)
        cuts = cut_rows(job, rows, prices)
        fits = cuts.memory_bytes <= job.memory_limit_bytes
        assert (bounds.memory_bytes[pair] <= cuts.memory_bytes * (1 + 1e-9)).all()
        assert (bounds.step_s[pair][fits] <= cuts.step_s[fits] * (1 + 1e-9)).all()
        assert (least_step(job, rows, prices) <= cuts.step_s * (1 + 1e-9)).all()


def test_no_layers_chosen_one_by_one_beat_the_bound_with_fractions() -> None:
    job = job_of(
        cluster((4,), "1.4 GB"), model(8), workload(8, micro_batch=1, max_context_parallel=1)
    )
    layouts = enumerate_training_layouts(job.cluster, 0, job.model, job.workload).layouts
    rows, _ = expand(job, layouts, pairs_of(job, layouts))
    rows = rows.take(rows.pp > 1)
    everything = np.arange(len(rows))
    bound = fraction_bound_s(job, rows, PriceTable(job, rows), everything)
    better = 0
    for row in everything[:: max(1, len(rows) // 12)].tolist():
        solved = solve_row(job, rows.take(np.array([row])), np.inf)
        if solved.chosen is not None:
            assert bound[row] <= solved.step_s * (1 + 1e-9)
            assert solved.memory_bytes <= job.memory_limit_bytes
            better += 1
    assert better > 3


def test_chunks_hold_the_layers_of_their_stages() -> None:
    layers = np.array([[5, 4, 4, 3], [2, 2, 3, 0]])
    pp, vp = np.array([4, 3]), np.array([2, 1])
    sizes = chunk_sizes(layers, pp, vp)
    assert sizes[0].tolist() == [2, 2, 2, 2, 3, 2, 2, 1]
    assert sizes[1, :3].tolist() == [2, 2, 3]
    assert not sizes[1, 3:].any()


def test_a_layout_no_memory_holds_is_bounded_away() -> None:
    job = job_of(cluster((2,), "0.5 GB"), model(4), workload(2))
    known = bounded(
        job, enumerate_training_layouts(job.cluster, 0, job.model, job.workload).layouts
    )
    assert not np.isfinite(known.step_s).any()
