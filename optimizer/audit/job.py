"""The job: claims files in, one audit out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.audit.better import better_plans
from optimizer.audit.case import Case
from optimizer.audit.contradictions import CASE_CHECKS, REPORT_CHECKS, Report
from optimizer.audit.finding import Assumed, Audit, Readiness
from optimizer.audit.judging import judge_all
from optimizer.audit.readiness import readiness
from optimizer.audit.reading import read_cases


def audit(sources: Sequence[str | Path]) -> Audit:
    """The verdicts on every claim of several files, and how the reports contradict each other."""
    found = Audit()
    reports: list[Report] = []
    for case in read_cases(sources):
        findings, judged = judge_all(case)
        findings += (finding for check in CASE_CHECKS for finding in check(case, judged))
        found += Audit(findings=tuple(findings)) + outlook(case)
        reports.append((case, judged))
    across = tuple(finding for check in REPORT_CHECKS for finding in check(reports))
    return found + Audit(findings=across)


def outlook(case: Case) -> Audit:
    """What a report should have said: readiness of each of its strategies, the better plans, and
    what had to be assumed."""
    ready: list[Readiness] = []
    strategies = (case.strategy, *(claim.strategy for claim in case.claims if claim.strategy))
    for strategy in dict.fromkeys(strategies):
        ready += readiness(case.with_strategy(strategy))
    assumed = (
        Assumed(case=case.name, key=row.key, value=row.value, why=row.why)
        for row in dict.fromkeys(case.assumptions)
    )
    return Audit(readiness=tuple(ready), better=tuple(better_plans(case)), assumed=tuple(assumed))
