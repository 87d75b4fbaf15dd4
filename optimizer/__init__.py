"""Decides how large models are cut over GPUs: degrees and placement together, proven and argued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optimizer.version import __version__

if TYPE_CHECKING:
    from optimizer.answering import optimize
    from optimizer.plan import Answers, Plan, Plans
    from optimizer.spec.cluster import Cluster
    from optimizer.spec.model import ModelSpec
    from optimizer.spec.workload import (
        ForwardWorkload,
        ServingWorkload,
        TrainingWorkload,
        Workload,
    )


__all__ = [
    "Answers",
    "Cluster",
    "ForwardWorkload",
    "ModelSpec",
    "Plan",
    "Plans",
    "ServingWorkload",
    "TrainingWorkload",
    "Workload",
    "__version__",
    "optimize",
]

_HOMES = {
    "Answers": "optimizer.plan",
    "Cluster": "optimizer.spec.cluster",
    "ForwardWorkload": "optimizer.spec.workload",
    "ModelSpec": "optimizer.spec.model",
    "Plan": "optimizer.plan",
    "Plans": "optimizer.plan",
    "ServingWorkload": "optimizer.spec.workload",
    "TrainingWorkload": "optimizer.spec.workload",
    "Workload": "optimizer.spec.workload",
    "optimize": "optimizer.answering",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import optimizer` stays quick."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'optimizer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
