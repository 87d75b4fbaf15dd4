"""`vllm serve`: world = TP x PP x PCP, times DP; experts over EP = TP x DP x PCP, or cut by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from optimizer.audit.launch.adapters import adapters_of
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
from optimizer.spec.model import GroupedQueryAttention, ModelSpec
from optimizer.units import GIB

PROGRAMS = (("vllm", "serve"), ("python", "-m", "vllm.entrypoints.openai.api_server"))
UTILISATION = 0.92  # --gpu-memory-utilization where nothing is said
LARGE_GPU, LARGEST_GPU = 70 * GIB, 160 * GIB  # above which the defaults grow
STRETCHES, ALLOWS = "--hf-overrides --rope-scaling", "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
PARTITION = "VLLM_PP_LAYER_PARTITION"


def read(command: Command, given: ModelSpec | None, gpu: Gpu) -> Launch:
    """The launch that a command means; raises SpecError where it is malformed."""
    settings = read_flags(with_config(command, arguments(command, PROGRAMS)), flag_table("vllm"))
    name = settings.text("model") or next(iter(settings.words), None)
    model = quantized(model_of(name, given), settings.text("quantization"), settings.text("dtype"))
    model = with_cache(model, "--kv-cache-dtype", settings.text("kv_cache"))
    tp, pp, dp, pcp = (
        settings.count(key) for key in ("tensor", "pipeline", "data", "prefill_context")
    )
    gpus = world_of({"TP": tp, "PP": pp, "DP": dp, "PCP": pcp})
    width, has_experts = gpus // pp, model.moe is not None
    experts = settings.switch("expert_parallel") and has_experts
    if has_experts:
        grid = {"ep": width} if experts else {"etp": width}
        layout = ParallelLayout(pp=pp, tp=tp, cp=pcp, dp=dp, **grid)
    else:
        layout = ParallelLayout(pp=pp, tp=tp, cp=pcp, replicas=dp)
    sequences, step_tokens = batch_of(settings, gpu)
    context = settings.count("context", model.max_context or step_tokens)
    defaults = [
        f"{flag} {value}: vLLM's default on this GPU"
        for key, flag, value in (
            ("sequences", "--max-num-seqs", sequences),
            ("step_tokens", "--max-num-batched-tokens", step_tokens),
        )
        if key not in settings.values
    ]
    if "memory_fraction" not in settings.values and "kv_bytes" not in settings.values:
        defaults.append(f"--gpu-memory-utilization {UTILISATION}: vLLM's default")
    partition = partition_of(command, PARTITION)
    launch = Launch(
        engine="vllm",
        name=command.name,
        command=command.text,
        model=model,
        flags=_flags(tp, pp, dp, pcp, settings.count("decode_context"), experts),
        derivation=_derivation(layout, dp, experts, has_experts),
        gpus=gpus,
        layout=layout,
        rules=(),
        budget=_budget(settings),
        sequences=sequences,
        sequences_flag=f"--max-num-seqs {sequences}" + default_mark(settings, "sequences"),
        context=context,
        context_flag=f"--max-model-len {context}" + default_mark(settings, "context"),
        step_tokens=step_tokens,
        cache_shards=settings.count("decode_context"),
        redundant_experts=_redundant(settings),
        stage_layers=partition,
        offload_bytes=(settings.number("offload_gib") or 0.0) * GIB,
        adapters=adapters_of(settings),
        switched_on=command.switched_on,
        not_judged=(*command.wrapper, *settings.not_judged, *_priced_in_part(settings)),
        assumptions=tuple(defaults),
    )
    return replace(launch, rules=tuple(_rules(launch, settings)))


def default_batch(gpu: Gpu) -> tuple[int, int]:
    """(--max-num-seqs, --max-num-batched-tokens) of the API server where nothing is said."""
    if gpu.memory_bytes >= LARGEST_GPU:
        return 1024, 16384
    if gpu.memory_bytes >= LARGE_GPU and "A100" not in gpu.name:
        return 1024, 8192
    return 256, 2048


def batch_of(settings: Settings, gpu: Gpu) -> tuple[int, int]:
    """(sequences, tokens of a step): as stated, else the default within what is stated."""
    sequences, step_tokens = default_batch(gpu)
    if not settings.values.get("chunked_prefill", True) and settings.values.get("context"):
        step_tokens = max(step_tokens, settings.count("context"))
    step_tokens = settings.count("step_tokens", step_tokens)
    return settings.count("sequences", min(sequences, step_tokens)), step_tokens


def _priced_in_part(settings: Settings) -> tuple[str, ...]:
    """Flags whose memory is counted and whose time is not."""
    return ("--enable-lora",) if settings.switch("lora") else ()


def _budget(settings: Settings) -> Budget:
    stated = settings.number("kv_bytes")
    if stated is not None:
        return Budget("stated", f"--kv-cache-memory-bytes {stated:.0f}", 1.0, stated)
    fraction = settings.number("memory_fraction")
    fraction = UTILISATION if fraction is None else fraction
    return Budget("whole", f"--gpu-memory-utilization {fraction:g}", fraction)


def _redundant(settings: Settings) -> int:
    config = settings.values.get("eplb_config") or {}
    stated = config.get("num_redundant_experts", settings.count("redundant", 0))
    return stated if isinstance(stated, int) and stated >= 0 else 0


def _flags(tp: int, pp: int, dp: int, pcp: int, dcp: int, experts: bool) -> str:
    degrees = (("-tp", tp), ("-pp", pp), ("-dp", dp), ("-pcp", pcp), ("-dcp", dcp))
    shown = [f"{flag} {degree}" for flag, degree in degrees if degree > 1] or ["-tp 1"]
    return " ".join([*shown, *(["--enable-expert-parallel"] if experts else [])])


def _derivation(layout: ParallelLayout, dp: int, experts: bool, has_experts: bool) -> str:
    product = f"TP {layout.tp} x DP {dp} x PCP {layout.cp} = {layout.tp * dp * layout.cp}"
    world = f"world = TP {layout.tp} x PP {layout.pp} x PCP {layout.cp}, times DP {dp}"
    if not has_experts:
        return f"{world}; a dense model's DP ranks are replicas"
    return f"{world}; {'EP' if experts else 'experts cut by'} = {product}"


def _rules(launch: Launch, settings: Settings) -> Iterator[Rule]:
    model, layout = launch.model, launch.layout
    assert layout is not None
    yield from divisor_rules(tp_rules(model), layout.tp, f"-tp {layout.tp}", "refused")
    yield from divisor_rules(etp_rules(model), layout.etp, launch.flags, "refused")
    yield from stage_rules(model, layout.pp, launch.stage_layers, PARTITION)
    yield from _context_parallel_rules(launch, layout)
    yield from copy_rules(model, layout.tp, launch.cache_shards, f"-tp {layout.tp}")
    eplb, experts = settings.switch("eplb"), settings.switch("expert_parallel")
    redundant = launch.redundant_experts
    if eplb and not experts:
        yield Rule("refused", "--enable-eplb", "EPLB needs --enable-expert-parallel")
    elif eplb and layout.ep == 1 and model.moe is not None:
        yield Rule("refused", "--enable-eplb", "EPLB needs TP x DP x PCP of more than 1")
    if redundant and not eplb:
        yield Rule("refused", f"num_redundant_experts {redundant}", "needs --enable-eplb")
    if settings.switch("expert_parallel") and model.moe is None:
        yield Rule("refused", "--enable-expert-parallel", f"{model.name} has no experts")
    flag = f"EP {layout.ep}" + (f" with {redundant} redundant experts" if redundant else "")
    yield from expert_rules(model, layout.ep, redundant, flag, "refused" if eplb else "wasteful")
    local = settings.count("data_local", 0)
    dp = settings.count("data")
    if local > dp:
        yield Rule("refused", f"-dpl {local}", f"{local} local ranks of {dp} in all")
    yield from context_rules(launch, "--max-model-len", STRETCHES, ALLOWS)
    yield from _batch_rules(launch, settings)
    if not 0 < launch.budget.fraction <= 1:
        yield Rule("refused", launch.budget.flag, "must be more than 0 and at most 1")
    elif launch.budget.kind == "whole" and launch.budget.fraction == 1:
        text = "at start less than the whole GPU is free: the driver's context has its share"
        yield Rule("refused", launch.budget.flag, text)
    if settings.text("kv_cache") == "fp8_e5m2" and model.precision.attention.startswith("fp8"):
        yield Rule("refused", "--kv-cache-dtype fp8_e5m2", "the checkpoint is in fp8 itself")


def _context_parallel_rules(launch: Launch, layout: ParallelLayout) -> Iterator[Rule]:
    """DCP shares the TP ranks that hold copies of the same KV heads."""
    dcp, tp, pcp = launch.cache_shards, layout.tp, layout.cp
    if pcp > 1 and dcp not in (1, pcp, tp * pcp):
        yield Rule("refused", f"-dcp {dcp}", f"with PCP {pcp} it must be 1, {pcp} or {tp * pcp}")
    elif pcp == 1 and tp % dcp:
        yield Rule("refused", f"-dcp {dcp}", f"TP {tp} % DCP {dcp} = {tp % dcp}, must be 0")
    elif pcp == 1 and dcp > 1 and dcp > tp // kv_heads_of(launch.model):
        heads = kv_heads_of(launch.model)
        text = f"at most TP // KV heads = {tp} // {heads} = {tp // heads}"
        yield Rule("refused", f"-dcp {dcp}", text)
    for layer in launch.model.layer_types.values():
        attention = layer.attention
        if isinstance(attention, GroupedQueryAttention):
            group = attention.num_heads // attention.num_kv_heads
            if group % dcp:
                text = f"{group} query heads of a KV head % {dcp} = {group % dcp}, must be 0"
                yield Rule("refused", f"-dcp {dcp}", text)


def _batch_rules(launch: Launch, settings: Settings) -> Iterator[Rule]:
    flag = f"--max-num-batched-tokens {launch.step_tokens}"
    if launch.step_tokens < launch.sequences:
        text = f"less than {launch.sequences_flag}: a step must hold a token of each"
        yield Rule("refused", flag, text)
    chunked = settings.values.get("chunked_prefill", True)
    if not chunked and launch.step_tokens < launch.context:
        text = f"without chunked prefill a step must hold {launch.context_flag}"
        yield Rule("refused", flag, text)
