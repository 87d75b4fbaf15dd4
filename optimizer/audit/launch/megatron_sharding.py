"""What Megatron-LM cuts over data parallelism, by its own flags, and which of them it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from optimizer.audit.launch.command import Command
from optimizer.audit.launch.flags import Settings
from optimizer.audit.launch.launch import Rule
from optimizer.errors import SpecError

STRATEGIES: Final = {  # --data-parallel-sharding-strategy; Megatron-LM's default is the first
    "no_shard": "none",
    "optim": "optimizer",
    "optim_grads": "gradients",
    "optim_grads_params": "parameters",
}


class StateBytes(NamedTuple):
    """Bytes of a parameter beside Adam's twelve, whether those are cut too, and how written."""

    resident: float
    cut: bool
    text: str


def sharding_of(command: Command, settings: Settings) -> str:
    """One of the cost model's names (SHARDINGS)."""
    if settings.switch("torch_fsdp"):
        return "parameters"
    if settings.switch("megatron_fsdp"):
        stated = settings.text("fsdp_strategy") or "no_shard"
        if stated not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            message = f"'--data-parallel-sharding-strategy {stated[:30]}' is none of {known}"
            raise SpecError(command.problem(message))
        return STRATEGIES[stated]
    return "optimizer" if settings.switch("distributed_optimizer") else "none"


def sharding_rules(command: Command, settings: Settings, pp: int, ep: int) -> Iterator[Rule]:
    """Where the engine's own checks of FSDP fail."""
    flag = "--use-torch-fsdp2" if settings.switch("torch_fsdp") else "--use-megatron-fsdp"
    if settings.switch("torch_fsdp"):
        for degree, name in ((pp, "pipeline"), (ep, "expert")):
            if degree > 1:
                text = f"is not supported with {name} parallelism, here {degree}"
                yield Rule("refused", flag, text)
        if settings.switch("distributed_optimizer"):
            yield Rule("refused", flag, "is not supported with --use-distributed-optimizer")
        if not settings.switch("untied"):
            yield Rule("refused", flag, "needs --untie-embeddings-and-output-weights")
    elif not settings.switch("megatron_fsdp"):
        return
    if command.environment.get("CUDA_DEVICE_MAX_CONNECTIONS") == "1":
        yield Rule("refused", flag, "needs CUDA_DEVICE_MAX_CONNECTIONS of more than 1")


def state_bytes(sharding: str, ranks: int) -> StateBytes:
    """Weights in 2 bytes and gradients in 4, whole on each rank; both in 2 where they are cut."""
    if sharding in ("gradients", "parameters"):
        return StateBytes(4 / ranks, True, f"4/{ranks}")
    return StateBytes(6, sharding == "optimizer", "6")
