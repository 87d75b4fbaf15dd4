"""Several models on one cluster, near what runs, and the ways to serve one: `optimize fleet`,
`--modes`."""

from optimizer.fleets.answer import summary, verify, verify_moves
from optimizer.fleets.composing import compose, verify_answers
from optimizer.fleets.moving import plan_fleet_near
from optimizer.fleets.planning import plan_fleet

__all__ = [
    "compose",
    "plan_fleet",
    "plan_fleet_near",
    "summary",
    "verify",
    "verify_answers",
    "verify_moves",
]
