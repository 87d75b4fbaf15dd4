"""The second opinion on a fleet.json: standard library only, and nothing of ours."""

from optimizer.verify.fleet.checks import CHECKS, verify_fleet

__all__ = ["CHECKS", "verify_fleet"]
