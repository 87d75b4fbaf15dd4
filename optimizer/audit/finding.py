"""What an audit says: a finding a claim, readiness a phase, and the better plan; a document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from optimizer.spec.frozen import Frozen

SCHEMA_VERSION = "1.0"

Verdict = Literal["confirmed", "confirmed-under-reading", "refuted", "unverifiable"]
VERDICTS: tuple[Verdict, ...] = (
    "confirmed",
    "confirmed-under-reading",
    "refuted",
    "unverifiable",
)
Phase = Literal["forward", "serving", "training"]
Amount = Annotated[float, Field(allow_inf_nan=False)] | str | None


class Finding(Frozen):
    """The verdict on one claim, and the arithmetic by which anyone can follow it.

    `claim` is in the report's words. `reading` is the one under which the claim holds; `readings`
    are all that reproduce its figure, the ones that a stated reading rules out among them.
    """

    case: str
    claim: str
    quantity: str
    claimed_value: Amount = None
    claimed_unit: str = ""
    verdict: Verdict
    derived_value: Amount = None
    derived_unit: str = ""
    arithmetic: str
    reading: str = ""
    readings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # what would have to be stated
    assumptions: tuple[str, ...] = ()  # what the derived value rests on and nobody stated


def contradiction(case: str, claim: str, arithmetic: str) -> Finding:
    """Claims that cannot hold together."""
    return Finding(
        case=case, claim=claim, quantity="contradiction", verdict="refuted", arithmetic=arithmetic
    )


class Readiness(Frozen):
    """Whether a strategy can run in a phase; `limits` are those in the way, with two numbers."""

    case: str
    strategy: str
    phase: Phase
    reading: str = ""  # of the phase: how a batch is shared, what is recomputed
    ready: bool
    limits: tuple[str, ...] = ()
    arithmetic: str = ""


class Assumed(Frozen):
    """A value that a report does not state, and why this one was taken."""

    case: str
    key: str
    value: str
    why: str


class BetterPlan(Frozen):
    """The best plan on the same GPUs beside the audited strategy, by planning."""

    case: str
    strategy: str
    phase: Phase
    claimed_plan: str  # the strategy as planned, "" where it cannot run
    plan: str
    times: Annotated[float, Field(allow_inf_nan=False)] | None = None  # tokens/s over the claimed
    comparison: str


class Audit(Frozen):
    """All that an audit found, in the order of its inputs."""

    schema_version: str = SCHEMA_VERSION
    findings: tuple[Finding, ...] = ()
    readiness: tuple[Readiness, ...] = ()
    better: tuple[BetterPlan, ...] = ()
    assumed: tuple[Assumed, ...] = ()

    @property
    def refuted(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.verdict == "refuted")

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            findings=self.findings + other.findings,
            readiness=self.readiness + other.readiness,
            better=self.better + other.better,
            assumed=self.assumed + other.assumed,
        )
