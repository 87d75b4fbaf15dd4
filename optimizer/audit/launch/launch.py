"""What a launch command means, whatever the engine: its layout, its limits, and the rules it
meets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from optimizer.audit.launch.adapters import Adapters
from optimizer.audit.launch.flags import Settings
from optimizer.errors import Problem, SpecError
from optimizer.layout import ParallelLayout
from optimizer.layout.rules import Rule as DegreeRule
from optimizer.spec.cluster import MAX_GPUS
from optimizer.spec.model import GroupedQueryAttention, LatentAttention, ModelSpec, MoeFfn
from optimizer.spec.workload import Engine

ENGINE_NAMES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "megatron": "Megatron-LM",
}
RuleKind = Literal["refused", "accepted", "wasteful"]


class Rule(NamedTuple):
    """A rule that a command breaks: the engine refuses it, accepts what cannot work, or accepts
    what works but wastes."""

    kind: RuleKind
    claim: str  # the flags, as they may be written
    arithmetic: str


class Budget(NamedTuple):
    """What of a GPU's memory an engine may fill.

    whole: weights, activations and cache together may fill the fraction (vLLM);
    static: weights and cache may (SGLang);
    free: the cache may fill the fraction of what weights and activations leave (TensorRT-LLM);
    stated: the cache has so many bytes.
    """

    kind: Literal["whole", "static", "free", "stated"]
    flag: str
    fraction: float
    stated_bytes: float = 0.0
    most_tokens: int | None = None  # of the cache, where the command caps it


@dataclass(frozen=True)
class Launch:
    """A serving command by its engine's rules; `layout` is None where the degrees make none."""

    engine: Engine
    name: str
    command: str
    model: ModelSpec  # in the formats that the command loads
    flags: str  # those that make the layout, as written out
    derivation: str  # how the layout follows
    gpus: int
    layout: ParallelLayout | None
    rules: tuple[Rule, ...]
    budget: Budget
    sequences: int  # of one attention rank, at most
    sequences_flag: str
    context: int  # tokens of one request, at most
    context_flag: str
    step_tokens: int  # new tokens of one attention rank and step, at most
    cache_shards: int = 1  # ranks that share a sequence's cache beside cp
    redundant_experts: int = 0
    stage_layers: tuple[int, ...] | None = None  # None: as the engine cuts
    offload_bytes: float = 0.0
    adapters: Adapters | None = None
    switched_on: tuple[str, ...] = ()  # environment variables that are 1
    not_judged: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.kind != "wasteful")


def default_mark(settings: Settings, key: str) -> str:
    """What stands behind a limit that the command leaves to the engine."""
    return "" if settings.values.get(key) is not None else " (default)"


def kv_heads_of(model: ModelSpec) -> int:
    """The fewest KV heads of a layer; latent attention has one."""
    counts = [
        layer.attention.num_kv_heads if isinstance(layer.attention, GroupedQueryAttention) else 1
        for layer in model.layer_types.values()
    ]
    return min(counts)


def copy_rules(model: ModelSpec, tp: int, shards: int, flag: str) -> list[Rule]:
    """A cache that ranks keep more than once: more of them than KV heads and shards of a head."""
    heads = kv_heads_of(model)
    if not any(
        isinstance(layer.attention, GroupedQueryAttention | LatentAttention)
        for layer in model.layer_types.values()
    ):
        return []
    copies = tp // (heads * shards)
    if copies <= 1:
        return []
    text = f"{heads} KV heads on {tp} ranks" if heads > 1 else f"one KV head on {tp} ranks"
    text += f", {shards} to a head's tokens" if shards > 1 else ""
    text += f": the cache is kept {copies} times over; attention in data parallel keeps it once"
    return [Rule("wasteful", flag, text)]


def world_of(degrees: Mapping[str, int]) -> int:
    """GPUs of a launch; raises SpecError where no cluster has so many."""
    world = prod(degrees.values())
    if world > MAX_GPUS:
        shown = " x ".join(f"{name} {degree:,}" for name, degree in degrees.items() if degree > 1)
        raise SpecError(Problem(f"{shown} = {world:,} GPUs; more than {MAX_GPUS:,} are refused"))
    return world


def divisor_rules(
    rules: Iterable[DegreeRule], degree: int, flag: str, kind: RuleKind
) -> list[Rule]:
    """What a degree does not divide (optimizer.layout.rules)."""
    return [
        Rule(kind, flag, f"{what}: {degree} does not divide it")
        for what, holds in rules
        if not holds(degree)
    ]


def expert_rules(
    model: ModelSpec, ep: int, redundant: int, flag: str, kind: RuleKind
) -> list[Rule]:
    """Experts with their redundant copies that expert parallelism does not divide."""
    if model.moe is None:
        return []
    experts = model.moe.num_experts
    total = experts + redundant
    if total % ep == 0:
        return []
    if kind == "wasteful" and ep <= total:
        shares = [total // ep + (rank < total % ep) for rank in range(ep)]
        text = (
            f"{total} experts on {ep} ranks: {', '.join(map(str, shares[:6]))}"
            f"{', ...' if ep > 6 else ''}; the fullest holds {shares[0]} against {total / ep:.4g} "
            "in the mean"
        )
        return [Rule("wasteful", flag, text)]
    kind = "accepted" if kind == "wasteful" else kind
    copies = f" + {redundant} redundant" if redundant else ""
    text = f"({experts}{copies}) experts % {ep} = {total % ep}, must be 0"
    return [Rule(kind, flag, text)]


def stage_rules(
    model: ModelSpec, pp: int, partition: Sequence[int] | None, flag: str
) -> list[Rule]:
    """More stages than layers, and a partition that does not name each stage and layer once."""
    layers = model.num_layers
    if partition is None:
        if pp <= layers:
            return []
        return [Rule("refused", f"{flag} {pp}", f"{pp} stages, {layers} layers")]
    shown = ",".join(map(str, partition))
    found = []
    if len(partition) != pp:
        text = f"names {len(partition)} stages, the pipeline has {pp}"
        found.append(Rule("refused", f"{flag} {shown}", text))
    if sum(partition) != layers:
        text = f"sums to {sum(partition)} layers, the model has {layers}"
        found.append(Rule("refused", f"{flag} {shown}", text))
    return found


def context_rules(launch: Launch, flag: str, stretches: str, allows: str = "") -> list[Rule]:
    """A context beyond what the model was made for, unless a flag of those in `stretches` gives it
    more positions; the variable `allows` makes the engine take it as it is."""
    most = launch.model.max_context
    if most is None or launch.context <= most or set(stretches.split()) & set(launch.not_judged):
        return []
    kind: RuleKind = "accepted" if allows in launch.switched_on else "refused"
    text = f"{launch.context:,} tokens, the model has {most:,} positions"
    return [Rule(kind, f"{flag} {launch.context}", text)]


def with_redundant(model: ModelSpec, redundant: int) -> ModelSpec:
    """The model with so many more experts in each MoE layer, as a rank holds them."""
    if not redundant:
        return model
    types = {
        name: layer.model_copy(
            update={
                "ffn": layer.ffn.model_copy(
                    update={"num_experts": layer.ffn.num_experts + redundant}
                )
            }
        )
        if isinstance(layer.ffn, MoeFfn)
        else layer
        for name, layer in model.layer_types.items()
    }
    return model.model_copy(update={"layer_types": types})
