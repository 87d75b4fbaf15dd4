"""`optimize fleet`: several models on one cluster."""

from optimizer.fleets.answer import summary, verify
from optimizer.fleets.planning import plan_fleet

__all__ = ["plan_fleet", "summary", "verify"]
