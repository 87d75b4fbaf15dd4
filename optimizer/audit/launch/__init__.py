"""Launch commands as they are, by their engines' own rules."""

from optimizer.audit.launch.job import audit_launches

__all__ = ["audit_launches"]
