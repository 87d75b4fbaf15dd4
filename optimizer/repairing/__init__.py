"""Where there is no plan: the limits in conflict, and the cheapest changes, each a proven plan."""

from optimizer.repairing.refusing import BeforeAfter, Refusal, Repair, refuse

__all__ = ["BeforeAfter", "Refusal", "Repair", "refuse"]
