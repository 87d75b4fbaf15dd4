"""Printed figures and units."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from optimizer.audit.amounts import UNITS, printed, show
from optimizer.audit.deriving import Option, products


def test_a_figure_is_as_exact_as_its_digits() -> None:
    for text, half_step in (("57.17", "0.005"), ("1.00", "0.005"), ("128", "0.5"), ("0", "0.5")):
        figure = printed(text)
        assert figure is not None
        assert figure.half_step == Decimal(half_step)
    rounded = printed("576,000")
    assert rounded is not None
    assert rounded.half_step == 500


def test_only_figures_are_figures() -> None:
    for text in ("", "about 5", "1e5", "5 GB", "--5", "."):
        assert printed(text) is None


def test_about_is_within_a_tenth() -> None:
    figure = printed("16")
    assert figure is not None
    assert figure.shows(17.5, about=True)
    assert not figure.shows(17.5)
    assert not figure.shows(17.7, about=True)


@given(st.decimals(min_value=-1000, max_value=1000, places=2))
def test_a_figure_shows_all_that_rounds_to_it(value: Decimal) -> None:
    figure = printed(f"{value:.2f}")
    assert figure is not None
    assert figure.shows(float(value) + 0.0049)
    assert not figure.shows(float(value) + 0.0051)


def test_megabytes_are_read_in_two_ways_and_mebibytes_in_one() -> None:
    assert [scale.size for scale in UNITS["MB"].scales] == [1e6, 2.0**20]
    assert [scale.size for scale in UNITS["MiB"].scales] == [2.0**20]
    assert UNITS["GB"].scales[1].reading == "GB as GiB"


def test_bytes_are_shown_in_both_kinds() -> None:
    assert show(2.0**25, "bytes") == "33,554,432 B = 33.5544 MB = 32 MiB"


def test_products_come_nearest_to_the_word_first() -> None:
    axes = [
        [Option("a", 2, "2"), Option("b", 3, "3")],
        [Option("c", 5, "x 5"), Option("d", 7, "x 7", holds=False)],
    ]
    found = list(products(axes, "count"))
    assert [each.value for each in found] == [10, 14, 15, 21]
    assert [each.departures for each in found] == [(), ("d",), ("b",), ("b", "d")]
    assert [each.holds for each in found] == [True, False, True, False]
    assert found[0].arithmetic == "2 x 5 = 10"
