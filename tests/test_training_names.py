"""Names of training layouts: where DP is what TP, CP and PP leave, and EP a part of the width."""

from __future__ import annotations

import pytest

from optimizer.layout import read_strategy


@pytest.mark.parametrize(
    ("name", "gpus", "canonical"),
    [
        ("TP1_PP4_EP8_DP16", 64, "PP4-EP8-EDP2-DP16"),
        ("TP4_PP16_EP64_DP32", 2048, "PP16-EP64-EDP2-TP4-DP32"),
        ("TP4 PP16 EP64", 2048, "PP16-EP64-EDP2-TP4-DP32"),  # DP is the rest
        ("TP2_CP2_PP2_EP4_DP4", 32, "PP2-EP4-EDP4-TP2-CP2-DP4"),
    ],
)
def test_experts_are_folded_into_the_width_of_a_training_run(
    name: str, gpus: int, canonical: str
) -> None:
    found = read_strategy(name, gpus, has_experts=True, trains=True)
    assert (found[0].layout.name, found[0].layout.gpus) == (canonical, gpus)


def test_serving_has_no_folded_reading() -> None:
    rules = [each.rule for each in read_strategy("TP1_PP4_EP8_DP16", 64, has_experts=True)]
    assert not any("folded" in rule for rule in rules)


def test_the_two_older_readings_hold_before_the_folded_one() -> None:
    """EP64_TP2_PP1 takes 128 GPUs by rule (1) and by folding; rule (1) stands first."""
    found = read_strategy("EP64_TP2_PP1", 128, has_experts=True, trains=True)
    assert found[0].layout.name == "EP64-ETP2-TP2-DP64"
    assert "EP64-EDP2-TP2-DP64" in [each.layout.name for each in found]


def test_experts_that_the_width_does_not_hold_are_not_folded() -> None:
    found = read_strategy("EP16_TP1_PP1_DP1", 16, has_experts=True, trains=True)
    assert not any("folded" in each.rule for each in found)
