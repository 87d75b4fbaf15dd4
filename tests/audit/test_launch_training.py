"""The fastest training layout beside a command's."""

from __future__ import annotations

import pytest
from launch_commands import layout, training

from optimizer.audit.launch import audit_launches
from optimizer.audit.launch.job import read_launches
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.audit.launch.training import priced_step
from optimizer.audit.launch.training_plan import MARGIN, fastest
from optimizer.cost.training import Job, TrainingLayouts, load_training_calibration, rates_of, scan
from optimizer.layout import divisibility_problems
from optimizer.spec.model import Precision
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.workload import ForwardWorkload

SHAPE = "--num-layers 16 --hidden-size 4096 --num-attention-heads 32 --vocab-size 32000 --swiglu"
MOE = f"{SHAPE} --num-experts 16 --moe-ffn-hidden-size 2048"
BATCH = "--global-batch-size 32 --seq-length 4096 --use-distributed-optimizer"


@pytest.mark.parametrize("shape", [SHAPE, MOE])
@pytest.mark.parametrize("gpus", [8, 12, 16])
def test_the_fastest_layout_is_legal_fits_and_is_no_slower(shape: str, gpus: int) -> None:
    cluster = read_cluster("h100-sxm", gpus=gpus)
    pool, calibration = cluster.pools[0], load_training_calibration()
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    found = training(f"torchrun --nproc_per_node {gpus} train.py {shape} {BATCH}", gpus)
    model = found.model.with_precision(Precision())
    best = fastest(found, model, rates, 8, pool.gpu.memory_bytes)
    assert best is not None
    assert best.layout.gpus == gpus
    assert best.needed_bytes <= (1 - MARGIN) * pool.gpu.memory_bytes
    forward = ForwardWorkload(batch=32, seq_len=4096, engine="megatron")
    assert divisibility_problems(best.layout, model, forward) == []
    if gpus == 12:  # neither 32 heads nor 32 sequences have a factor of 3: the stages take it
        assert best.layout.pp % 3 == 0
        return
    assert best.step_s <= float(priced_step(found, cluster).step.step_s[0]) * (1 + 1e-9)


def test_the_fastest_layout_is_that_of_a_plain_search() -> None:
    """Dense, 8 GPUs, without virtual stages: every tp x pp x dp and micro-batch by a loop."""
    cluster = read_cluster("h100-sxm")
    pool, calibration = cluster.pools[0], load_training_calibration()
    rates = rates_of(calibration.values(), pool, calibration.software["megatron"])
    found = training(f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH}", 8)
    model = found.model.with_precision(Precision())
    best = fastest(found, model, rates, 8, pool.gpu.memory_bytes)
    assert best is not None
    steps = []
    for tp in (1, 2, 4, 8):
        for pp in (1, 2, 4, 8):
            dp = 8 // (tp * pp)
            for micro in (1, 2, 4, 8):
                if dp and 32 % (micro * dp) == 0:
                    row = {"tp": tp, "pp": pp, "dp": dp, "micro_batch": micro}
                    layouts = TrainingLayouts.of(8, **row, micro_batches=32 // (micro * dp))
                    step, needed = scan(model, layouts, rates, Job(4096))
                    if needed[0] <= (1 - MARGIN) * pool.gpu.memory_bytes:
                        steps.append(float(step[0]))
    assert best.step_s <= min(steps)


def test_a_refused_command_is_answered_with_one_that_runs() -> None:
    command = f"torchrun --nproc_per_node 8 train.py {MOE} {BATCH} --tensor-model-parallel-size 2 "
    found = audit_launches([("megatron", command + "--expert-model-parallel-size 4")], "h100-sxm")
    assert not found.readiness[0].ready
    assert "needs --sequence-parallel" in found.readiness[0].limits[0]
    assert found.better[0].plan
    assert found.better[0].claimed_plan == ""


def test_a_preset_stands_for_the_shape() -> None:
    command = f"torchrun --nproc_per_node 8 train.py {BATCH} --expert-model-parallel-size 8"
    model = read_model("qwen3-30b-a3b").model
    cluster = read_cluster("h100-sxm")
    (found,) = read_launches([("megatron", command)], cluster, model)
    assert isinstance(found, TrainingLaunch)
    assert layout(found).name == "EP8-DP8"
    (clash,) = read_launches([("megatron", f"{command} --num-layers 12")], cluster, model)
    assert [rule.claim for rule in clash.rules] == ["--num-layers 12"]
