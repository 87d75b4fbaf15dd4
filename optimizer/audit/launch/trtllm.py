"""TensorRT-LLM, by trtllm-serve or by its YAML: world = TP x PP x CP.

Experts are cut by MoE TP x MoE EP x MoE cluster = TP; attention DP means DP = TP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimizer.audit.launch.command import Command, arguments
from optimizer.audit.launch.config_files import beside
from optimizer.audit.launch.flags import FlagTable, Settings, convert, flag_table, read_flags
from optimizer.audit.launch.launch import (
    Budget,
    Launch,
    Rule,
    context_rules,
    copy_rules,
    default_mark,
    divisor_rules,
    expert_rules,
    stage_rules,
    world_of,
)
from optimizer.audit.launch.names import model_of, quantized, with_cache
from optimizer.errors import Problem, SpecError
from optimizer.layout import ParallelLayout
from optimizer.layout.rules import etp_rules, tp_rules
from optimizer.spec.cluster import Gpu
from optimizer.spec.document import Document, show_key
from optimizer.spec.files import read_document
from optimizer.spec.model import ModelSpec
from optimizer.spec.wording import nearest

PROGRAMS = (("trtllm-serve", "serve"), ("trtllm-serve",))
SEQUENCES, STEP_TOKENS, FREE_FRACTION = 2048, 8192, 0.9  # where nothing is said
GROUPS = ("kv_cache_config", "moe_config", "moe_config.load_balancer", "quant_config")


def read(command: Command, given: ModelSpec | None, gpu: Gpu) -> Launch:
    """The launch that a command or a YAML file (a command of one word) means; raises SpecError
    where it is malformed."""
    if len(command.tokens) == 1 and command.tokens[0].endswith((".yaml", ".yml")):
        settings = read_yaml(Path(command.tokens[0]))
    else:
        settings = read_flags(arguments(command, PROGRAMS), flag_table("trtllm"))
        options = settings.text("options")
        if options is not None:  # the file wins over flags
            inner = read_yaml(beside(command, options))
            settings = Settings(
                {**settings.values, **inner.values},
                settings.words,
                (*settings.not_judged, *inner.not_judged),
            )
    name = settings.text("model") or next(iter(settings.words), None)
    kind = (settings.text("quantization") or "").lower()
    model = quantized(model_of(name, given), kind, settings.text("dtype"))
    model = with_cache(model, "kv_cache_config.dtype", settings.text("kv_cache"))
    return _launch(command, settings, model)


def read_yaml(path: Path) -> Settings:
    """The settings of an LLM-API YAML; unknown keys are problems, all at once."""
    document, table = read_document(path), flag_table("trtllm-yaml")
    values: dict[str, Any] = {}
    not_judged: list[str] = []
    problems: list[Problem] = []
    for name, keys, value in _leaves(document.data, (), table):
        line = document.nearest_line(keys)
        flag = table.flags.get(name)
        if name in GROUPS:  # a load balancer in a file of its own, or nothing
            not_judged += [name] if value is not None else []
        elif flag is None:
            meant = nearest(name, table.flags)
            hint = f"; did you mean '{meant}'?" if meant else ""
            problems.append(Problem(f"unknown key{hint}", document.file, line, show_key(keys)))
        elif not flag.key:
            not_judged.append(name)
        elif value is not None:
            try:
                values[flag.key] = _converted(name, flag.takes, value)
            except SpecError as error:
                problems += [_at(document, line, found) for found in error.problems]
    if problems:
        raise SpecError(*problems)
    return Settings(values, (), tuple(not_judged))


def _at(document: Document, line: int | None, found: Problem) -> Problem:
    return Problem(found.message, document.file, line)


def _leaves(
    data: Mapping[str, Any], above: tuple[str, ...], table: FlagTable
) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(dotted name, keys, value) of every key; the groups that are judged are gone into."""
    for key, value in data.items():
        keys = (*above, str(key))
        name = ".".join(keys)
        if name in GROUPS and isinstance(value, Mapping):
            yield from _leaves(value, keys, table)
        else:
            yield name, keys, value


def _converted(name: str, takes: Any, value: Any) -> Any:
    if takes == "switch":
        if not isinstance(value, bool):
            raise SpecError(Problem(f"'{name}' must be true or false"))
        return value
    if takes == "list":
        if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
            raise SpecError(Problem(f"'{name}' must be a list of whole numbers"))
        return value
    if takes == "mapping":
        if not isinstance(value, dict):
            raise SpecError(Problem(f"'{name}' must be a mapping (key: value)"))
        return value
    if takes == "count" and value == -1:  # the API's word for "not set"
        return None
    return convert(name, takes, str(value))


