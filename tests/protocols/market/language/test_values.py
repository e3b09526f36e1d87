"""How texts are read as numbers, decimals, versions, instants and lists, and how those order."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.market.language.values import (
    Instant,
    read_boolean,
    read_decimal,
    read_instant,
    read_list,
    read_number,
    read_version,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        ("5.0", 5),
        ("+5", 5),
        (".5", 0.5),
        ("5.", 5),
        ("5e0", 5),
        ("1E-2", 0.01),
        ("1e400", math.inf),
        ("-inf", -math.inf),
        ("Infinity", math.inf),
    ],
)
def test_numbers(text: str, number: float) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    "text", ["", " 5", "5 ", "1_0", "0x5", ".", "e5", "1e", "--1", "5f", "\u0665", "infi"]
)
def test_no_numbers(text: str) -> None:
    assert read_number(text) is None


def test_nan_is_a_number() -> None:
    number = read_number("NaN")
    assert number is not None
    assert math.isnan(number)


@given(st.floats(allow_nan=False))
def test_every_float_reads_back(number: float) -> None:
    assert read_number(repr(number)) == number


def test_booleans_are_lower_case() -> None:
    assert read_boolean("true") is True
    assert read_boolean("false") is False
    assert read_boolean("True") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.30", "0.3"), ("5.", "5"), (".5", "0.5"), ("+5", "5"), ("1e5", "100000"), ("1E-2", "0.01")],
)
def test_decimals(text: str, value: str) -> None:
    assert read_decimal(text) == Decimal(value)


NO_DECIMALS = (*("", ".", "NaN", "Infinity", "1_0", " 1", "12sasd3", "1e", "1e9999999999999999999", ".+1"),)


@pytest.mark.parametrize("text", NO_DECIMALS)
def test_no_decimals(text: str) -> None:
    assert read_decimal(text) is None


def test_decimals_have_any_precision() -> None:
    below, above = read_decimal("0." + "3" * 400), read_decimal("0." + "3" * 399 + "4")
    assert below is not None
    assert above is not None
    assert below < above


ASCENDING = (
    # SemVer 2.0.0 section 11 gives most of these.
    *("0.0.0-0", "0.0.0", "0.9.0", "0.10.0", "1.0.0-0", "1.0.0-2", "1.0.0-10", "1.0.0-18446744073709551616"),
    *("1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"),
    *("1.0.0-rc.1", "1.0.0-rc-1", "1.0.0", "1.0.1", "2.0.0", "18446744073709551615.0.0"),
)


def test_versions_order() -> None:
    versions = [read_version(text) for text in ASCENDING]
    precedences = [version.precedence for version in versions if version]
    assert len(precedences) == len(ASCENDING)
    assert precedences == sorted(precedences)
    assert len(set(precedences)) == len(precedences)


def test_build_metadata_does_not_count() -> None:
    plain, built = read_version("1.0.0"), read_version("1.0.0+build.05")
    assert plain == built
    assert hash(plain) == hash(built)
    assert plain != "1.0.0"


NO_VERSIONS = (
    *("1.0", "1", "", "01.0.0", "1.0.0-", "1.0.0+", "1.0.0-01", "1.0.0-a..b", "1.0.0+a..b"),
    *(" 1.0.0", "v1.0.0", "1.0.0.0", "18446744073709551616.0.0", "99999999999999999999999.0.0"),
    *("1.0.0-é",),
)


@pytest.mark.parametrize("text", NO_VERSIONS)
def test_no_versions(text: str) -> None:
    assert read_version(text) is None


@pytest.mark.parametrize(
    ("text", "seconds", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1985-04-12T23:20:50.52Z", 482196050, 520_000_000),
        ("1996-12-19T16:39:57-07:00", 851038797, 0),
        ("1996-12-19t16:39:57\u221207:00", 851038797, 0),
        ("2020-01-01 00:00:00z", 1577836800, 0),
        ("2016-12-31T23:59:60Z", 1483228799, 1_000_000_000),
        ("0000-01-01T00:00:00+01:00", -62167222800, 0),
        ("2020-02-29T00:00:00.1234567899Z", 1582934400, 123_456_789),
    ],
)
def test_instants(text: str, seconds: int, nanoseconds: int) -> None:
    assert read_instant(text) == Instant(seconds, nanoseconds)


NO_INSTANTS = (
    *("2020-01-01", "2020-01-01T00:00:00", "2020-13-01T00:00:00Z", "2021-02-29T00:00:00Z"),
    *("2020-01-01T24:00:00Z", "1900-02-29T00:00:00Z", "2020-01-01T00:60:00Z"),
    *("2020-01-01T00:00:61Z", "2020-01-01T00:00:00+24:00", "2020-01-01T00:00:00+01:60"),
    *("2020-01-01T00:00:00+0100", "2020-01-01T00:00:00.Z", "2020-1-1T00:00:00Z", ""),
    *("2020-00-01T00:00:00Z", "2020-01-00T00:00:00Z"),
)


@pytest.mark.parametrize("text", NO_INSTANTS)
def test_no_instants(text: str) -> None:
    assert read_instant(text) is None


@given(st.datetimes(timezones=st.just(UTC)))
def test_instants_agree_with_datetime(moment: datetime) -> None:
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    expected = Instant(since_epoch.days * 86_400 + since_epoch.seconds, moment.microsecond * 1000)
    assert read_instant(moment.isoformat()) == expected


def test_long_texts_are_read_too() -> None:
    version, instant = read_version("1.0.0-" + "x" * 1000), read_instant(f"2020-01-01T00:00:00.{'5' * 1000}Z")
    assert version is not None
    assert instant == Instant(1577836800, 555_555_555)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[]", ()),
        ("[a]", ("a",)),
        ("[a,b]", ("a", "b")),
        ("[a,  b]", ("a", "b")),
        ("[ a ]", ("a ",)),
        ("[a ,b]", ("a ", "b")),
        ("[a b,1]", ("a b", "1")),
    ],
)
def test_lists(text: str, items: tuple[str, ...]) -> None:
    assert read_list(text) == items


NO_LISTS = (
    *("", "a", "[", "]", "[ ]", "[a", "a]", "[a,]", "[,a]", "[a,,b]", "[a]b", " [a]", "[[a]]"),
    *("[a[b]",),
)


@pytest.mark.parametrize("text", NO_LISTS)
def test_no_lists(text: str) -> None:
    assert read_list(text) is None
