"""Figures that no reading gives: how many sums print them, and how many would by chance."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from optimizer.audit.amounts import printed
from optimizer.audit.case import Case
from optimizer.audit.job import audit
from optimizer.audit.quantities import census as module
from optimizer.audit.quantities.census import census, round_shares
from optimizer.audit.reading import read_case
from optimizer.spec.linears import total_parameters

CASES = Path(__file__).parents[2] / "configs" / "cases"
GB = (1e9, 1024.0**3)


@pytest.fixture(scope="module")
def case() -> Case:
    return read_case(CASES / "e" / "claims.yaml")


def test_report_e_is_met_by_no_more_sums_than_chance_would_have(case: Case) -> None:
    figure = printed("114.53")
    assert figure is not None
    found = census(case, figure, GB)
    assert found.tried > 100_000
    assert found.hits <= 3 * found.by_chance  # a reading that is meant would stand out


def test_the_need_of_report_e_is_four_thirds_of_its_capacity(case: Case) -> None:
    """4/3 x 80 GiB = 114.53 GB: computed back from the 133.33 %; 114.53 GB stay unverifiable."""
    (finding,) = (
        each
        for each in audit([CASES / "e" / "claims.yaml"]).findings
        if each.claim.startswith("114.53")
    )
    assert finding.verdict == "unverifiable"
    assert any(reading.startswith("4/3 of 80 GiB") for reading in finding.readings)
    assert "114,532,461,227 B" in finding.arithmetic
    assert "sums were tried" in finding.arithmetic
    assert all(not each.holds for each in round_shares(case))


def test_chance_is_what_random_figures_meet(case: Case) -> None:
    """Over figures near the report's, hits and expected hits come to the same."""
    hits = expected = 0.0
    for cents in range(10_900, 12_000, 37):
        figure = printed(f"{cents / 100:.2f}")
        assert figure is not None
        found = census(case, figure, GB)
        hits += found.hits
        expected += found.by_chance
    assert hits == pytest.approx(expected, rel=0.25)


def test_a_sum_of_the_reports_own_is_among_those_tried(case: Case) -> None:
    """18 B a parameter of a GPU's share and one hidden state of the whole batch a layer."""
    states = 18 * total_parameters(case.model) / case.layout.gpus
    kept = 128 * 1024 * case.model.hidden_size * 2 * 16
    figure = printed(f"{(states + kept) / 1e9:.6f}")
    assert figure is not None
    assert census(case, figure, GB).hits >= 1


def test_the_census_counts_what_plain_loops_count(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two terms of a kind, two margins, by hand."""
    monkeypatch.setattr(module, "_states", lambda case: {1e9, 2e9})
    monkeypatch.setattr(module, "_activations", lambda case: {3e9, 5e9})
    monkeypatch.setattr(module, "_scores", lambda case: set())
    monkeypatch.setattr(module, "_cache", lambda case: {8e9})
    monkeypatch.setattr(module, "MARGINS", (1.0, 2.0))
    sums = {sum(pick) for pick in product((0.0, 1e9, 2e9), (0.0, 3e9, 5e9), (0.0, 8e9))}
    figure = printed("8.0")
    assert figure is not None
    hits = sum(abs(total * margin / 1e9 - 8.0) <= 0.05 for total in sums for margin in (1, 2))
    assert census(case, figure, (1e9,))[:2] == (2 * len(sums), hits)
