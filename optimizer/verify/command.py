"""verify_strategy.py PLAN.json [--json OUT]: 0 all holds, 4 something does not, 2 no plan."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from optimizer.verify.checks import results
from optimizer.verify.document import Json
from optimizer.verify.finding import Finding
from optimizer.verify.fleet.checks import verify_document

USAGE = "usage: verify_strategy.py PLAN.json [--json OUT]"


def main(argv: list[str] | None = None) -> int:
    """Reads one plan or fleet, prints a line for each check and each failure, and says whether all
    holds."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:
        print(USAGE)
        return 0
    out = None
    if "--json" in arguments[:-1]:
        at = arguments.index("--json")
        out = Path(arguments[at + 1])
        del arguments[at : at + 2]
    if len(arguments) != 1 or arguments[0].startswith("--"):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        document = _read(Path(arguments[0]))
        findings = verify_document(document)
        _print(findings)
        if out is not None:
            _write(out, json.dumps(results(findings), indent=1, ensure_ascii=False) + "\n")
    except (OSError, ValueError, RecursionError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    return 0 if all(finding.ok for finding in findings) else 4


def _read(path: Path) -> Json:
    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no number of JSON")

    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    if not isinstance(document, dict) or "schema_version" not in document:
        raise ValueError("no plan: a plan is a JSON object with a schema_version")
    return document


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _print(findings: list[Finding]) -> None:
    names = list(dict.fromkeys(finding.check for finding in findings))
    width = max(len(name) for name in names)
    for name in names:
        of_check = [finding for finding in findings if finding.check == name]
        bad = [finding for finding in of_check if not finding.ok]
        verdict = "FAILED" if bad else "ok"
        print(f"{name:<{width}}  {verdict:<6}  {len(of_check) - len(bad)} of {len(of_check)} hold")
        for finding in bad[:5]:
            print(_plain(f"{'':<{width}}  {finding.detail}"))
        if len(bad) > 5:
            print(f"{'':<{width}}  and {len(bad) - 5} more")
    failed = sum(not finding.ok for finding in findings)
    print(f"{len(findings)} findings, {failed} failed")


def _plain(text: str) -> str:
    """Text that any terminal can show on one line."""
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
