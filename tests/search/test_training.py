"""Training plans: the solver holds against trying everything, and what holds for every plan."""

from __future__ import annotations

import json

import pytest
from training_instances import by_hand, cluster, job_of, model, workload

from optimizer.errors import InfeasibleError
from optimizer.pipeline import optimize, verify
from optimizer.plan import Plan, read_plan, write_plan
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.reading import read_job
from optimizer.spec.workload import TrainingWorkload

FEW = {"recompute": ["none", "full"], "schedules": ["1f1b", "interleaved", "zero_bubble"]}
PLAIN = {**FEW, "sharding": "optimizer", "micro_batch": 1, "max_context_parallel": 1}
INSTANCES = {
    "roomy": (cluster((2,), "16 GB"), model(4), workload(4, **FEW)),
    "tight": (cluster((4,), "1.2 GB"), model(4), workload(4, **PLAIN)),
    "odd": (cluster((3,), "1.6 GB"), model(5), workload(6, **FEW)),
    "dead": (cluster((2, 2), "1.6 GB", ("node0/gpu1",)), model(4), workload(3, **FEW)),
    "experts": (cluster((4,), "1.5 GB"), model(3, experts=True), workload(4, **FEW)),
    "lead": (
        cluster((2,), "1.45 GB"),
        model(4, experts=True, lead=1),
        workload(2, sharding="optimizer", max_context_parallel=1, **FEW),
    ),
    "predicting": (
        cluster((2,), "1.35 GB"),
        model(3, mtp={"num_layers": 1}),
        workload(2, sharding="optimizer", max_context_parallel=1, **FEW),
    ),
    "too small": (cluster((2,), "0.9 GB"), model(4), workload(2, **FEW)),
}


BY_LAYER = ("tight", "dead", "lead", "predicting")


@pytest.mark.parametrize("name", INSTANCES)
def test_the_plan_is_the_best_of_all(name: str) -> None:
    """Of every cut under every choice, and where memory binds every recomputation by layer."""
    place, small, load = INSTANCES[name]
    found = by_hand(job_of(place, small, load), by_layer=name in BY_LAYER)
    if found is None:
        with pytest.raises(InfeasibleError, match="memory"):
            optimize(place, small, load)
        return
    plan = optimize(place, small, load).best
    assert plan.proof.status == "OPTIMAL"
    assert plan.predictions["step_s"].value == pytest.approx(found[0], rel=1e-4)


def plan_of(place: Cluster, small: ModelSpec, load: TrainingWorkload) -> Plan:
    plans = optimize(place, small, load, top=3)
    assert all(finding.ok for finding in verify(plans))
    return plans.best


@pytest.mark.parametrize("name", [name for name in INSTANCES if name != "too small"])
def test_every_candidate_is_accounted_for_and_every_plan_verifies(name: str) -> None:
    plan = plan_of(*INSTANCES[name])
    proof = plan.proof
    assert proof.candidates == proof.infeasible + proof.dominated + proof.given


def test_a_training_plan_round_trips_with_its_bytes() -> None:
    plan = plan_of(*INSTANCES["odd"])
    assert write_plan(read_plan(write_plan(plan))) == write_plan(plan)


def test_the_same_input_gives_the_same_bytes() -> None:
    assert write_plan(plan_of(*INSTANCES["experts"])) == write_plan(plan_of(*INSTANCES["experts"]))


def test_uneven_stages_are_never_slower_than_even_ones() -> None:
    place, load = cluster((4,), "16 GB"), workload(8, max_context_parallel=1)
    heavy = model(6, vocab_size=64_000)  # a head worth several layers
    plans = optimize(place, heavy, load, strategy="PP4")
    cut = [stop - first for first, stop in plans.best.deployment.placement.stage_layers]
    assert sum(cut) == 6
    assert cut[-1] < cut[1]
    stages = [0.0] * 4
    training = plans.best.deployment.training
    assert training is not None
    for chunk in training.chunks:
        stages[chunk.stage] += chunk.forward_s + chunk.backward_s
    layer = next(work for work in training.layers if work.part == "dense")
    head = next(work for work in training.layers if work.part == "head")
    even = 2 * (layer.forward_s + layer.backward_s) + head.forward_s + head.backward_s
    assert max(stages) < even


