"""Totals of an agreement: nothing is owed twice, in whatever order bills, acceptances and payments come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.payment.core.ledger import AgreementLedger, LedgerBroken, in_order, sum_totals
from protocols.payment.errors import BadRequest
from protocols.payment.records import Totals

ACTIVITIES = ("x", "y", "z")
AMOUNTS = st.integers(0, 50)


def test_each_note_adds_what_is_new() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 10)
    ledger.bill_activity("x", 30)
    assert ledger.accept_activity("x", 10) == 10
    assert ledger.accept_activity("x", 30) == 20
    assert ledger.accept_activity("x", 10) == 0
    assert ledger.totals == Totals(due=30, accepted=30)


def test_a_lower_note_changes_nothing() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.bill_activity("x", 20)
    assert ledger.totals.due == 30
    ledger.accept_activity("x", 30)
    assert ledger.accept_activity("x", 20) == 0


@pytest.mark.parametrize("note_first", [True, False])
def test_invoice_and_last_note_in_either_order_are_owed_once(note_first: bool) -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.bill_agreement(50)
    if note_first:
        assert ledger.accept_activity("x", 30) + ledger.accept_agreement(50) == 50
    else:
        assert ledger.accept_agreement(50) + ledger.accept_activity("x", 30) == 50
    assert ledger.totals.accepted == 50
    assert not ledger.problems()


def test_an_invoice_below_what_is_accepted_is_refused() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.accept_activity("x", 30)
    with pytest.raises(BadRequest, match="below"):
        ledger.accept_agreement(29)
    assert ledger.totals.accepted == 30


def test_a_cancelled_invoice_leaves_what_the_notes_ask() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.bill_agreement(50)
    ledger.withdraw_invoice(0)
    assert ledger.totals.due == 30


def test_no_more_is_scheduled_than_accepted_or_paid_than_scheduled() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.accept_activity("x", 20)
    with pytest.raises(LedgerBroken):
        ledger.schedule("x", 21)
    with pytest.raises(LedgerBroken):
        ledger.schedule(None, 1 + 20)
    ledger.schedule("x", 20)
    with pytest.raises(LedgerBroken):
        ledger.pay("x", 21)
    with pytest.raises(LedgerBroken):
        ledger.pay("x", -1)
    ledger.pay("x", 20)
    assert ledger.totals == Totals(due=30, accepted=20, scheduled=20, paid=20)


def test_money_that_overtakes_its_acceptance_implies_it() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.bill_agreement(50)
    ledger.receive(None, 20)
    ledger.receive("x", 30)
    assert ledger.totals == Totals(due=50, accepted=50, scheduled=50, paid=50)
    assert ledger.accept_activity("x", 30) == 0


def test_taking_a_payment_back_undoes_it() -> None:
    ledger = AgreementLedger()
    ledger.bill_activity("x", 30)
    ledger.receive("x", 30)
    ledger.take_back("x", 30)
    assert ledger.totals == Totals(due=30, accepted=30)
    assert not ledger.problems()
    with pytest.raises(LedgerBroken):
        ledger.take_back("x", 1)


def test_sums() -> None:
    assert sum_totals([Totals(due=3, accepted=2), Totals(due=4, paid=1)]) == Totals(due=7, accepted=2, paid=1)


class Deal:
    """Both sides of one agreement, with messages that come late, twice and in any order."""

    def __init__(self) -> None:
        self.requestor, self.provider = AgreementLedger(), AgreementLedger()
        self.notes: list[tuple[str, int]] = []
        self.invoice: int | None = None
        self.invoice_accepted = False
        self.to_provider: list[tuple[str | None, int]] = []
        self.spent = 0
        self.waiting: dict[str | None, int] = {}
        self.in_order: list[tuple[str | None, int]] = []
        self.paid: list[tuple[str | None, int]] = []

    def issue(self, activity: str, amount: int) -> None:
        if self.invoice is None:
            self.provider.bill_activity(activity, amount)
            self.notes.append((activity, amount))

    def close(self, extra: int) -> None:
        if self.invoice is None:
            self.invoice = self.provider.totals.due + extra
            self.provider.bill_agreement(self.invoice)

    def accept_note(self, index: int) -> None:
        if self.notes and not self.invoice_accepted:  # an accepted invoice covers its notes
            activity, amount = self.notes[index % len(self.notes)]
            self.requestor.bill_activity(activity, amount)
            self._spend(activity, self.requestor.accept_activity(activity, amount))
            self.to_provider.append((activity, amount))

    def accept_invoice(self) -> None:
        if self.invoice is not None:
            self._spend(None, self.requestor.accept_agreement(self.invoice))
            self.invoice_accepted = True
            self.to_provider.append((None, self.invoice))

    def hear(self, index: int) -> None:
        """An acceptance arrives, not necessarily the first, not necessarily for the first time."""
        if self.to_provider:
            activity, amount = self.to_provider[index % len(self.to_provider)]
            if activity is None:
                self.provider.accept_agreement(max(amount, self.provider.totals.accepted))
            else:
                self.provider.accept_activity(activity, amount)

    def order(self) -> None:
        for activity, amount in self.waiting.items():
            self.requestor.schedule(activity, amount)
            self.in_order.append((activity, amount))
        self.waiting = {}

    def pay(self) -> None:
        if self.in_order:
            activity, amount = self.in_order.pop()
            self.requestor.pay(activity, amount)
            self.paid.append((activity, amount))

    def receive(self, index: int) -> None:
        if self.paid:
            activity, amount = self.paid.pop(index % len(self.paid))
            self.provider.receive(activity, amount)

    def _spend(self, activity: str | None, added: int) -> None:
        self.spent += added
        if added:
            self.waiting[activity] = self.waiting.get(activity, 0) + added

    def check(self) -> None:
        for side in (self.requestor, self.provider):
            assert not side.problems()
        assert self.spent == self.requestor.totals.accepted
        assert self.provider.totals.due >= self.requestor.totals.accepted

    def finish(self) -> None:
        self.order()
        while self.in_order:
            self.pay()
        while self.paid:
            self.receive(0)
        for index in range(len(self.to_provider)):
            self.hear(index)


STEP = st.one_of(
    st.tuples(st.just("issue"), st.sampled_from(ACTIVITIES), AMOUNTS),
    st.tuples(st.just("close"), AMOUNTS),
    st.tuples(st.just("accept_note"), st.integers(0, 20)),
    st.tuples(st.just("accept_invoice")),
    st.tuples(st.just("hear"), st.integers(0, 20)),
    st.tuples(st.just("order")),
    st.tuples(st.just("pay")),
    st.tuples(st.just("receive"), st.integers(0, 20)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_any_interleaving_keeps_the_order_of_totals_and_pays_what_was_accepted(
    steps: list[tuple[object, ...]],
) -> None:
    deal = Deal()
    for name, *arguments in steps:
        before = deal.requestor.totals
        getattr(deal, str(name))(*arguments)
        deal.check()
        now = deal.requestor.totals
        assert (now.accepted, now.scheduled, now.paid) >= (0, 0, 0)
        assert now.accepted >= before.accepted
        assert now.paid >= before.paid
    deal.finish()
    deal.check()
    accepted = deal.requestor.totals.accepted
    assert deal.requestor.totals.paid == accepted
    assert deal.provider.totals.paid == accepted
    assert deal.provider.totals.accepted == accepted
    highest = {a: max((n for b, n in deal.notes if a == b), default=0) for a in ACTIVITIES}
    assert accepted <= max(deal.invoice or 0, sum(highest.values()))
    assert in_order(deal.provider.totals)
