"""The planner's best plan beside a training command, and the command's own step."""

from __future__ import annotations

import re
from itertools import product

import pytest
from launch_commands import layout, training

from optimizer.audit.finding import Audit
from optimizer.audit.launch import audit_launches
from optimizer.audit.launch.job import read_launches
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.audit.launch.training import parameters_held
from optimizer.audit.launch.training_step import priced_step
from optimizer.export.megatron import beyond_megatron, megatron_arguments
from optimizer.pipeline import optimize
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.workload import TrainingWorkload

SHAPE = "--num-layers 16 --hidden-size 4096 --num-attention-heads 32 --vocab-size 32000 --swiglu"
MOE = f"{SHAPE} --num-experts 16 --moe-ffn-hidden-size 2048"
BATCH = "--global-batch-size 32 --seq-length 4096 --use-distributed-optimizer"


def judged(*commands: str, gpus: int = 8) -> Audit:
    sources = [("megatron", command) for command in commands]
    return audit_launches(sources, "h100-sxm", gpus=gpus)


@pytest.mark.parametrize("shape", [SHAPE, MOE])
@pytest.mark.parametrize("gpus", [8, 12, 16])
def test_the_better_plan_is_the_planners_own(shape: str, gpus: int) -> None:
    command = f"torchrun --nproc_per_node {gpus} train.py {shape} {BATCH}"
    found = judged(command, gpus=gpus)
    cluster, launch = read_cluster("h100-sxm", gpus=gpus), training(command, gpus)
    load = TrainingWorkload(engine="megatron", global_batch=32, sequence_length=4096, mtp=False)
    best = optimize(cluster, launch.model, load, top=1).best
    assert found.better[0].plan == best.name
    times = found.better[0].times
    if gpus == 12:  # 32 sequences have no factor of 3: the command cannot run, the plan does
        assert times is None
        return
    step_s = float(priced_step(launch, cluster).step.step_s[0])
    assert times == pytest.approx(step_s / best.predictions["step_s"].value)


FSDP = "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params"


def test_no_command_is_faster_than_the_best_plan() -> None:
    """Dense, 8 GPUs: every tp x pp, micro-batch and sharding by a loop."""
    degrees = product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), ("", FSDP))
    commands = [
        f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH} --tensor-model-parallel-size {tp} "
        f"--sequence-parallel --pipeline-model-parallel-size {pp} --micro-batch-size {micro} {more}"
        for tp, pp, micro, more in degrees
        if tp * pp <= 8 and (pp == 1 or not more)
    ]
    better = judged(*commands).better
    times = [each.times for each in better if each.times is not None]
    assert len(times) > 30
    assert min(times) == pytest.approx(1, abs=1e-6)  # the best plan is one of these commands
    told = [each.comparison.startswith("within 1 %") for each in better]
    assert any(told)
    assert not all(told)


def test_fsdp_is_cut_over_all_data_parallel_ranks() -> None:
    command = f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH}"
    cluster = read_cluster("h100-sxm")
    whole, cut = (training(f"{command} {flags}", 8) for flags in ("", FSDP))
    held = parameters_held(cut)
    assert held.bytes == pytest.approx(held.dense * (4 + 12) / 8)
    assert "x (4/8 + 12/8) B" in held.arithmetic()
    parts = priced_step(cut, cluster).memory.fullest.parts
    states = float(parts["weights_and_gradients"][0] + parts["optimizer"][0])
    assert states == pytest.approx(held.bytes, rel=0.01)
    assert parameters_held(whole).bytes == pytest.approx(held.dense * (6 + 12 / 8))


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("--use-torch-fsdp2", "is not supported with --use-distributed-optimizer"),
        ("--use-torch-fsdp2 --pipeline-model-parallel-size 2", "with pipeline parallelism"),
        (FSDP, "needs CUDA_DEVICE_MAX_CONNECTIONS of more than 1"),
    ],
)
def test_megatron_refuses_fsdp_beside_what_it_cannot_have(flags: str, why: str) -> None:
    command = f"CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH}"
    found = training(f"{command} {flags}", 8)
    assert any(why in rule.arithmetic for rule in found.rules)
    assert all(rule.kind == "refused" for rule in found.rules)


def test_commands_of_one_job_share_their_best_plan() -> None:
    command = f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH} --tensor-model-parallel-size"
    found = judged(f"{command} 1", f"{command} 2", f"{command} 4")
    assert len({each.plan for each in found.better}) == 1
    assert len({each.times for each in found.better}) == 3


