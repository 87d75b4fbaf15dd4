"""Broken rules as findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimizer.audit.finding import Finding, Verdict
from optimizer.audit.launch.launch import ENGINE_NAMES, Rule, RuleKind

_SAID: dict[RuleKind, tuple[Verdict, str, str]] = {  # verdict, what the engine does, reading
    "refused": ("refuted", "refuses it", ""),
    "accepted": ("refuted", "accepts it and should not", ""),
    "wasteful": ("confirmed-under-reading", "accepts it", "with less effect than it seems"),
}


# What a flag stands for whose effect is neither in the memory nor in the times here.
UNPRICED = {
    "speculation, its time and the draft's memory": "specul draft eagle num-nextn medusa",
    "the time of adapters, and their memory but for vLLM's slots": "lora",
    "encoders of images and sound": "--mm- -mm-per image audio video multimodal",
    "prefill and decode apart": "disaggregation kv-transfer",
    "cache or weights on the host": "offload hicache swap-space host-cache lmcache",
    "two batches that hide each other's exchange": "two-batch dbo ubatch",
    "batches that grow": "rampup",
}


def unjudged(case: str, flags: Sequence[str]) -> Iterator[Finding]:
    """Flags that matter and are not priced, each by what it stands for; then all that change
    neither memory nor times."""
    left = list(flags)
    conditions = [flag for flag in left if "(line" in flag]
    if conditions:
        left = [flag for flag in left if flag not in conditions]
        yield _unjudged(case, conditions, "matters and is left out: what a condition decides")
    for what, words in UNPRICED.items():
        found = [
            flag
            for flag in left
            if " " not in flag and any(word in flag for word in words.split(" "))
        ]
        left = [flag for flag in left if flag not in found]
        if found:
            yield _unjudged(case, found, f"matters and is not priced: {what}")
    if left:
        yield _unjudged(case, left, "not judged: changes neither the memory nor the times here")


def _unjudged(case: str, flags: Sequence[str], arithmetic: str) -> Finding:
    return Finding(
        case=case,
        claim=" ".join(flags),
        quantity="flags",
        verdict="unverifiable",
        arithmetic=arithmetic,
    )


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
