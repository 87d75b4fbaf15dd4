"""What a user can get wrong in a claims file: one message with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.audit.reading import read_case
from optimizer.errors import SpecError

CASES = Path(__file__).parents[2] / "configs" / "cases"
HEAD = f"""case: X
hardware: {CASES}/a/hardware.yaml
model: {CASES}/a/model.yaml
strategy: EP64_TP2_PP1
claims:
"""

BAD = {
    "a claim without a unit": (
        "  - {claim: 57 MB, quantity: memory_per_gpu, component: total, value: 57}",
        "6: claims[0].unit: the claim has no unit; write for example unit: MB",
    ),
    "an unknown quantity": (
        "  - {claim: fast, quantity: troughput, value: 5, unit: tokens/s}",
        "6: claims[0].quantity: unknown quantity; did you mean 'throughput'?",
    ),
    "a unit of another kind": (
        "  - {claim: fast, quantity: throughput, value: 5, unit: GB}",
        "claims[0].unit: 'GB' does not fit here",
    ),
    "no value": (
        "  - {claim: fast, quantity: throughput, unit: tokens/s}",
        "claims[0].value: is missing",
    ),
    "a value that is no figure": (
        "  - {claim: fast, quantity: throughput, value: very, unit: tokens/s}",
        "claims[0].value: is no figure",
    ),
    "an unknown component": (
        "  - {claim: m, quantity: memory_per_gpu, component: brain, value: 1, unit: MB}",
        "claims[0].component: unknown component; known here: total",
    ),
    "an unknown reading": (
        "  - {claim: m, quantity: experts_per_gpu, value: 1, unit: experts, reading: upside}",
        "claims[0].reading: no such reading; known here: of one layer",
    ),
    "a term that nobody claims": (
        '  - {claim: m, quantity: ratio, value: 1, unit: "%", terms: [nothing, 64 GB]}',
        "claims[0].terms[0]: is neither the id of an earlier claim with a figure, nor a figure",
    ),
    "a baseline that is no strategy": (
        "  - {claim: m, quantity: speedup, component: latency, value: 2, unit: x, baseline: fast}",
        "claims[0].baseline: 'fast' in strategy 'fast' is no degree",
    ),
    "an unknown key": (
        "  - {claim: m, quantity: acyclic, colour: red}",
        "claims[0].colour: unknown key",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_wrong_claim_is_named_with_file_line_and_key(what: str, tmp_path: Path) -> None:
    claim, message = BAD[what]
    file = tmp_path / "claims.yaml"
    file.write_text(HEAD + claim + "\n")
    with pytest.raises(SpecError) as error:
        read_case(file)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file}:6: ")


def test_a_strategy_that_no_reading_resolves_is_named(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    text = HEAD.replace("EP64_TP2_PP1", "as usual") + "  - {claim: m, quantity: acyclic}\n"
    file.write_text(text)
    with pytest.raises(SpecError, match=r":4: strategy: 'as' in strategy 'as usual' is no degree"):
        read_case(file)


def test_all_wrong_claims_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(HEAD + "\n".join(claim for claim, _ in list(BAD.values())[:5]) + "\n")
    with pytest.raises(SpecError) as error:
        read_case(file)
    assert len(error.value.problems) == 5


def test_a_statement_is_no_term_of_a_figure(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    statement = "  - {claim: m, id: a, quantity: acyclic}\n"
    ratio = '  - {claim: m, quantity: ratio, value: 1, unit: "%", terms: [a, 64 GB]}\n'
    file.write_text(HEAD + statement + ratio)
    with pytest.raises(SpecError, match="the id of an earlier claim with a figure"):
        read_case(file)
