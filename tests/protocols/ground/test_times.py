"""Times: RFC 3339 at the edge, nanoseconds inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ground.times import TimeFormatError, format_time, parse_time


@given(st.integers(0, 4 * 10**18))
def test_times_come_back(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.500Z"),
        (1_000, "1970-01-01T00:00:00.000001Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
    ],
)
def test_as_many_digits_as_needed(ns: int, text: str) -> None:
    assert format_time(ns) == text


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01t00:00:01z", 10**9),
        ("1970-01-01 01:00:01+01:00", 10**9),
        ("1970-01-01T00:00:01.1234567899Z", 1_123_456_789),
    ],
)
def test_takes(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1970-01-01",
        "1970-01-01T00:00:00",
        "1970-13-01T00:00:00Z",
        "1970-01-01T00:00Z",
        "1970-01-01T25:00:00Z",
        "x",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(TimeFormatError):
        parse_time(text)
