"""The second opinion on a placement.json: standard library only, and nothing of ours."""

from optimizer.verify.experts.checks import check_expert_placement, unproven_layers

__all__ = ["check_expert_placement", "unproven_layers"]
