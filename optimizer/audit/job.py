"""The job: claims files in, one audit out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.audit.better import better_plans
from optimizer.audit.case import Case
from optimizer.audit.contradictions import CASE_CHECKS, REPORT_CHECKS
from optimizer.audit.finding import Assumed, Audit, Finding, Readiness
from optimizer.audit.judging import judge
from optimizer.audit.own_figures import Told
from optimizer.audit.readiness import readiness
from optimizer.audit.reading import read_cases


def audit(sources: Sequence[str | Path]) -> Audit:
    """The verdicts on every claim of several files, and how the reports contradict each other."""
    cases = read_cases(sources)
    found = sum((audit_case(case) for case in cases), Audit())
    across = tuple(finding for check in REPORT_CHECKS for finding in check(cases))
    return found + Audit(findings=across)


def audit_case(case: Case) -> Audit:
    """One report: its claims in order, its contradictions, readiness and the better plans."""
    findings: list[Finding] = []
    judged: list[Told] = []
    named: dict[str, Told] = {}
    for claim in case.claims:
        finding, told = judge(case, claim, named)
        findings.append(finding)
        judged.append(told)
        if claim.id is not None:
            named[claim.id] = told
    for check in CASE_CHECKS:
        findings += check(case, judged)
    ready: list[Readiness] = []
    strategies = (case.strategy, *(claim.strategy for claim in case.claims if claim.strategy))
    for strategy in dict.fromkeys(strategies):
        ready += readiness(case.with_strategy(strategy))
    assumed = (
        Assumed(case=case.name, key=row.key, value=row.value, why=row.why)
        for row in dict.fromkeys(case.assumptions)
    )
    return Audit(
        findings=tuple(findings),
        readiness=tuple(ready),
        better=tuple(better_plans(case)),
        assumed=tuple(assumed),
    )
