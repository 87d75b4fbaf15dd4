"""Megatron-LM training commands: world = TP x PP x CP x DP = ETP x EP x PP x EDP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from optimizer.audit.launch.command import Command, arguments
from optimizer.audit.launch.flags import Settings, flag_table, read_flags
from optimizer.audit.launch.launch import Rule, divisor_rules, expert_rules, world_of
from optimizer.audit.launch.megatron_cuts import cut_of
from optimizer.audit.launch.megatron_model import model_of_flags
from optimizer.audit.launch.megatron_sharding import sharding_of, sharding_rules
from optimizer.errors import SpecError
from optimizer.layout import ParallelLayout
from optimizer.layout.rules import etp_rules, tp_rules
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec

PROGRAMS = (
    ("torchrun",),
    ("python", "-m", "torch.distributed.run"),
    ("python", "-m", "torch.distributed.launch"),
    ("python",),
)
MODULES = {  # Megatron's names of what selective recomputation repeats
    "core_attn", "mla_up_proj", "mlp", "moe", "moe_act", "layernorm",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingLaunch:
    """A training command by Megatron's rules; `layout` is None where the degrees make none."""

    name: str
    command: str
    model: ModelSpec
    flags: str
    derivation: str
    gpus: int
    layout: ParallelLayout | None
    rules: tuple[Rule, ...]
    micro_batch: int
    global_batch: int
    seq_length: int
    sequence_parallel: bool
    sharding: str  # of the cost model's SHARDINGS
    recompute: tuple[str, ...]  # "full", or modules
    recompute_share: float  # of the layers
    mtp_layers: int
    bits: int
    stage_layers: tuple[int, ...] | None
    not_judged: tuple[str, ...]
    assumptions: tuple[str, ...]

    @property
    def micro_batches(self) -> int:
        """Of one pipeline in a step."""
        assert self.layout is not None
        return max(1, self.global_batch // (self.micro_batch * self.layout.dp))


def read(command: Command, given: ModelSpec | None, cluster: Cluster) -> TrainingLaunch:
    """The launch that a command means; raises SpecError where it is malformed."""
    settings = read_flags(arguments(command, PROGRAMS), flag_table("megatron"))
    if not any(word.endswith(".py") for word in settings.words):
        raise SpecError(command.problem("the command names no training script (a .py file)"))
    assumed: list[str] = []
    model = given if given is not None else model_of_flags(settings)
    world = _world(command, settings, cluster, assumed)
    tp, pp, cp, ep = (settings.count(key) for key in ("tensor", "pipeline", "context", "expert"))
    etp = settings.count("expert_tensor", tp if model.moe is not None else 1)
    rules = list(_group_rules(model, world, tp, pp, cp, ep, etp))
    dp = max(1, world // (tp * pp * cp))
    grid: dict[str, int] = {}
    if model.moe is not None:
        grid = {"ep": ep, "etp": etp, "edp": max(1, world // (etp * ep * pp))}
    vp, stages, cut_rules = cut_of(command, settings, model, pp)
    layout = ParallelLayout(pp=pp, vp=vp, tp=tp, cp=cp, dp=dp, **grid) if not rules else None
    micro, length = settings.count("micro_batch"), settings.count("seq_length", 0)
    if not length:
        length = model.max_context or 4096
        assumed.append(f"--seq-length {length}: the command does not say")
    batch = settings.count("global_batch", micro * dp)
    if "global_batch" not in settings.values:
        assumed.append(f"--global-batch-size {batch}: one micro-batch a rank where nothing is said")
    recompute, share = _recompute(command, settings, model)
    text = f"world {world} / (TP {tp} x PP {pp} x CP {cp}) = DP {dp}"
    if model.moe is not None:
        text += f"; / (ETP {etp} x EP {ep} x PP {pp}) = EDP {grid['edp']}"
    launch = TrainingLaunch(
        name=command.name,
        command=command.text,
        model=model,
        flags=f"TP {tp} PP {pp} CP {cp} EP {ep} ETP {etp} on {world} GPUs",
        derivation=text,
        gpus=world,
        layout=layout,
        rules=(),
        micro_batch=micro,
        global_batch=batch,
        seq_length=length,
        sequence_parallel=settings.switch("sequence_parallel"),
        sharding=sharding_of(command, settings),
        recompute=recompute,
        recompute_share=share,
        mtp_layers=settings.count("mtp_layers", 0),
        bits=4 if settings.text("fp4") else 8 if settings.text("fp8") else 16,
        stage_layers=stages,
        not_judged=(*command.wrapper, *settings.not_judged),
        assumptions=tuple(assumed),
    )
    cuts = (*cut_rules, *sharding_rules(command, settings, pp, ep))
    return replace(launch, rules=(*rules, *cuts, *_rules(launch, settings, tp, ep)))


def _world(command: Command, settings: Settings, cluster: Cluster, assumed: list[str]) -> int:
    """--nnodes x --nproc-per-node, or every GPU there is where a script starts alone."""
    nodes, each = settings.text("nodes"), settings.text("gpus_per_node")
    if nodes is None and each is None:
        assumed.append("the world is every GPU of the cluster: no launcher says otherwise")
        return cluster.num_live_gpus
    if each in ("gpu", "auto"):
        each = str(cluster.pools[0].gpus_per_node)
    numbers = []
    for flag, text in (("--nnodes", nodes or "1"), ("--nproc-per-node", each or "1")):
        if not re.fullmatch(r"[1-9][0-9]{0,6}", text):
            raise SpecError(command.problem(f"'{flag} {text[:40]}' must be a whole number"))
        numbers.append(int(text))
    return world_of({"nodes": numbers[0], "GPUs of a node": numbers[1]})


def _group_rules(
    model: ModelSpec, world: int, tp: int, pp: int, cp: int, ep: int, etp: int
) -> Iterator[Rule]:
    if world % (tp * pp * cp):
        text = (
            f"world {world} % (TP {tp} x PP {pp} x CP {cp}) = {world % (tp * pp * cp)}, must be 0"
        )
        yield Rule("refused", f"TP {tp} PP {pp} CP {cp}", text)
    if model.moe is not None and world % (etp * ep * pp):
        rest = world % (etp * ep * pp)
        text = f"world {world} % (ETP {etp} x EP {ep} x PP {pp}) = {rest}, must be 0"
        yield Rule("refused", f"ETP {etp} EP {ep} PP {pp}", text)
    if model.moe is None and ep > 1:
        text = f"{model.name} has no experts"
        yield Rule("refused", f"--expert-model-parallel-size {ep}", text)


def _rules(launch: TrainingLaunch, settings: Settings, tp: int, ep: int) -> Iterator[Rule]:
    model, layout = launch.model, launch.layout
    if tp > 1 and ep > 1 and not launch.sequence_parallel:
        text = "TP with EP needs --sequence-parallel in training"
        yield Rule("refused", f"TP {tp} EP {ep}", text)
    if launch.sequence_parallel and launch.seq_length % tp:
        text = f"{launch.seq_length} tokens % TP {tp} = {launch.seq_length % tp}, must be 0"
        yield Rule("refused", "--sequence-parallel", text)
    if layout is None:
        return
    yield from divisor_rules(tp_rules(model), layout.tp, f"TP {layout.tp}", "refused")
    yield from divisor_rules(etp_rules(model), layout.etp, f"ETP {layout.etp}", "refused")
    yield from expert_rules(model, layout.ep, 0, f"EP {layout.ep}", "refused")
    if launch.seq_length % (2 * layout.cp) and layout.cp > 1:
        text = f"{launch.seq_length} tokens % (2 x CP {layout.cp}) must be 0"
        yield Rule("refused", f"CP {layout.cp}", text)
    step = launch.micro_batch * layout.dp
    if launch.global_batch % step:
        text = f"{launch.global_batch} % (micro-batch {launch.micro_batch} x DP {layout.dp}) = "
        text += f"{launch.global_batch % step}, must be 0"
        yield Rule("refused", f"--global-batch-size {launch.global_batch}", text)
    elif layout.vp > 1 and launch.micro_batches % layout.pp:
        text = f"interleaving: {launch.micro_batches} micro-batches % PP {layout.pp} must be 0"
        yield Rule("refused", f"VP {layout.vp}", text)
    for key, stated in (("num_layers", model.num_layers), ("hidden_size", model.hidden_size)):
        value = settings.values.get(key)
        if value is not None and value != stated:
            flag = f"--{key.replace('_', '-')} {value}"
            yield Rule("accepted", flag, f"{model.name} of --model has {stated}")


def _recompute(
    command: Command, settings: Settings, model: ModelSpec
) -> tuple[tuple[str, ...], float]:
    granularity = settings.text("recompute")
    if granularity is None and settings.switch("recompute_activations"):
        granularity = "selective"
    if granularity not in (None, "full", "selective"):
        message = f"'--recompute-granularity {granularity[:30]}' must be full or selective"
        raise SpecError(command.problem(message))
    if granularity == "full":
        number = settings.count("recompute_layers")
        per_stage = model.num_layers / (
            settings.count("pipeline") * settings.count("virtual_stages")
        )
        is_block = settings.text("recompute_method") == "block"
        return ("full",), min(1.0, number / per_stage) if is_block else 1.0
    if granularity is None:
        return (), 1.0
    modules = settings.values.get("recompute_modules") or ["core_attn"]
    unknown = [module for module in modules if module not in MODULES]
    if unknown:
        message = f"'--recompute-modules {unknown[0][:30]}' is none of {', '.join(sorted(MODULES))}"
        raise SpecError(command.problem(message))
    return tuple(modules), 1.0
