"""Literal numbers: a GiB is 2^30 bytes, a GB is 10^9, and no number goes without a unit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from optimizer import units

BYTES = TypeAdapter(units.Bytes)
BANDWIDTH = TypeAdapter(units.BytesPerSecond)
RATE_OF_WORK = TypeAdapter(units.FlopsPerSecond)
SECONDS = TypeAdapter(units.Seconds)
LATENCY = TypeAdapter(units.Latency)
RATE = TypeAdapter(units.Rate)
WATTS = TypeAdapter(units.Watts)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (BYTES, "80 GiB", 85_899_345_920),
        (BYTES, "64 GB", 64_000_000_000),
        (BYTES, "268.6GiB", 288_407_053_926.4),
        (BYTES, "1 TiB", 1_099_511_627_776),
        (BYTES, "1,024 B", 1024),
        (BANDWIDTH, "450 GB/s", 450e9),
        (BANDWIDTH, "3.35 TB/s", 3.35e12),
        (BANDWIDTH, "1 GiB/s", 1_073_741_824),
        (RATE_OF_WORK, "989 TFLOP/s", 989e12),
        (RATE_OF_WORK, "756.5 TFLOPS", 756.5e12),
        (RATE_OF_WORK, "1.978 PFLOP/s", 1978e12),
        (SECONDS, "50 ms", 0.05),
        (SECONDS, "2s", 2.0),
        (SECONDS, "1.5 min", 90.0),
        (LATENCY, "3 us", 3e-6),
        (LATENCY, "3 µs", 3e-6),
        (LATENCY, "0 us", 0.0),
        (RATE, "20 req/s", 20.0),
        (RATE, "30 /min", 0.5),
        (WATTS, "0.7 kW", 700.0),
    ],
)
def test_a_quantity_reads_as_its_si_value(
    kind: TypeAdapter[float], text: str, value: float
) -> None:
    assert kind.validate_python(text) == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (BYTES, 64, "64 has no unit; write for example '80 GiB'"),
        (BYTES, "64", "'64' has no unit; write for example '80 GiB'"),
        (BYTES, "64 gigs", "unknown unit 'gigs'"),
        (BYTES, "64 GB/s", "unknown unit 'GB/s'"),
        (BYTES, "eighty GiB", "'eighty GiB' is no quantity"),
        (BYTES, "0 GiB", "must be more than zero"),
        (BYTES, "-1 GiB", "must be more than zero"),
        (BYTES, "1e400 GiB", "beyond anything real"),
        (BYTES, "1e9 TB", "'1e9 TB' is beyond anything real"),
        (BYTES, "9" * 1000 + " GB", "is no quantity"),
        (BYTES, "nan GB", "is no quantity"),
        (BYTES, None, "a quantity belongs here"),
        (BYTES, True, "a quantity belongs here"),
        (LATENCY, "-1 us", "must not be negative"),
        (SECONDS, "0 s", "must be more than zero"),
        (RATE, 3, "write for example '20 req/s'"),
    ],
)
def test_what_is_no_quantity_says_what_to_write(
    kind: TypeAdapter[float], value: object, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.validate_python(value)
    assert message in str(caught.value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(min_value=1, max_value=1e15, allow_nan=False))
def test_a_written_quantity_reads_back_as_itself(value: float) -> None:
    assert BYTES.validate_python(units.exact(value, "B")) == value


def test_quantities_are_shown_to_people_with_three_digits() -> None:
    assert units.gib(85_899_345_920) == "80.0 GiB"
    assert units.gib(1_048_576) == "0.000977 GiB"
    assert units.milliseconds(0.01234) == "12.3 ms"
    assert units.milliseconds(12.5) == "12,500 ms"
