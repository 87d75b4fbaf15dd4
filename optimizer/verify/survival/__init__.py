"""The second opinion on --survive: standard library only, and nothing of ours."""

from optimizer.verify.survival.checks import survival

__all__ = ["survival"]
