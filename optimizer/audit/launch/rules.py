"""Broken rules as findings."""

from __future__ import annotations

from optimizer.audit.finding import Finding, Verdict
from optimizer.audit.launch.launch import ENGINE_NAMES, Rule, RuleKind

_SAID: dict[RuleKind, tuple[Verdict, str, str]] = {  # verdict, what the engine does, reading
    "refused": ("refuted", "refuses it", ""),
    "accepted": ("refuted", "accepts it and should not", ""),
    "wasteful": ("confirmed-under-reading", "accepts it", "with less effect than it seems"),
}


def broken(case: str, engine: str, rule: Rule) -> Finding:
    """What an engine makes of a rule that a command breaks."""
    verdict, said, reading = _SAID[rule.kind]
    return Finding(
        case=case,
        claim=rule.claim,
        quantity="engine rule",
        verdict=verdict,
        derived_value=f"{ENGINE_NAMES[engine]} {said}",
        arithmetic=f"{ENGINE_NAMES[engine]} {said}: {rule.arithmetic}",
        reading=reading,
    )
