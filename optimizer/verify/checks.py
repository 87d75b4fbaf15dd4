"""All checks in one visible list; a new one is one function and one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optimizer.verify.arithmetic import arithmetic
from optimizer.verify.cache import cache
from optimizer.verify.counts import divisibility, gpu_counts, spans
from optimizer.verify.document import Json
from optimizer.verify.finding import Check, Finding
from optimizer.verify.identity import identity
from optimizer.verify.limits import limits
from optimizer.verify.load import balance, batch, precision
from optimizer.verify.memory import activations, memory_sums
from optimizer.verify.placement import coordinates, coverage, groups, stages
from optimizer.verify.pools import crossings, pools
from optimizer.verify.predictions import identities, intervals, steps
from optimizer.verify.proof import candidates, others, proof
from optimizer.verify.robustness import robustness
from optimizer.verify.slots import expert_slots
from optimizer.verify.sources import assumptions, sources
from optimizer.verify.space import space
from optimizer.verify.switches import switches
from optimizer.verify.tables import table_shape, table_sums
from optimizer.verify.traffic import collectives, floors, traffic
from optimizer.verify.training_memory import layer_sizes, training_memory
from optimizer.verify.training_space import training_space
from optimizer.verify.training_stages import blocks, schedule_rules, training_batch
from optimizer.verify.training_step import (
    joint_counts,
    layer_seconds,
    pipeline,
    training_flops,
)
from optimizer.verify.weights import weights

CHECKS: tuple[Check, ...] = (
    identity,
    sources,
    assumptions,
    gpu_counts,
    divisibility,
    precision,
    batch,
    stages,
    coordinates,
    coverage,
    expert_slots,
    groups,
    spans,
    pools,
    weights,
    cache,
    activations,
    memory_sums,
    balance,
    table_shape,
    arithmetic,
    table_sums,
    floors,
    collectives,
    switches,
    crossings,
    traffic,
    intervals,
    identities,
    steps,
    limits,
    robustness,
    proof,
    candidates,
    space,
    others,
)

TRAINING_CHECKS: tuple[Check, ...] = (
    identity,
    sources,
    assumptions,
    gpu_counts,
    divisibility,
    training_batch,
    schedule_rules,
    stages,
    blocks,
    coordinates,
    coverage,
    groups,
    spans,
    training_memory,
    layer_sizes,
    memory_sums,
    training_flops,
    layer_seconds,
    pipeline,
    intervals,
    limits,
    proof,
    candidates,
    joint_counts,
    training_space,
    others,
)

# What reading a document that is no plan can raise: a wrong type, a missing key, a wrong count.
WRONG_DOCUMENT = (
    TypeError,
    LookupError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    AssertionError,
)


def run(check: Check, document: Json) -> Iterator[Finding]:
    """The findings of one check; a document that it cannot read fails it."""
    name = check.__name__.replace("_", " ")
    try:
        for ok, detail in check(document):
            yield Finding(name, bool(ok), detail)
    except WRONG_DOCUMENT as error:
        yield Finding(name, False, f"cannot be checked: {type(error).__name__}: {error}")


def verify_plan(document: Json) -> list[Finding]:
    """All findings on a plan's JSON, the good ones too."""
    workload = document.get("workload")
    trains = isinstance(workload, dict) and workload.get("kind") == "training"
    checks = TRAINING_CHECKS if trains else CHECKS
    return [finding for check in checks for finding in run(check, document)]


def results(findings: list[Finding]) -> dict[str, Any]:
    """What verification_results.json holds."""
    return {
        "ok": all(finding.ok for finding in findings),
        "checks": [
            {"check": finding.check, "ok": finding.ok, "detail": finding.detail}
            for finding in findings
        ],
    }
