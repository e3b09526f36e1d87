"""Amounts: exact, both ways."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ground.money import WEI, MoneyError, format_amount, linear_price, parse_amount


@given(st.integers(-(10**40), 10**40))
def test_amounts_come_back(wei: int) -> None:
    assert parse_amount(format_amount(wei)) == wei


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("1", WEI),
        ("2.500", 25 * 10**17),
        ("1e-3", 10**15),
        (".5", 5 * 10**17),
        (0.1, 10**17),
        (3, 3 * WEI),
        ("-1", -WEI),
    ],
)
def test_parses(text: str | float, wei: int) -> None:
    assert parse_amount(text) == wei


@pytest.mark.parametrize(
    "text", ["", ".", "e5", "1e", "NaN", "inf", "1_0", "0x1", "1.0000000000000000001", "1e9999", " 1"]
)
def test_refuses(text: str) -> None:
    with pytest.raises(MoneyError):
        parse_amount(text)


def test_formats_without_trailing_zeros() -> None:
    assert [format_amount(w) for w in (0, WEI, WEI // 2, 1, -1)] == [
        "0",
        "1",
        "0.5",
        "0." + "0" * 17 + "1",
        "-0." + "0" * 17 + "1",
    ]


counters = st.floats(0, 1e9, allow_subnormal=False).map(lambda value: float(f"{value:.12g}"))


@given(st.lists(st.tuples(counters, counters), max_size=5), counters)
def test_linear_price_is_the_exact_sum(pairs: list[tuple[float, float]], fixed: float) -> None:
    exact = sum((Fraction(str(c)) * Fraction(str(u)) for c, u in pairs), Fraction(str(fixed))) * WEI
    price = linear_price([*(c for c, _ in pairs), fixed], [u for _, u in pairs])
    assert abs(price - exact) <= Fraction(1, 2)


def test_linear_price_refuses_nonsense() -> None:
    for coefficients, usage in [([1.0], [1.0]), ([float("nan"), 0.0], [1.0]), ([1.0, 0.0], [-1.0])]:
        with pytest.raises(MoneyError):
            linear_price(coefficients, usage)
