"""A bill cannot be more than what we saw, and honest bills always fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.requestor.bills import ROOM, SLACK, estimate, most_owed, owed_each_second, price_of_hour
from protocols.ground.money import WEI, linear_price

OFFER: dict[str, Any] = {
    "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
    "golem.com.pricing.model.linear.coeffs": [0.001, 0.01, 0.5],
    "golem.inf.cpu.threads": 2,
}


@given(st.floats(0, 10_000), st.floats(0, 1), st.integers(1, 5))
def test_honest_bills_fit(seconds: float, busy: float, activities: int) -> None:
    duration = round(seconds, 3)
    cpu = round(duration * 2 * busy, 3)
    honest = linear_price([0.001, 0.01, 0.0], [duration, cpu]) + activities * WEI // 2
    assert honest <= most_owed(OFFER, seconds + 0.001, activities)


def test_twice_the_time_does_not() -> None:
    seconds = 1000.0
    double = linear_price([0.001, 0.01, 0.5], [2 * seconds, 4 * seconds])
    assert double > most_owed(OFFER, seconds, 1)
    limit = linear_price([0.001, 0.01, 0.5], [seconds * ROOM + SLACK, 2 * (seconds * ROOM + SLACK)])
    assert most_owed(OFFER, seconds, 1) == limit


@given(st.floats(0, 1000), st.integers(0, 300))
def test_a_time_that_nobody_measured_is_covered(seconds: float, unseen: int) -> None:
    later = most_owed(OFFER, seconds, 1) + owed_each_second(OFFER) * unseen
    honest = linear_price([0.001, 0.01, 0.5], [round(seconds, 3) + unseen, 2 * (round(seconds, 3) + unseen)])
    assert honest <= later
    assert later <= most_owed(OFFER, seconds + unseen + 0.001, 1) + WEI // 10**9


def test_nothing_was_started_nothing_is_owed() -> None:
    assert most_owed(OFFER, 100.0, 0) == estimate(OFFER, 100.0, 0) == 0


def test_the_estimate_is_one_busy_thread() -> None:
    assert estimate(OFFER, 100.0, 2) == linear_price([0.001, 0.01, 0.0], [100.0, 100.0]) + WEI


@pytest.mark.parametrize(
    ("change", "price"),
    [
        ({}, 0.001 * 3600 + 0.01 * 3600 + 0.5),
        ({"golem.com.usage.vector": "x"}, None),
        ({"golem.com.pricing.model.linear.coeffs": [1.0]}, None),
        ({"golem.com.pricing.model.linear.coeffs": ["a", 0.0, 0.0]}, None),
        ({"golem.com.pricing.model.linear.coeffs": [-1.0, 0.0, 0.0]}, None),
    ],
)
def test_price_of_an_hour(change: dict[str, Any], price: float | None) -> None:
    found = price_of_hour({**OFFER, **change})
    assert found is None if price is None else found == pytest.approx(price)
