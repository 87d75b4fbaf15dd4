"""Everything a user can cause, as one small tree.

OptimizerError
├── SpecError         wrong input: every wrong key at once           exit code 2
├── InfeasibleError   no plan meets the limits: which, and how far   exit code 3
└── PlanError         a plan that cannot be read: version, hash      exit code 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_CHECK = 4
EXIT_TIME = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where it stands and what to write instead."""

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        parts = [part for part in (where, self.key) if part]
        return ": ".join([*parts, self.message])


def why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """What keeps a file from being read, in words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return error.strerror or str(error)


class OptimizerError(Exception):
    """The root of all errors that this package raises on purpose."""

    exit_code = EXIT_INPUT


class SpecError(OptimizerError):
    """Input that cannot be understood; holds every problem found, not only the first."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems: tuple[Problem, ...] = tuple(
            problem if isinstance(problem, Problem) else Problem(problem) for problem in problems
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InfeasibleError(OptimizerError):
    """No plan meets the limits; `reasons` name each broken limit with its two numbers."""

    exit_code = EXIT_INFEASIBLE

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        self.reasons = tuple(reasons)
        super().__init__("\n  ".join([message, *self.reasons]))


class PlanError(OptimizerError):
    """A plan file of another schema version, with a broken hash, or with a broken structure."""
