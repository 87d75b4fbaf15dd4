"""The second opinion on a plan: checks its JSON alone, by plain loops.

Standard library only, and nothing of ours: what is wrong in the planner must not be wrong here too.
"""

from optimizer.verify.bundle import bundle
from optimizer.verify.checks import CHECKS, results, verify_plan
from optimizer.verify.command import main
from optimizer.verify.finding import Finding

__all__ = ["CHECKS", "Finding", "bundle", "main", "results", "verify_plan"]
