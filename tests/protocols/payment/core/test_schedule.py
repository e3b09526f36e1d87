"""When orders are built: due dates, sums, cycles and cron lines."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.payment.core.orders import Debt
from protocols.payment.core.schedule import (
    SECOND_NS,
    Rule,
    check_interval,
    fire_at,
    longest_gap_s,
    next_end,
)
from protocols.payment.errors import BadRequest


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp()) * SECOND_NS


NOW = at("2026-02-27T10:00:30+00:00")


def debt(*, due_in: float, payable: bool = True, amount: int = 1, payee: str = "0xp") -> Debt:
    return Debt(
        allocation_id="al",
        agreement_id="ag",
        activity_id=None,
        peer="0xpeer",
        payee_addr=payee,
        amount_wei=amount,
        payable=payable,
        due_ns=NOW + int(due_in * SECOND_NS),
        accepted_ns=NOW,
    )


def rule(next_in: float, *, margin: float = 10.0, enough: int | None = None) -> Rule:
    return Rule(next_ns=NOW + int(next_in * SECOND_NS), margin_s=margin, enough_wei=enough)


def test_nothing_to_pay_fires_never() -> None:
    assert fire_at([], rule(5), NOW) is None


def test_the_cycle_bounds_waiting() -> None:
    assert fire_at([debt(due_in=1000)], rule(60), NOW) == NOW + 60 * SECOND_NS


def test_a_due_date_within_the_cycle_brings_payment_forward() -> None:
    assert fire_at([debt(due_in=1000), debt(due_in=40)], rule(60), NOW) == NOW + 30 * SECOND_NS


def test_a_due_date_that_cannot_be_met_fires_at_once() -> None:
    fired = fire_at([debt(due_in=5)], rule(60), NOW)
    assert fired is not None
    assert fired <= NOW


def test_enough_together_fires_at_once() -> None:
    debts = [debt(due_in=1000, amount=6), debt(due_in=1000, amount=4)]
    assert fire_at(debts, rule(60, enough=10), NOW) == NOW
    assert fire_at(debts, rule(60, enough=11), NOW) == NOW + 60 * SECOND_NS


def test_a_debt_without_a_promise_waits_its_time() -> None:
    assert fire_at([debt(due_in=500, payable=False)], rule(60), NOW) == NOW + 500 * SECOND_NS


@given(st.integers(5, 100_000), st.integers(0, 10**9))
def test_cycle_ends_are_on_the_grid_and_ahead(interval: int, passed_s: int) -> None:
    last, now = NOW, NOW + passed_s * SECOND_NS
    end = next_end(float(interval), None, last, now)
    assert now < end <= now + interval * SECOND_NS
    assert (end - last) % (interval * SECOND_NS) == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* * * * *", "2026-02-27T10:01:00+00:00"),
        ("0 0 * * *", "2026-02-28T00:00:00+00:00"),
        ("0 0 0 * * *", "2026-02-28T00:00:00+00:00"),
        ("*/15 10-11 * * *", "2026-02-27T10:15:00+00:00"),
        ("30 9 1 * *", "2026-03-01T09:30:00+00:00"),
        ("0 12 * * 1", "2026-03-02T12:00:00+00:00"),
        ("0 12 * * 0,7", "2026-03-01T12:00:00+00:00"),
        ("0 0 13 * 5", "2026-03-06T00:00:00+00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00+00:00"),
    ],
)
def test_cron_lines(line: str, expected: str) -> None:
    assert next_end(None, line, NOW, NOW) == at(expected)


@pytest.mark.parametrize(
    "line", ["", "* * * *", "60 * * * *", "a * * * *", "*/0 * * * *", "0 0 30 2 *", "5-1 * * * *"]
)
def test_cron_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises(BadRequest):
        next_end(None, line, NOW, NOW)


def test_neither_interval_nor_cron() -> None:
    with pytest.raises(BadRequest):
        next_end(None, None, NOW, NOW)


def test_longest_gap() -> None:
    assert longest_gap_s("0 0 * * *", NOW) == 86_400
    assert longest_gap_s("0 8,20 * * *", NOW) == 43_200
    assert longest_gap_s("0 8,9 * * *", NOW) == 23 * 3600


def test_intervals_within_reason() -> None:
    check_interval(5.0)
    for bad in (4.9, 0.0, -1.0, 1e9, float("nan")):
        with pytest.raises(BadRequest):
            check_interval(bad)
