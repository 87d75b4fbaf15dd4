"""An audit as a table for the terminal, as JSON, and as Markdown for the report's author."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from optimizer.audit.amounts import number
from optimizer.audit.finding import VERDICTS, Amount, Audit, Finding
from optimizer.report.table import aligned

WIDTH = 48  # characters of a claim in the table


def audit_files(audit: Audit) -> dict[str, str]:
    """File name -> text."""
    return {"audit.json": audit_json(audit), "audit.md": audit_markdown(audit)}


def audit_json(audit: Audit) -> str:
    document = audit.model_dump(mode="json")
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def audit_schema() -> dict[str, Any]:
    """The JSON Schema that ships as configs/schema/audit.json."""
    return Audit.model_json_schema(mode="serialization")


def audit_table(audit: Audit) -> str:
    """A row a finding, then readiness, better plans and the count of each verdict."""
    rows = [["case", "claim", "claimed", "derived", "verdict", "reading"]]
    for found in audit.findings:
        rows.append(
            [
                found.case,
                short(found.claim, WIDTH),
                short(amount(found.claimed_value, found.claimed_unit), WIDTH // 2),
                short(amount(found.derived_value, found.derived_unit), WIDTH // 2),
                found.verdict,
                short(found.reading or "; ".join(found.missing), WIDTH),
            ]
        )
    parts = ["\n".join(aligned(rows))] if audit.findings else []
    parts += ["\n".join(lines) for lines in (readiness_lines(audit), better_lines(audit)) if lines]
    if audit.findings:
        parts.append(tally(audit.findings))
    return "\n\n".join(parts)


def audit_markdown(audit: Audit) -> str:
    """What can be sent back to the report's author: every verdict with its arithmetic."""
    lines = ["# Audit", "", tally(audit.findings) + "."]
    for case in dict.fromkeys(found.case for found in audit.findings):
        mine = [found for found in audit.findings if found.case == case]
        lines += ["", f"## {case}", "", tally(mine) + ".", "", *_overview(mine)]
        for position, found in enumerate(mine, start=1):
            lines += ["", *_section(position, found)]
    for title, found_lines in (
        ("Readiness", readiness_lines(audit)),
        ("Better plans", better_lines(audit)),
        ("Assumptions", assumed_lines(audit)),
    ):
        if found_lines:
            lines += ["", f"## {title}", "", *(f"- {line}" for line in found_lines)]
    return "\n".join(lines) + "\n"


def _overview(findings: Iterable[Finding]) -> list[str]:
    rows = ["| | claim | claimed | derived | verdict |", "|---|---|---|---|---|"]
    for position, found in enumerate(findings, start=1):
        cells = (
            str(position),
            found.claim,
            amount(found.claimed_value, found.claimed_unit),
            amount(found.derived_value, found.derived_unit),
            found.verdict,
        )
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return rows


def _section(position: int, found: Finding) -> list[str]:
    lines = [f"### {position}. {found.claim}: {found.verdict}", ""]
    if found.reading:
        lines.append(f"- holds when read as: {found.reading}")
    others = [reading for reading in found.readings if reading != found.reading]
    if others:
        held = found.verdict.startswith("confirmed")
        lines.append("- it also holds as:" if held else "- the figure is reproduced by:")
        lines += [f"    - {reading}" for reading in others]
    first, *rest = found.arithmetic.split("\n")
    lines.append(f"- {first}")
    lines += [f"    - {line}" for line in rest]
    if found.missing:
        lines.append(f"- not stated: {', '.join(found.missing)}")
    if found.assumptions:
        lines.append(f"- rests on assumptions: {'; '.join(found.assumptions)}")
    return lines


def assumed_lines(audit: Audit) -> list[str]:
    """What nobody stated, once for all reports that share it."""
    shared: dict[tuple[str, str, str], list[str]] = {}
    for row in audit.assumed:
        shared.setdefault((row.key, row.value, row.why), []).append(row.case)
    return [
        f"{', '.join(dict.fromkeys(cases))}: {key} = {value} ({why})"
        for (key, value, why), cases in shared.items()
    ]


def readiness_lines(audit: Audit) -> list[str]:
    """READY or NOT READY, a line for each strategy and phase."""
    return [
        f"{found.case}: {found.strategy}, {found.phase}"
        + (f" ({found.reading}): " if found.reading else ": ")
        + ("READY" if found.ready else f"NOT READY: {'; '.join(found.limits)}")
        + (f" ({found.arithmetic})" if found.arithmetic else "")
        for found in audit.readiness
    ]


def better_lines(audit: Audit) -> list[str]:
    return [
        f"{found.case}: {found.strategy}, {found.phase}: {found.comparison}"
        for found in audit.better
    ]


def tally(findings: Iterable[Finding]) -> str:
    """Findings by verdict: "23 findings: 9 confirmed, 3 refuted"."""
    count = Counter(found.verdict for found in findings)
    parts = [f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict]]
    return f"{sum(count.values())} findings: {', '.join(parts) or 'none'}"


def amount(value: Amount, unit: str) -> str:
    """A value with its unit for a reader: six digits at most."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else number(value)
    return f"{text} {unit}".strip()


def short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."