def _launch(command: Command, settings: Settings, model: ModelSpec) -> Launch:
    tp, pp, cp = (settings.count(key) for key in ("tensor", "pipeline", "context_parallel"))
    gpus = world_of({"TP": tp, "PP": pp, "CP": cp})
    cluster = settings.count("expert_cluster")
    stated = {key: settings.values.get(key) for key in ("expert", "expert_tensor")}
    ep = stated["expert"] or (tp // (stated["expert_tensor"] or tp) or 1)
    etp = stated["expert_tensor"] or max(1, tp // (ep * cluster))
    attention_dp = settings.switch("attention_dp")
    rules = tuple(_group_rules(model, tp, ep, etp, cluster))
    grid = {"ep": ep * cluster, "etp": etp * cp} if model.moe is not None else {}
    degrees = {"tp": 1, "dp": tp} if attention_dp else {"tp": tp, "dp": 1}
    layout = None if rules else ParallelLayout(pp=pp, cp=cp, **degrees, **grid)
    sequences = settings.count("sequences", SEQUENCES)
    step_tokens = settings.count("step_tokens", STEP_TOKENS)
    context = settings.count("context", model.max_context or step_tokens)
    stated_fraction = settings.number("memory_fraction")
    fraction = FREE_FRACTION if stated_fraction is None else stated_fraction
    defaults = {
        "sequences": f"max_batch_size {sequences}",
        "step_tokens": f"max_num_tokens {step_tokens}",
        "memory_fraction": f"free_gpu_memory_fraction {fraction:g}",
    }
    flags = {
        "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp,
        "context_parallel_size": cp,
        "moe_expert_parallel_size": ep if model.moe else 1,
        "moe_tensor_parallel_size": etp if model.moe else 1,
        "moe_cluster_parallel_size": cluster,
    }
    shown = [f"{name} {degree}" for name, degree in flags.items() if degree > 1]
    shown += ["enable_attention_dp"] if attention_dp else []
    text = f"world = TP {tp} x PP {pp} x CP {cp}"
    text += f"; attention DP = TP {tp}" if attention_dp else ""
    if model.moe is not None:
        text += f"; MoE TP {etp} x EP {ep} x cluster {cluster} = TP {tp}"
    launch = Launch(
        engine="trtllm",
        name=command.name,
        command=command.text,
        model=model,
        flags=", ".join(shown) or "tensor_parallel_size 1",
        derivation=text,
        gpus=gpus,
        layout=layout,
        rules=(),
        budget=Budget(
            "free",
            f"free_gpu_memory_fraction {fraction:g}",
            fraction,
            most_tokens=settings.values.get("cached_tokens"),
        ),
        sequences=sequences,
        sequences_flag=f"max_batch_size {sequences}" + default_mark(settings, "sequences"),
        context=context,
        context_flag=f"max_seq_len {context}" + default_mark(settings, "context"),
        step_tokens=step_tokens,
        redundant_experts=_redundant(model, settings),
        stage_layers=tuple(settings.values["partition"])
        if settings.values.get("partition")
        else None,
        not_judged=(*command.wrapper, *settings.not_judged),
        assumptions=tuple(
            f"{shown}: TensorRT-LLM's default"
            for key, shown in defaults.items()
            if settings.values.get(key) is None
        ),
    )
    return replace(launch, rules=(*rules, *_rules(launch, settings, attention_dp)))


def _group_rules(model: ModelSpec, tp: int, ep: int, etp: int, cluster: int) -> Iterator[Rule]:
    if model.moe is not None and etp * ep * cluster != tp:
        product = etp * ep * cluster
        text = f"MoE TP {etp} x MoE EP {ep} x cluster {cluster} = {product}, must be TP {tp}"
        yield Rule("refused", f"moe_expert_parallel_size {ep}", text)


def _redundant(model: ModelSpec, settings: Settings) -> int:
    slots = settings.values.get("slots")
    return max(0, slots - model.moe.num_experts) if slots and model.moe is not None else 0


def _rules(launch: Launch, settings: Settings, attention_dp: bool) -> Iterator[Rule]:
    model, layout = launch.model, launch.layout
    if layout is not None:
        flag = f"tensor_parallel_size {layout.tp}"
        yield from divisor_rules(tp_rules(model), layout.tp, flag, "refused")
        flag = f"moe_tensor_parallel_size {layout.etp}"
        yield from divisor_rules(etp_rules(model), layout.etp, flag, "refused")
        flag = f"moe_expert_parallel_size {layout.ep}"
        yield from expert_rules(model, layout.ep, launch.redundant_experts, flag, "refused")
        yield from copy_rules(model, layout.tp, 1, f"tensor_parallel_size {layout.tp}")
        yield from stage_rules(model, layout.pp, launch.stage_layers, "pp_partition")
    yield from _slot_rules(model, settings)
    yield from context_rules(launch, "max_seq_len", "")
    if launch.step_tokens < launch.sequences:
        text = f"less than {launch.sequences_flag}: a step of one token each does not hold them"
        yield Rule("wasteful", f"max_num_tokens {launch.step_tokens}", text)
    if not 0 < launch.budget.fraction <= 1:
        yield Rule("refused", launch.budget.flag, "must be more than 0 and at most 1")


def _slot_rules(model: ModelSpec, settings: Settings) -> Iterator[Rule]:
    """The load balancer's slots: at least the experts, and as many in each layer's assignment."""
    slots = settings.values.get("slots")
    if slots is None or model.moe is None:
        return
    experts = model.moe.num_experts
    if slots < experts:
        yield Rule("refused", f"num_slots {slots}", f"fewer than the {experts} experts")
    assignments = settings.values.get("assignments") or {}
    for layer, row in sorted(assignments.items(), key=lambda item: str(item[0])):
        named = {each for each in row if isinstance(each, int)} if isinstance(row, list) else set()
        if named != set(range(experts)) or len(row) != slots:
            text = f"must name {slots} experts and each of the {experts} at least once"
            yield Rule("refused", f"initial_global_assignments of layer {layer}", text)
            return