def test_stages_that_a_command_names_are_priced_as_named() -> None:
    """Of 16 layers the first stage takes 2 and the last 6: the last is the slowest, and memory
    follows the stage that holds most."""
    cluster = read_cluster("h100-sxm")
    command = f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH}"
    command += " --pipeline-model-parallel-size 4"
    even = priced_step(training(command, 8), cluster)
    ends = " --decoder-first-pipeline-num-layers 2 --decoder-last-pipeline-num-layers 6"
    named = priced_step(training(command + ends, 8), cluster)
    assert named.stage_s.argmax() == 3
    assert named.stage_s.sum() == pytest.approx(even.stage_s.sum())
    assert named.step.step_s[0] > even.step.step_s[0]


def test_recomputing_some_layers_of_each_stage_lies_between_none_and_all() -> None:
    cluster = read_cluster("h100-sxm")
    command = f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH}"
    command += " --pipeline-model-parallel-size 2"
    block = " --recompute-granularity full --recompute-method block --recompute-num-layers"
    found = [
        priced_step(training(command + flags, 8), cluster)
        for flags in ("", f"{block} 2", f"{block} 8")
    ]
    steps = [float(each.step.step_s[0]) for each in found]
    kept = [float(each.memory.fullest.parts["activations"][0]) for each in found]
    assert steps == sorted(steps)
    assert kept == sorted(kept, reverse=True)
    # 2 of a stage's 8 layers are a quarter of the way
    assert steps[1] - steps[0] == pytest.approx((steps[2] - steps[0]) / 4, rel=0.01)


def test_a_refused_command_is_answered_with_one_that_runs() -> None:
    command = f"torchrun --nproc_per_node 8 train.py {MOE} {BATCH} --tensor-model-parallel-size 2 "
    found = judged(command + "--expert-model-parallel-size 4")
    assert not found.readiness[0].ready
    assert "needs --sequence-parallel" in found.readiness[0].limits[0]
    assert found.better[0].plan
    assert found.better[0].claimed_plan == ""
    assert found.better[0].times is None


def test_a_preset_stands_for_the_shape() -> None:
    command = f"torchrun --nproc_per_node 8 train.py {BATCH} --expert-model-parallel-size 8"
    model = read_model("qwen3-30b-a3b").model
    cluster = read_cluster("h100-sxm")
    (found,) = read_launches([("megatron", command)], cluster, model)
    assert isinstance(found, TrainingLaunch)
    assert layout(found).name == "EP8-DP8"
    (clash,) = read_launches([("megatron", f"{command} --num-layers 12")], cluster, model)
    assert [rule.claim for rule in clash.rules] == ["--num-layers 12"]


def test_query_groups_need_their_switch() -> None:
    """Megatron-LM reads --num-query-groups only with --group-query-attention."""
    command = f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH} --num-query-groups 8"
    for flags, heads in (("", 32), ("--group-query-attention", 8)):
        (kind,) = training(f"{command} {flags}", 8).model.layer_types.values()
        assert kind.attention.num_kv_heads == heads


@pytest.mark.parametrize(
    ("model", "gpus"), [("llama-3.1-8b", 32), ("mixtral-8x7b", 32), ("qwen3-30b-a3b", 64)]
)
def test_the_arguments_of_a_plan_are_audited_as_that_plan(model: str, gpus: int) -> None:
    """The planner's best, written out for Megatron-LM and read back: its layout, its step."""
    cluster, shape = read_cluster("h100-sxm", gpus=gpus), read_model(model).model
    load = TrainingWorkload(engine="megatron", global_batch=64, sequence_length=4096)
    plan = optimize(cluster, shape, load, top=1).best
    assert beyond_megatron(plan.deployment) == ()
    head = f"torchrun --nnodes {gpus // 8} --nproc_per_node 8 pretrain_gpt.py"
    command = f"{head} {' '.join(megatron_arguments(plan))}"
    found = audit_launches([("megatron", command)], "h100-sxm", gpus=gpus, model=model)
    assert found.readiness[0].ready
    assert (found.better[0].claimed_plan, found.better[0].plan) == (plan.name, plan.name)
    assert found.better[0].times == pytest.approx(1, abs=1e-9)


def test_the_step_is_said_in_megatrons_own_measure() -> None:
    """tokens/s a GPU x FLOP a token: 6 a parameter, and attention over the whole square."""
    said = judged(f"torchrun --nproc_per_node 8 train.py {SHAPE} {BATCH}").readiness[0].arithmetic
    match = re.search(r"([\d,]+) a GPU, (\d+) TFLOP/s a GPU, MFU ([\d.]+) %", said)
    assert match is not None
    tokens, teraflops = float(match[1].replace(",", "")), float(match[2])
    a_token = 6 * (16 * (4 * 4096**2 + 3 * 4096 * 16384) + 4096 * 32000)
    a_token += 16 * 12 * 4096 * 4096
    assert teraflops == pytest.approx(tokens * a_token / 1e12, abs=0.6)
    causal = a_token - 16 * 12 * 4096 * 2048
    assert float(match[3]) == pytest.approx(100 * tokens * causal / 989e12, abs=0.2)
