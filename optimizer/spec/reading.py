"""Inputs to specs: files, presets, Hugging Face configs, plans and flags; all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optimizer.errors import Problem, SpecError
from optimizer.spec.cluster import Cluster
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document
from optimizer.spec.files import read_document
from optimizer.spec.huggingface.reader import is_config, model_of_config
from optimizer.spec.linears import moe_layers
from optimizer.spec.model import ModelSpec
from optimizer.spec.model_file import model_of
from optimizer.spec.presets import find_preset, locate
from optimizer.spec.wording import shown
from optimizer.spec.workload import Workload
from optimizer.spec.workload_file import workload_of


class ModelInput(NamedTuple):
    """A model file: the model, and what may stand beside it."""

    model: ModelSpec
    workload: Document | None
    strategy: str | None


class Job(NamedTuple):
    """Everything that a run is asked to do."""

    cluster: Cluster
    model: ModelSpec
    workload: Workload
    strategy: str | None


def read_cluster(source: str | Path, *, gpus: int | None = None) -> Cluster:
    """A cluster from a YAML file, a preset's name, or a plan; `gpus` replaces its GPU count."""
    document = read_document(locate(source, "hardware", ("hardware.yaml",)))
    return cluster_of(_of_plan(document, "cluster") or document, gpus)


def read_model(source: str | Path) -> ModelInput:
    """A model from YAML, a config.json or its folder, a preset's name, or a plan."""
    path = locate(source, "models", ("model.yaml", "config.json"))
    return _model_input(path, read_document(path))


def read_workload(
    source: str | Path | Document | None = None, flags: Mapping[str, Any] | None = None
) -> Workload:
    """A workload from a file, a preset's name or a plan, with flags laid over it."""
    document = source if isinstance(source, Document) else None
    if isinstance(source, (str, Path)):
        found = read_document(locate(source, "workloads", ("workload.yaml",)))
        document = _of_plan(found, "workload") or found.under("workload") or found
    return workload_of(document, flags or {})


def read_job(
    hardware: str | Path,
    model: str | Path,
    workload: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    gpus: int | None = None,
) -> Job:
    """All inputs of a run; raises one SpecError with the problems of every file.

    The workload comes from `workload`, else from the model file; flags win over both.
    """
    problems: list[Problem] = []
    cluster = found = work = None
    try:
        cluster = read_cluster(hardware, gpus=gpus)
    except SpecError as error:
        problems += error.problems
    try:
        found = read_model(model)
    except SpecError as error:
        problems += error.problems
    beside = found.workload if found is not None else None
    try:
        if found is not None or workload is not None:
            work = read_workload(workload if workload is not None else beside, flags)
    except SpecError as error:
        problems += error.problems
    if cluster is None or found is None or work is None:
        raise SpecError(*dict.fromkeys(problems))
    _check_experts(found.model, work)
    return Job(cluster, found.model, work, found.strategy)


def _check_experts(model: ModelSpec, workload: Workload) -> None:
    """Loads, skews and second copies are of this model's experts."""
    loads, moe = workload.expert_loads, model.moe
    if moe is None:
        asked = {
            "expert_loads": loads is not None,
            "expert_skew": workload.expert_skew is not None,
            "redundant_experts": workload.redundant_experts > 0,
        }
        said = f"{model.name} has no routed experts; leave it out"
        problems = [Problem(said, key=key) for key, is_asked in asked.items() if is_asked]
        if problems:
            raise SpecError(*problems)
        return
    if loads is not None:
        layers, experts = len(moe_layers(model)), moe.num_experts
        if len(loads) not in (1, layers) or len(loads[0]) != experts:
            shape = f"{len(loads)} layers x {len(loads[0])} experts"
            message = f"are of {shape}; {model.name} has {layers} x {experts} (or 1 x {experts})"
            raise SpecError(Problem(message, key="expert_loads"))


def _model_input(path: Path, document: Document) -> ModelInput:
    embedded = _of_plan(document, "model")
    if embedded is not None:
        return ModelInput(model_of(embedded), _of_plan(document, "workload"), None)
    if is_config(document.data):
        beside = path.with_name("hf_quant_config.json")
        quantization = read_document(beside) if beside.is_file() else None
        is_folder = path.name == "config.json"
        name = path.resolve().parent.name if is_folder else path.stem
        return ModelInput(model_of_config(document, name or "model", quantization), None, None)
    base = None
    if "preset" in document.data:
        base = _base(document)
    problems: list[Problem] = []
    strategy = document.data.get("strategy")
    if strategy is not None and not isinstance(strategy, str):
        message = f"must be a name such as EP8-TP2-DP4, not {shown(strategy)}"
        problems.append(_at(document, "strategy", message))
    workload = document.under("workload")
    if workload is None and document.data.get("workload") is not None:
        message = f"must be a mapping (key: value), not {shown(document.data['workload'])}"
        problems.append(_at(document, "workload", message))
    try:
        model = model_of(document, base)
    except SpecError as error:
        raise SpecError(*error.problems, *problems) from None
    if problems:
        raise SpecError(*problems)
    return ModelInput(model, workload, strategy)


def _base(document: Document) -> ModelSpec:
    preset = document.data["preset"]
    if not isinstance(preset, str):
        raise SpecError(_at(document, "preset", f"must be a preset's name, not {shown(preset)}"))
    try:
        path = find_preset(preset, "models")
        return _model_input(path, read_document(path)).model
    except SpecError as error:
        raise SpecError(_at(document, "preset", error.problems[0].message)) from None


def _at(document: Document, key: str, message: str) -> Problem:
    return Problem(message, document.file, document.nearest_line((key,)), key)


def _of_plan(document: Document, key: str) -> Document | None:
    """The spec embedded in a plan file, or the cluster of several plans side by side; None when the
    document is neither."""
    if isinstance(document.data.get("parts"), list) and "plans" in document.data:
        if key != "cluster":
            message = f"holds several plans side by side: name the {key} itself"
            raise SpecError(Problem(message, document.file, key=key))
        return document.under(key)
    is_plan = all(isinstance(document.data.get(name), dict) for name in ("cluster", "model"))
    return document.under(key) if is_plan else None
