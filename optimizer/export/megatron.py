"""A training plan as Megatron-LM's arguments, and what of it Megatron-LM cannot say.

Flags as of Megatron-LM core 0.16: blocks on stages by --pipeline-model-parallel-layout, in which E
is the embedding, t a layer, m an MTP layer, L the loss, | a chunk's end.
"""

from __future__ import annotations

from collections.abc import Iterator

from optimizer.plan import Deployment, Plan, Training

MODULES = {  # recompute mode -> names of --recompute-modules
    "core_attn": "core_attn",
    "mla_up_proj": "mla_up_proj",
    "mlp": "mlp",
    "moe": "moe",
    "moe_act": "moe_act",
    "layernorm": "layernorm",
}


def megatron_arguments(plan: Plan) -> tuple[str, ...]:
    """The arguments of the plan's first deployment, one flag with its values an entry."""
    deployment, workload = plan.deployment, plan.workload
    training, layout = deployment.training, deployment.layout
    if training is None or workload.kind != "training":
        raise ValueError("not a training plan")
    found = [
        f"--tensor-model-parallel-size {layout.tp}",
        f"--pipeline-model-parallel-size {layout.pp}",
        f"--context-parallel-size {layout.cp}",
        f"--micro-batch-size {training.micro_batch}",
        f"--global-batch-size {workload.global_batch}",
        f"--seq-length {workload.sequence_length}",
    ]
    if plan.model.moe is not None:
        found += [
            f"--expert-model-parallel-size {layout.ep}",
            f"--expert-tensor-parallel-size {layout.etp}",
        ]
    if layout.pp > 1:
        found.append(f'--pipeline-model-parallel-layout "{chunk_letters(training)}"')
    if training.sequence_parallel:
        found.append("--sequence-parallel")
    found += [*_sharding(training), *_recompute(training)]
    if training.compute != "bf16":
        found.append(f"--{training.compute}-format hybrid")
    return (*found, "--bf16")


def chunk_letters(training: Training) -> str:
    """The blocks of all chunks in order: "Ett|tt|ttL"."""
    many, predicted = len(training.block_chunk), len(training.block_chunk) - 2
    predicted -= len(training.recompute)
    letters = "E" + "t" * len(training.recompute) + "m" * predicted + "L"
    found = ""
    for block in range(many):
        if block and training.block_chunk[block] != training.block_chunk[block - 1]:
            found += "|"
        found += letters[block]
    return found


def _sharding(training: Training) -> Iterator[str]:
    if training.sharding == "optimizer":
        yield "--use-distributed-optimizer"
        yield "--overlap-grad-reduce"
        yield "--overlap-param-gather"
    elif training.sharding in ("parameters", "hybrid"):
        yield "--use-megatron-fsdp"
        yield "--data-parallel-sharding-strategy optim_grads_params"


def _recompute(training: Training) -> Iterator[str]:
    modes = sorted(set(training.recompute) - {"none"})
    if not modes:
        return
    if modes == ["full"]:
        yield "--recompute-granularity full"
        whole = len(training.recompute) == training.recompute.count("full")
        yield f"--recompute-method {'uniform' if whole else 'block'}"
        yield f"--recompute-num-layers {1 if whole else _most_in_a_chunk(training)}"
        return
    yield "--recompute-granularity selective"
    names = dict.fromkeys(name for mode in modes if mode != "full" for name in mode.split("+"))
    yield "--recompute-modules " + " ".join(MODULES[name] for name in names)


def _most_in_a_chunk(training: Training) -> int:
    """Layers of the chunk that recomputes most: Megatron-LM takes one number for all."""
    found: dict[int, int] = {}
    for mode, chunk in zip(training.recompute, training.block_chunk[1:], strict=False):
        found[chunk] = found.get(chunk, 0) + (mode == "full")
    return max(found.values())


def beyond_megatron(deployment: Deployment) -> tuple[str, ...]:
    """What these arguments do not say: the plan's step needs it all the same."""
    training = deployment.training
    if training is None:
        return ()
    found = []
    if training.schedule == "zero_bubble":
        found.append("zero bubble (ZB-H1) needs a schedule that Megatron-LM's main branch lacks")
    if len(set(training.recompute)) > 1:
        found.append(
            "recomputation differs by layer: Megatron-LM takes one choice for all stages, which "
            "takes longer or more memory than planned; see `recompute` in the plan"
        )
    if training.sharding == "hybrid":
        found.append(f"hybrid sharding is over {training.shard_ranks} ranks, inside a domain")
    return tuple(found)
