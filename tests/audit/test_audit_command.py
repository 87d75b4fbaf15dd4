"""`optimize audit` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from optimizer.audit.writing import audit_schema
from optimizer.cli import optimize

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "configs" / "schema" / "audit.json"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(optimize, ["audit", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_an_audit_is_written_printed_and_the_same_twice(tmp_path: Path) -> None:
    """Exit code 4, since something is refuted; the shipped file is found from any folder."""
    texts = []
    for folder in ("one", "two"):
        code, output = run("configs/cases/d/claims.yaml", "--out", str(tmp_path / folder))
        assert code == 4
        assert "NOT READY" not in output
        texts.append(
            [(tmp_path / folder / name).read_bytes() for name in ("audit.json", "audit.md")]
        )
    assert texts[0] == texts[1]
    document = json.loads(texts[0][0])
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    finding = document["findings"][0]
    assert set(finding) >= {
        "case",
        "claim",
        "claimed_value",
        "claimed_unit",
        "verdict",
        "derived_value",
        "arithmetic",
        "reading",
        "assumptions",
    }
    assert "x 16 layers / 2 (TP) x 1 B = 33,554,432 B" in texts[0][1].decode()


def test_the_shipped_schema_is_the_codes() -> None:
    assert json.loads(SCHEMA.read_text()) == audit_schema()


def test_an_honest_report_passes(tmp_path: Path) -> None:
    """Exit code 0: nothing is refuted."""
    file = tmp_path / "claims.yaml"
    file.write_text(
        f"""case: honest
hardware: {ROOT}/configs/cases/e/hardware.yaml
model: {ROOT}/configs/cases/e/model.yaml
strategy: EP16_TP1_PP1_DP1
claims:
  - {{claim: it takes 16 GPUs, quantity: gpus, value: 16, unit: GPUs}}
"""
    )
    code, output = run(str(file), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "1 findings: 1 confirmed" in output


def test_no_file_is_named() -> None:
    from optimizer.errors import SpecError

    with pytest.raises(SpecError, match="no such file"):
        run("nowhere/claims.yaml")
