"""Commands of any engine to one audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from optimizer.audit.finding import Audit
from optimizer.audit.launch import megatron, sglang, trtllm, vllm
from optimizer.audit.launch.command import Command, read_commands
from optimizer.audit.launch.judging import judge
from optimizer.audit.launch.launch import Launch
from optimizer.audit.launch.megatron import TrainingLaunch
from optimizer.audit.launch.pricing import Best
from optimizer.audit.launch.training import judge_training
from optimizer.errors import Problem, SpecError
from optimizer.spec.cluster import Cluster, Gpu
from optimizer.spec.model import ModelSpec
from optimizer.spec.reading import read_cluster, read_model, read_workload
from optimizer.spec.workload import ServingWorkload

Reader = Callable[[Command, ModelSpec | None, Gpu], Launch]
READERS: dict[str, Reader] = {"vllm": vllm.read, "sglang": sglang.read, "trtllm": trtllm.read}


def audit_launches(
    sources: Sequence[tuple[str, str]],
    hardware: str | Path,
    gpus: int | None = None,
    model: str | Path | None = None,
    workload: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Audit:
    """Every command of (engine, command or file) sources, in order.

    hardware, model and workload are files or presets; `gpus` replaces the hardware's count, `model`
    stands for names that are not known, `flags` are laid over the workload. Raises one SpecError
    with the problems of all commands.
    """
    cluster = read_cluster(hardware, gpus=gpus)
    if any(pool.gpu != cluster.pools[0].gpu for pool in cluster.pools):
        message = "a launch runs on one kind of GPU; give the pool that it runs on as the hardware"
        raise SpecError(Problem(message, str(hardware)))
    given = read_model(model) if model is not None else None
    beside = given.workload if given is not None and workload is None else None
    load = read_workload(workload if workload is not None else beside, flags)
    if not isinstance(load, ServingWorkload):
        raise SpecError(Problem("a launch serves requests; give --input-len in place of --batch"))
    launches = read_launches(sources, cluster, given.model if given is not None else None)
    known: dict[str, Best] = {}
    audits = [
        judge_training(launch, cluster, known)
        if isinstance(launch, TrainingLaunch)
        else judge(launch, cluster, load, known)
        for launch in launches
    ]
    return Audit(
        findings=tuple(chain.from_iterable(audit.findings for audit in audits)),
        readiness=tuple(chain.from_iterable(audit.readiness for audit in audits)),
        better=tuple(chain.from_iterable(audit.better for audit in audits)),
    )


def read_launches(
    sources: Sequence[tuple[str, str]], cluster: Cluster, model: ModelSpec | None
) -> list[Launch | TrainingLaunch]:
    """What the commands of all sources mean; every malformed one is a problem."""
    launches: list[Launch | TrainingLaunch] = []
    problems: list[Problem] = []
    names: Counter[str] = Counter()
    for engine, source in sources:
        for command in read_commands(source, engine):
            names[command.name] += 1
            if names[command.name] > 1:  # findings are told apart by name
                command = replace(command, name=f"{command.name} ({names[command.name]})")
            try:
                launches.append(_read(engine, command, model, cluster))
            except SpecError as error:
                problems += [_placed(problem, command) for problem in error.problems]
    if problems:
        raise SpecError(*problems)
    return launches


def _read(
    engine: str, command: Command, model: ModelSpec | None, cluster: Cluster
) -> Launch | TrainingLaunch:
    if engine == "megatron":
        return megatron.read(command, model, cluster)
    return READERS[engine](command, model, cluster.pools[0].gpu)


def _placed(problem: Problem, command: Command) -> Problem:
    """A problem with the file and line of its command."""
    if problem.file is not None or command.file is None:
        return problem
    return Problem(problem.message, command.file, command.line, problem.key)
