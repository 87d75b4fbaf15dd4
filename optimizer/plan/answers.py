"""Ranked ways to serve one model: plans of one layout beside fleets of several parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from optimizer.plan.document import Plan
from optimizer.plan.fleet import FleetPlan, FleetProof
from optimizer.spec.fleet import Mode, Role
from optimizer.spec.workload import ServingWorkload

if TYPE_CHECKING:
    import pandas as pd

ROLES: tuple[Role, ...] = ("serving", "prefill", "decode")
NEAR = 0.9  # of a limit: what is filled so far stops a role


class Share(NamedTuple):
    """What one layout in one pool does for an answer: its role, its share of the requests and what
    it could serve."""

    role: Role
    pool: str
    plan: Plan
    requests_per_s: float
    capacity_per_s: float


@dataclass(frozen=True)
class Answer:
    """One way to serve: a plan, or a fleet of one demand; shares are its layouts; transfer_s is
    what moving one request's cache takes.

    value: of the deciding criterion on the solver's grid, smaller is better; why: what it lost by.
    """

    rank: int
    document: Plan | FleetPlan
    mode: Mode
    shares: tuple[Share, ...]
    transfer_s: float
    value: int
    why: str = "the best"

    @property
    def name(self) -> str:
        """Roles with their layouts: "prefill EP8-DP8-x3 + decode EP16-DP16-x2"; of several pools
        "EP8-DP8-x2 on h200, TP8-x4 on h100"."""
        several = len(self.document.cluster.pools) > 1
        found = []
        for role in ROLES:
            layouts = ", ".join(
                share.plan.name + (f" on {share.pool}" if several else "")
                for share in self.of(role)
            )
            if layouts:
                found.append(layouts if role == "serving" else f"{role} {layouts}")
        return " + ".join(found)

    @property
    def gpus(self) -> int:
        return sum(share.plan.deployment.gpus for share in self.shares)

    @property
    def requests_per_s(self) -> float:
        return sum(share.requests_per_s for share in self.of("serving", "decode"))

    @property
    def output_len(self) -> int:
        """Tokens of an answer to a request."""
        workload = self.of("serving", "decode")[0].plan.workload
        assert isinstance(workload, ServingWorkload)
        return workload.output_len

    @property
    def tokens_per_s(self) -> float:
        """Output tokens."""
        return self.requests_per_s * self.output_len

    @property
    def ttft_s(self) -> float:
        """Mean over requests, moving the cache included."""
        return self.transfer_s + _mean(self.of("serving", "prefill"), "ttft_s")

    @property
    def tpot_s(self) -> float:
        """Mean over requests."""
        return _mean(self.of("serving", "decode"), "tpot_s")

    @property
    def request_s(self) -> float:
        """Mean seconds of a whole request."""
        return self.ttft_s + (self.output_len - 1) * self.tpot_s

    @property
    def binding(self) -> tuple[Role, float]:
        """The role with the least to spare, and its share of what it could serve."""
        found = {}
        for role in ROLES:
            if own := self.of(role):
                asked = sum(share.requests_per_s for share in own)
                found[role] = asked / sum(share.capacity_per_s for share in own)
        role = max(found, key=lambda each: found[each])
        return role, found[role]

    @property
    def limited_by(self) -> str:
        """What keeps it from serving more: a role, how full it is, and the limit that is nearest
        there, or else its GPUs."""
        role, full = self.binding
        filled = {
            limit.name: limit.need / limit.limit
            for share in self.of(role)
            for limit in share.plan.limits
            if limit.name != "GPUs" and limit.limit > 0
        }
        name = max(filled, key=lambda each: filled[each])
        nearest = f"{name} {filled[name]:.0%}" if filled[name] >= NEAR else "its GPUs"
        return f"{role} rate {full:.0%} ({nearest})"

    def of(self, *roles: Role) -> tuple[Share, ...]:
        """The shares in some roles."""
        return tuple(share for share in self.shares if share.role in roles)

    def summary(self) -> dict[str, str | float]:
        """The answer as one row of a table, units in the column names."""
        return {
            "rank": self.rank,
            "mode": self.mode,
            "name": self.name,
            "gpus": self.gpus,
            **{
                f"{role}_gpus": sum(share.plan.deployment.gpus for share in self.of(role))
                for role in ROLES
            },
            "requests_per_s": self.requests_per_s,
            **{
                f"{role}_capacity_per_s": sum(share.capacity_per_s for share in self.of(role))
                for role in ROLES
            },
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_gpu_used": self.tokens_per_s / self.gpus,
            "ttft_s": self.ttft_s,
            "transfer_s": self.transfer_s,
            "tpot_s": self.tpot_s,
            "request_s": self.request_s,
            "limited_by": self.limited_by,
            "why": self.why,
        }


@dataclass(frozen=True)
class Answers:
    """The ranked answers of one run, the best first; the proof is that of the best over all ways
    to serve."""

    answers: tuple[Answer, ...]
    proof: FleetProof
    notes: tuple[str, ...]

    @property
    def best(self) -> Answer:
        return self.answers[0]

    def frame(self) -> pd.DataFrame:
        """A table with one row an answer, units in the column names."""
        import pandas as pd

        return pd.DataFrame([answer.summary() for answer in self.answers])


def _mean(shares: Sequence[Share], prediction: str) -> float:
    total = sum(share.requests_per_s for share in shares)
    return (
        sum(share.requests_per_s * share.plan.predictions[prediction].value for share in shares)
        / total
    )
