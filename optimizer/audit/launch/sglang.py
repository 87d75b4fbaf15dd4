"""`sglang serve`: world = TP x PP, where TP is the whole width, times DP replicas.

Attention is cut by TP / attention DP / attention CP, experts by TP / EP / MoE DP. The parser takes
degrees that make no whole groups; they are judged here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optimizer.audit.launch.command import Command, arguments, partition_of
from optimizer.audit.launch.config_files import with_config
from optimizer.audit.launch.flags import Settings, flag_table, read_flags
from optimizer.audit.launch.launch import (
    Budget,
    Launch,
    Rule,
    context_rules,
    copy_rules,
    default_mark,
    divisor_rules,
    expert_rules,
    kv_heads_of,
    stage_rules,
    world_of,
)
from optimizer.audit.launch.names import model_of, quantized, with_cache
from optimizer.layout import ParallelLayout
from optimizer.layout.rules import etp_rules, tp_rules
from optimizer.spec.cluster import Gpu
from optimizer.spec.model import LatentAttention, ModelSpec
from optimizer.units import GIB

PROGRAMS = (
    ("python", "-m", "sglang.launch_server"),
    ("sglang", "serve"),
    ("sglang.launch_server",),
)
STRETCHES = "--json-model-override-args"
ALLOWS = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"
PARTITION = "SGLANG_PP_LAYER_PARTITION"
SPANNING = (  # all-to-all backends whose groups are the whole width: they force EP = TP
    "deepep", "deepep_v2", "mooncake", "nixl", "mori", "pplx", "megamoe", "flashinfer",
    "flashinfer_megamoe", "ascend_fuseep",
)  # fmt: skip
MIB = GIB / 1024
# (GPUs below, prefill tokens of a step, sequences of a graph below and from TP 4)
TIERS = (
    (20, 2048, 8, 8),
    (35, 4096, 48, 160),
    (60, 4096, 32, 160),
    (160, 8192, 256, 512),
    (float("inf"), 16384, 512, 512),
)
MOST_RUNNING = 4096  # requests of one attention rank where nothing is said


def read(command: Command, given: ModelSpec | None, gpu: Gpu) -> Launch:
    """The launch that a command means; raises SpecError where it is malformed."""
    settings = read_flags(with_config(command, arguments(command, PROGRAMS)), flag_table("sglang"))
    name = settings.text("model") or next(iter(settings.words), None)
    model = quantized(model_of(name, given), settings.text("quantization"), settings.text("dtype"))
    model = with_cache(model, "--kv-cache-dtype", settings.text("kv_cache"))
    tp, pp, dp, attention_dp = (
        settings.count(key) for key in ("tensor", "pipeline", "data", "attention_data")
    )
    if settings.switch("dp_attention") and attention_dp == 1:  # the old spelling
        attention_dp, dp = dp, 1
    cp, moe_dp = settings.count("attention_context"), settings.count("expert_data")
    all2all = settings.text("all2all") or "none"
    ep = tp if all2all in SPANNING else settings.count("expert")
    gpus = world_of({"TP": tp, "PP": pp, "DP": dp})
    degrees = {
        "TP": tp,
        "EP": ep,
        "attention DP": attention_dp,
        "attention CP": cp,
        "MoE DP": moe_dp,
    }
    rules = tuple(_group_rules(model, tp, ep, attention_dp, cp, moe_dp))
    layout = None if rules else _layout(model, tp, pp, dp, ep, attention_dp, cp, moe_dp)
    step_tokens, graph_sequences = defaults(gpu, tp)
    graph_sequences = settings.count("graph_sequences", graph_sequences)
    stated = settings.count("step_tokens", step_tokens)
    step_tokens = stated if stated > 0 else 16384  # -1: whole prompts, up to --max-prefill-tokens
    assumed = []
    fraction = settings.number("memory_fraction")
    if fraction is None:
        fraction = default_fraction(model, gpu, step_tokens, graph_sequences, tp * pp, attention_dp)
        assumed.append(f"--mem-fraction-static {fraction:g}: SGLang's rule for its default")
    running = settings.values.get("sequences")
    sequences = -(-running // attention_dp) if running else MOST_RUNNING
    context = settings.count("context", model.max_context or step_tokens)
    launch = Launch(
        engine="sglang",
        name=command.name,
        command=command.text,
        model=model,
        flags=" ".join(_flags(degrees, pp, dp)),
        derivation=_derivation(degrees, pp, dp, all2all, model.moe is not None),
        gpus=gpus,
        layout=layout,
        rules=(),
        budget=Budget(
            "static",
            f"--mem-fraction-static {fraction:g}",
            fraction,
            most_tokens=settings.values.get("cached_tokens"),
        ),
        sequences=sequences,
        sequences_flag=f"--max-running-requests {sequences * attention_dp}"
        + default_mark(settings, "sequences"),
        context=context,
        context_flag=f"--context-length {context}" + default_mark(settings, "context"),
        step_tokens=max(1, step_tokens // attention_dp),  # the flag is of all attention ranks
        cache_shards=settings.count("decode_context"),
        redundant_experts=settings.count("redundant", 0),
        stage_layers=partition_of(command, PARTITION),
        switched_on=command.switched_on,
        not_judged=(*command.wrapper, *settings.not_judged),
        assumptions=tuple(assumed),
    )
    return replace(launch, rules=(*rules, *_rules(launch, settings, pp)))


def _layout(
    model: ModelSpec, tp: int, pp: int, dp: int, ep: int, attention_dp: int, cp: int, moe_dp: int
) -> ParallelLayout:
    attention_tp = tp // (attention_dp * cp)
    if model.moe is None:  # attention DP of a dense model still cuts its FFN by TP
        return ParallelLayout(pp=pp, tp=attention_tp, cp=cp, dp=attention_dp, replicas=dp)
    grid = {"ep": ep, "etp": tp // (ep * moe_dp), "edp": moe_dp}
    return ParallelLayout(pp=pp, tp=attention_tp, cp=cp, dp=attention_dp, replicas=dp, **grid)


def _group_rules(
    model: ModelSpec, tp: int, ep: int, attention_dp: int, cp: int, moe_dp: int
) -> Iterator[Rule]:
    """Degrees that do not make whole groups; that of EP is accepted by the parser."""
    if tp % (attention_dp * cp):
        text = f"TP {tp} % (attention DP {attention_dp} x CP {cp}) = {tp % (attention_dp * cp)}"
        yield Rule("refused", f"--tp-size {tp} --attn-dp-size {attention_dp}", text + ", must be 0")
    if moe_dp > 1 and tp % moe_dp:
        yield Rule("refused", f"--moe-dp-size {moe_dp}", f"TP {tp} % {moe_dp} = {tp % moe_dp}")
    elif tp % (ep * moe_dp):
        text = f"experts' TP = TP {tp} / EP {ep} / MoE DP {moe_dp} is no whole number"
        yield Rule("accepted", f"--tp-size {tp} --ep-size {ep}", text)


def _rules(launch: Launch, settings: Settings, pp: int) -> Iterator[Rule]:
    model, layout = launch.model, launch.layout
    if layout is not None:
        flag = f"attention TP {layout.tp}"
        yield from divisor_rules(tp_rules(model), layout.tp, flag, "accepted")
        yield from divisor_rules(etp_rules(model), layout.etp, f"MoE TP {layout.etp}", "refused")
        flag = f"--ep-size {layout.ep}"
        yield from expert_rules(model, layout.ep, launch.redundant_experts, flag, "refused")
        heads, dcp = kv_heads_of(model), launch.cache_shards
        if layout.tp % dcp:
            text = f"attention TP {layout.tp} % DCP {dcp} = {layout.tp % dcp}, must be 0"
            yield Rule("refused", f"--dcp-size {dcp}", text)
        elif dcp > max(1, layout.tp // heads):
            text = f"at most attention TP // KV heads = {layout.tp} // {heads}"
            yield Rule("accepted", f"--dcp-size {dcp}", text)
        if model.moe is None and settings.count("expert") > 1:
            text = f"{model.name} has no experts"
            yield Rule("accepted", f"--ep-size {settings.count('expert')}", text)
        yield from copy_rules(model, layout.tp, dcp, f"attention TP {layout.tp}")
    yield from stage_rules(model, pp, launch.stage_layers, PARTITION)
    nodes, ranks = settings.count("nodes"), settings.count("tensor") * pp
    if ranks % nodes:
        text = f"TP x PP = {ranks} % {nodes} nodes = {ranks % nodes}, must be 0"
        yield Rule("refused", f"--nnodes {nodes}", text)
    yield from context_rules(launch, "--context-length", STRETCHES, ALLOWS)
    if not 0 < launch.budget.fraction < 1:
        yield Rule("refused", launch.budget.flag, "must be more than 0 and less than 1")


def _flags(degrees: dict[str, int], pp: int, dp: int) -> list[str]:
    names = {
        "TP": "--tp-size",
        "EP": "--ep-size",
        "attention DP": "--attn-dp-size",
        "attention CP": "--attn-cp-size",
        "MoE DP": "--moe-dp-size",
    }
    shown = {names[key]: degree for key, degree in degrees.items()}
    shown |= {"--pp-size": pp, "--dp-size": dp}
    return [f"{flag} {degree}" for flag, degree in shown.items() if degree > 1] or ["--tp-size 1"]


def _derivation(degrees: dict[str, int], pp: int, dp: int, all2all: str, has_experts: bool) -> str:
    tp, attention_dp, cp = degrees["TP"], degrees["attention DP"], degrees["attention CP"]
    text = f"world = TP {tp} x PP {pp}, times {dp} replicas; "
    text += f"attention TP = {tp} / DP {attention_dp} / CP {cp}"
    if not has_experts:
        return text
    forced = f" (all-to-all backend {all2all} forces EP = TP)" if all2all in SPANNING else ""
    return f"{text}; MoE TP = {tp} / EP {degrees['EP']} / MoE DP {degrees['MoE DP']}{forced}"


def defaults(gpu: Gpu, tp: int) -> tuple[int, int]:
    """(--chunked-prefill-size, sequences of the largest decode graph) where nothing is said."""
    for below_gib, tokens, small, large in TIERS:
        if gpu.memory_bytes < below_gib * GIB:
            return tokens, small if tp < 4 else large
    raise AssertionError("the last tier has no bound")


def default_fraction(
    model: ModelSpec,
    gpu: Gpu,
    step_tokens: int,
    graph_sequences: int,
    ranks: int,
    attention_dp: int,
) -> float:
    """--mem-fraction-static where nothing is said: what a reserve in MiB leaves of the GPU
    (SGLang's arg_groups/memory_hook.py; without its terms for DeepEP and piecewise graphs)."""
    reserve = 512 + 1.5 * max(step_tokens, 2048) + ranks / 8 * 1024 + 2 * graph_sequences
    if attention_dp > 1:
        reserve += graph_sequences * attention_dp * (4.5 if graph_sequences > 300 else 3)
    if any(isinstance(layer.attention, LatentAttention) for layer in model.layer_types.values()):
        reserve += 1.5 * 1024
    if gpu.memory_bytes > 60 * GIB:
        reserve = max(reserve, 10 * 1024)
    return round(1 - reserve * MIB / gpu.memory_bytes, 3)