def test_recomputation_by_layer_beats_every_uniform_one_where_memory_binds() -> None:
    place, small = cluster((4,), "1.4 GB"), model(8)
    load = workload(8, micro_batch=1, max_context_parallel=1, recompute=["none", "full"])
    plan = optimize(place, small, load, strategy="PP4").best
    training = plan.deployment.training
    assert training is not None
    assert set(training.recompute) == {"none", "full"}
    assert training.joint.status == "OPTIMAL"
    only = load.model_copy(update={"recompute": ("full",)})
    whole = optimize(place, small, only, strategy="PP4").best
    assert plan.predictions["step_s"].value < whole.predictions["step_s"].value
    assert plan.deployment.memory.fullest_bytes <= plan.deployment.memory.limit_bytes


def test_more_memory_is_never_slower() -> None:
    small, load = model(4), workload(4, **FEW)
    steps = [
        optimize(cluster((4,), f"{gb} GB"), small, load).best.predictions["step_s"].value
        for gb in (1.0, 1.2, 1.4, 16)
    ]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[-1]


def test_more_choice_is_never_slower() -> None:
    place, small = cluster((4,), "1.2 GB"), model(4)
    narrow = optimize(place, small, workload(4, recompute="full", schedules="1f1b")).best
    wide = optimize(place, small, workload(4)).best
    assert wide.predictions["step_s"].value < narrow.predictions["step_s"].value


@pytest.mark.parametrize("limit", [0.9, 1.1])
def test_a_step_time_limit_holds_or_says_by_how_much_it_is_missed(limit: float) -> None:
    place, small, _ = INSTANCES["roomy"]
    free = optimize(place, small, workload(4)).best.predictions["step_s"].value
    limited = workload(4, step_time=f"{free * limit} s")
    if limit > 1:
        assert optimize(place, small, limited).best.predictions["step_s"].value <= free * limit
    else:
        with pytest.raises(InfeasibleError, match=r"step time: .* needed"):
            optimize(place, small, limited)


def test_no_dead_gpu_is_used_by_a_plan_of_three() -> None:
    place, small, load = INSTANCES["dead"]
    plan = optimize(place, small, load, strategy="DP3").best
    (used,) = plan.deployment.placement.rank_gpu
    assert sorted(used) == ["node0/gpu0", "node1/gpu0", "node1/gpu1"]


def test_experts_under_tensor_parallelism_have_sequence_parallelism() -> None:
    place, small, load = INSTANCES["experts"]
    plan = optimize(place, small, load, strategy="EP2-TP2-EDP2-DP2").best
    training = plan.deployment.training
    assert training is not None
    assert training.sequence_parallel
    off = workload(4, sequence_parallel=False)
    with pytest.raises(InfeasibleError):
        optimize(place, small, off, strategy="EP2-TP2-EDP2-DP2")


def test_replicas_of_other_peoples_names_are_data_parallel() -> None:
    place, small, load = INSTANCES["tight"]
    plan = optimize(place, small, load, strategy="TP2_DP2").best
    assert plan.name == "TP2-DP2"
    assert "TP2_DP2 is read as TP2-DP2 on 4 GPUs" in plan.notes[0]


def test_case_e_trains_on_its_sixteen_gpus() -> None:
    job = read_job("cases/e", "cases/e", flags={"global_batch": 128, "sequence_length": 1024})
    plans = optimize(job.cluster, job.model, job.workload, top=1)
    assert all(finding.ok for finding in verify(plans))
    assert plans.best.deployment.memory.fullest_bytes < 80e9
    with pytest.raises(InfeasibleError, match="GPUs: 64 needed, 16 there"):
        optimize(job.cluster, job.model, job.workload, strategy="EP16_TP1_PP1_DP4")


def test_a_serving_plan_says_nothing_of_training() -> None:
    job = read_job("cases/d", "cases/d")
    document = json.loads(write_plan(optimize(job.cluster, job.model, job.workload, top=1).best))
    (deployment,) = document["deployments"]
    assert "training" not in deployment
    assert "edp" not in deployment["placement"]["ranks"][0]
