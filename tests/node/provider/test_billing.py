"""When debit notes are due, and when they are payable."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.provider.billing import DEFAULT_PAYMENT_DELAY, Terms
from node.provider.negotiators import COEFFICIENTS, NOTE_INTERVAL, PAYMENT_TIMEOUT
from protocols.ground.money import WEI
from protocols.ground.times import SECOND


def terms(**changes: object) -> Terms:
    return Terms.of(
        {COEFFICIENTS: [0.5, 0.25, 1.0], **changes}, approved_ns=1000 * SECOND, default_interval=120.0
    )


def test_prices_by_usage_and_start() -> None:
    assert terms().price([2.0, 4.0]) == 3 * WEI


@given(st.integers(0, 10**13))
def test_notes_are_due_on_the_grid_from_approval(now: int) -> None:
    t = terms(**{NOTE_INTERVAL: 60})
    due = t.next_note_ns(now)
    assert due > now
    assert (due - t.approved_ns) % (60 * SECOND) == 0
    assert due - max(now, t.approved_ns) <= 60 * SECOND


def test_payable_only_after_the_payment_timeout() -> None:
    t = terms(**{PAYMENT_TIMEOUT: 300})
    assert t.note_due_ns(1200 * SECOND, 1000 * SECOND, final=False) is None
    assert t.note_due_ns(1300 * SECOND, 1000 * SECOND, final=False) == 1600 * SECOND
    assert t.note_due_ns(1001 * SECOND, 1000 * SECOND, final=True) == 1301 * SECOND
    assert terms().note_due_ns(10**15, 0, final=True) is None


def test_invoices_are_due_in_a_day_or_as_agreed() -> None:
    assert terms().invoice_due_ns(0) == DEFAULT_PAYMENT_DELAY * SECOND
    assert terms(**{PAYMENT_TIMEOUT: 300}).invoice_due_ns(0) == 300 * SECOND
