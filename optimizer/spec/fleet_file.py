"""Fleet files.

    hardware: cluster.yaml            # a file, a preset, or a mapping as in a cluster file
    objective: gpus                   # or money, or served
    models:
      - model: qwen3-32b              # a file or a preset
        workload: {input_len: 2048, output_len: 512, request_rate: 40 req/s, tpot: 40 ms}
      - name: chat
        model: deepseek-v3
        weight: 2
        workload: {input_len: 4096, output_len: 1024, request_rate: 3 req/s, ttft: 2 s}

Files are looked for beside the fleet file first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.errors import Problem, SpecError
from optimizer.spec.cluster import Cluster
from optimizer.spec.cluster_file import cluster_of
from optimizer.spec.document import Document, show_key
from optimizer.spec.draft import Draft
from optimizer.spec.files import read_document
from optimizer.spec.fleet import Demand, Fleet
from optimizer.spec.reading import read_cluster, read_model
from optimizer.spec.wording import shown
from optimizer.spec.workload import ServingWorkload
from optimizer.spec.workload_file import workload_of

SHORTHAND: dict[type, tuple[str, ...]] = {Fleet: ("hardware", "models"), Demand: ()}


def read_fleet(path: Path) -> Fleet:
    """The fleet that a file describes; raises one SpecError with the problems of all its parts."""
    document = read_document(path)
    draft = Draft(document)
    data = {key: value for key, value in document.data.items() if key not in ("hardware", "models")}
    problems: list[Problem] = []
    try:
        data["cluster"] = _cluster(document, path.parent)
    except SpecError as error:
        problems += error.problems
    entries = document.data.get("models")
    if not isinstance(entries, list) or not entries:
        draft.problem(("models",), f"must be a list of models to serve, not {shown(entries)}")
        entries = []
    draft.moved(("demands",), ("models",))
    demands = []
    for index, entry in enumerate(entries):
        try:
            demands.append(_demand(document, index, entry, path.parent))
        except SpecError as error:
            problems += error.problems
    data["demands"] = demands
    if problems:
        raise SpecError(*draft.problems, *dict.fromkeys(problems))
    found: Fleet = draft.finish(Fleet, data, SHORTHAND)
    return found


def _cluster(document: Document, folder: Path) -> Cluster:
    source = document.data.get("hardware")
    inner = document.under("hardware")
    if inner is not None:
        return cluster_of(inner)
    if not isinstance(source, str):
        message = f"must be a file, a preset or a mapping as in a cluster file, not {shown(source)}"
        raise SpecError(_at(document, ("hardware",), message))
    try:
        return read_cluster(_beside(source, folder))
    except SpecError as error:
        raise SpecError(
            *(_named(document, ("hardware",), each) for each in error.problems)
        ) from None


def _demand(document: Document, index: int, entry: Any, folder: Path) -> Demand:
    """One entry of `models`: its model and workload read as everywhere else."""
    here = ("models", index)
    if not isinstance(entry, Mapping):
        message = f"must be a mapping with model and workload, not {shown(entry)}"
        raise SpecError(_at(document, here, message))
    problems: list[Problem] = []
    model = workload = None
    source = entry.get("model")
    if not isinstance(source, str):
        message = f"must be a model file or a preset, not {shown(source)}"
        problems.append(_at(document, (*here, "model"), message))
    else:
        try:
            model = read_model(_beside(source, folder)).model
        except SpecError as error:
            problems += [_named(document, (*here, "model"), each) for each in error.problems]
    stated = entry.get("workload")
    if not isinstance(stated, Mapping):
        message = "must be a mapping such as {input_len: 2048, output_len: 512, request_rate: 5/s}"
        problems.append(_at(document, (*here, "workload"), f"{message}, not {shown(stated)}"))
    else:
        inner = Document(
            document.file,
            dict(stated),
            lambda path: document.line_of((*here, "workload", *path)),
        )
        try:
            workload = workload_of(inner, {})
        except SpecError as error:
            problems += error.problems
        if workload is not None and not isinstance(workload, ServingWorkload):
            message = "must be serving, with input_len, output_len and request_rate"
            problems.append(_at(document, (*here, "workload"), message))
    if problems or model is None or workload is None:
        raise SpecError(*problems)
    draft = Draft(
        Document(document.file, dict(entry), lambda path: document.line_of((*here, *path)))
    )
    draft.moved(("request_rate",), ("workload", "request_rate"))
    data = {"name": model.name, **entry, "model": model, "workload": workload}
    found: Demand = draft.finish(Demand, data, SHORTHAND)
    return found


def _beside(source: str, folder: Path) -> str | Path:
    near = folder / source
    return near if near.exists() else source


def _named(document: Document, path: tuple[str | int, ...], problem: Problem) -> Problem:
    """A problem of a file that could not be found stands where the fleet names it."""
    return problem if problem.file else _at(document, path, problem.message)


def _at(document: Document, path: tuple[str | int, ...], message: str) -> Problem:
    return Problem(message, document.file, document.nearest_line(path), show_key(path))
