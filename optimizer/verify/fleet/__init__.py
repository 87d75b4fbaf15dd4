"""The second opinion on a fleet.json: standard library only, and nothing of ours."""

from optimizer.verify.fleet.checks import FLEET_CHECKS, verify_document, verify_fleet
from optimizer.verify.fleet.moves import verify_fleet_moves

__all__ = ["FLEET_CHECKS", "verify_document", "verify_fleet", "verify_fleet_moves"]
