"""Collectives against closed forms worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.simulate.collectives import (
    START_S,
    Links,
    Tier,
    collective_seconds,
    ring_all_reduce_seconds,
    tree_all_reduce_seconds,
)

NEAR, FAR = Tier(400e9, 2e-6), Tier(50e9, 10e-6)
LINKS = Links(NEAR, FAR)
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def test_a_ring_between_four_nodes_is_six_messages_of_a_quarter() -> None:
    seconds = 0.0
    for _ in range(2 * (4 - 1)):
        seconds += 10e-6 + (1e7 / 4) / 50e9
    assert ring_all_reduce_seconds(1e7, 4, FAR) == pytest.approx(seconds, rel=1e-12)
    assert collective_seconds("all_reduce", 1e7, 4, 1, LINKS) == pytest.approx(START_S + seconds)


def test_a_large_all_reduce_in_a_domain_sends_twice_seven_eighths() -> None:
    found = collective_seconds("all_reduce", 1e9, 8, 8, LINKS)
    assert found == pytest.approx(2 * 7 / 8 * 1e9 / 400e9, rel=0.01)


def test_a_small_all_reduce_in_a_domain_is_one_exchange() -> None:
    found = collective_seconds("all_reduce", 1e3, 8, 8, LINKS)
    assert found == pytest.approx(START_S + 2e-6 + 7e3 / 400e9)


def test_trees_win_between_many_nodes_when_messages_are_small() -> None:
    assert tree_all_reduce_seconds(1e3, 64, FAR) < ring_all_reduce_seconds(1e3, 64, FAR)
    assert tree_all_reduce_seconds(1e9, 4, FAR) > ring_all_reduce_seconds(1e9, 4, FAR)


def test_an_all_gather_over_two_nodes_crosses_once_and_then_spreads() -> None:
    whole = 16 * 1e6
    far = 10e-6 + 1e6 / 50e9  # one place's share of the other node
    near = 2e-6 + (whole - whole / 8) / 400e9
    found = collective_seconds("all_gather", 1e6, 16, 8, LINKS)
    assert found == pytest.approx(START_S + far + near)


def test_an_all_to_all_is_as_slow_as_its_slower_tier() -> None:
    found = collective_seconds("all_to_all", 16e6, 16, 8, LINKS)
    assert found == pytest.approx(START_S + 10e-6 + 8e6 / 50e9)


def test_the_one_rank_that_lies_elsewhere_holds_an_all_to_all_up() -> None:
    found = collective_seconds("all_to_all", 9e6, 9, 8, LINKS)
    assert found == pytest.approx(START_S + 10e-6 + 8e6 / 50e9)


def test_a_message_inside_a_domain_takes_the_fast_link() -> None:
    assert collective_seconds("send_recv", 4e6, 2, 2, LINKS) == START_S + 2e-6 + 1e-5
    assert collective_seconds("send_recv", 4e6, 2, 1, LINKS) == START_S + 10e-6 + 8e-5


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_alone_sends_nothing(kind: str) -> None:
    assert collective_seconds(kind, 1e6, 1, 1, LINKS) == 0.0


@given(
    kind=st.sampled_from(KINDS),
    payload=st.floats(1.0, 1e9),
    ranks=st.integers(2, 128),
    inside=st.integers(1, 8),
)
def test_more_bytes_and_slower_links_are_never_faster(
    kind: str, payload: float, ranks: int, inside: int
) -> None:
    found = collective_seconds(kind, payload, ranks, inside, LINKS)
    assert collective_seconds(kind, 2 * payload, ranks, inside, LINKS) >= found
    slower = Links(Tier(200e9, 2e-6), Tier(25e9, 10e-6))
    assert collective_seconds(kind, payload, ranks, inside, slower) >= found > START_S


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no collective is called 'gossip'"):
        collective_seconds("gossip", 1.0, 2, 2, LINKS)


THIN = Links(NEAR, FAR, oversubscription=4.0)


def test_an_all_to_all_takes_the_spine_to_other_leaves() -> None:
    found = collective_seconds("all_to_all", 32e6, 32, 8, THIN, 16)
    assert found == pytest.approx(START_S + 16e6 / 12.5e9)
    assert collective_seconds("all_to_all", 32e6, 32, 8, THIN, 32) == pytest.approx(
        collective_seconds("all_to_all", 32e6, 32, 8, LINKS)
    )


def test_eight_rings_leave_a_leaf_over_the_shares_of_its_sixteen_ranks() -> None:
    far = Tier(16 * 12.5e9 / 8, 10e-6)
    found = collective_seconds("all_gather", 1e6, 32, 8, THIN, 16)
    assert found == collective_seconds("all_gather", 1e6, 32, 8, Links(NEAR, far))
    whole = Links(NEAR, FAR, oversubscription=2.0)
    assert collective_seconds("all_reduce", 1e9, 32, 8, whole, 16) == pytest.approx(
        collective_seconds("all_reduce", 1e9, 32, 8, LINKS)
    )


def test_a_message_to_another_leaf_takes_its_share_of_the_spine() -> None:
    assert collective_seconds("send_recv", 4e6, 2, 1, THIN, 1) == pytest.approx(
        START_S + 10e-6 + 4e6 / 12.5e9
    )


def test_other_rails_are_reached_through_the_cheaper_of_spine_and_domain() -> None:
    slow = Tier(50e9, 2e-6)
    railed = Links(slow, FAR, oversubscription=2.0, rails=8)
    found = collective_seconds("all_to_all", 32e6, 32, 8, railed, 32)
    assert found == pytest.approx(START_S + 2e-6 + (7 + 21) * 1e6 / 50e9)
