"""Plans that keep their limits at a confidence: how far limits were tightened, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

from optimizer.verify.document import Json, number
from optimizer.verify.finding import ROUNDING, Outcome, equal

PREDICTED = {"memory": "memory_bytes", "ttft": "ttft_s", "tpot": "tpot_s", "latency": "latency_s"}


def share(plan: Json, name: str) -> float:
    """What a predicted figure may fill of its limit: less than all of it in a robust plan."""
    robust = plan["robustness"]
    if robust is None:
        return 1.0
    return 1.0 / (number(robust["interval"][name]) * number(robust["stress"][name]))


def robustness(plan: Json) -> Iterator[Outcome]:
    """Intervals follow from the predictions and the confidence, the cost from the objectives."""
    robust = plan["robustness"]
    if robust is None:
        return
    normal = NormalDist()
    turns = max(0.0, normal.inv_cdf(number(robust["confidence"])) / normal.inv_cdf(0.9))
    names = [each["name"] for each in plan["limits"] if each["name"] in PREDICTED]
    yield equal("robust limits", sorted(robust["interval"]), sorted(names))
    yield equal("stressed limits", sorted(robust["stress"]), sorted(names))
    for name in names:
        found = plan["predictions"][PREDICTED[name]]
        wide = (number(found["high"]) / number(found["value"])) ** turns
        yield equal(f"{name} interval", robust["interval"][name], wide, ROUNDING)
        stress = number(robust["stress"][name])
        yield stress >= 1 - ROUNDING, f"{name} stress {stress:.7g} is at least 1"
    own = number(plan["proof"]["value"]) / number(plan["proof"]["scale"])
    nominal = number(robust["nominal_objective"])
    yield equal("cost", robust["cost"], abs(own - nominal) / abs(nominal), ROUNDING)
    yield set(robust["binding"]) <= {each["name"] for each in plan["limits"]}, "binding limits"
