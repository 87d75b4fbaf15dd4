"""Several models on one cluster, and the ways to serve one: `optimize fleet`, `--modes`."""

from optimizer.fleets.answer import summary, verify
from optimizer.fleets.composing import compose, verify_answers
from optimizer.fleets.planning import plan_fleet

__all__ = ["compose", "plan_fleet", "summary", "verify", "verify_answers"]
