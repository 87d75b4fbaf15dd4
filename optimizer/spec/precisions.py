"""The number formats that a search may use: the model's own, and what the workload allows."""

from __future__ import annotations

from optimizer.spec.model import ModelSpec, Precision
from optimizer.spec.workload import ForwardWorkload, ServingWorkload


def precision_choices(
    model: ModelSpec, workload: ForwardWorkload | ServingWorkload
) -> tuple[Precision, ...]:
    """Distinct choices, the model's own first."""
    found = [model.precision]
    for choice in workload.precisions:
        changed: dict[str, str] = {}
        if choice.weights is not None:
            changed |= dict.fromkeys(
                ("attention", "ffn", "shared_experts", "experts"), choice.weights
            )
        if choice.experts is not None:
            changed["experts"] = choice.experts
        if choice.kv_cache is not None:
            changed["kv_cache"] = choice.kv_cache
        found.append(Precision.model_validate({**model.precision.model_dump(), **changed}))
    return tuple(dict.fromkeys(found))
