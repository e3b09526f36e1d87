"""The totals of one agreement on one side, and the arithmetic of bills, acceptances and payments.

Per activity and for the whole agreement: due ≥ accepted ≥ scheduled ≥ paid ≥ 0. The agreement's totals contain
its activities'; what is over is the invoice's own part. Debit notes are cumulative per activity, an invoice is
for the whole agreement, so each acceptance adds only what is not accepted yet: in whatever order notes and
invoice come, and however often, nothing is owed twice.

All amounts are wei. The class mutates itself and does no I/O; the store loads and saves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocols.payment.errors import BadRequest
from protocols.payment.records import Totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class LedgerBroken(Exception):
    """An operation would break the order of the totals: a fault of ours, and never carried out."""


class AgreementLedger:
    """One agreement's totals."""

    def __init__(
        self,
        totals: Totals | None = None,
        activities: Mapping[str, Totals] | None = None,
        *,
        invoice_wei: int = 0,
    ) -> None:
        self.totals = totals or Totals()
        self.activities = dict(activities or {})
        self.invoice_wei = invoice_wei
        """The largest invoice that was not cancelled; 0 without one."""

    def bill_activity(self, activity_id: str, amount: int) -> None:
        """Note a debit note of `amount`; one that is lower than an earlier one changes nothing."""
        old = self.activities.get(activity_id, Totals())
        self.activities[activity_id] = _with(old, due=max(old.due, amount))
        self._refresh_due()

    def bill_agreement(self, amount: int) -> None:
        """Note an invoice of `amount`."""
        self.invoice_wei = max(self.invoice_wei, amount)
        self._refresh_due()

    def withdraw_invoice(self, remaining_wei: int) -> None:
        """Forget a cancelled invoice; `remaining_wei` is the largest that is left, or 0."""
        self.invoice_wei = remaining_wei
        self._refresh_due()

    def accept_activity(self, activity_id: str, amount: int) -> int:
        """Own to a debit note, and return what that adds to the debt.

        Nothing, if as much is accepted already: by a higher note, or by an invoice over the whole.
        """
        old = self.activities.get(activity_id, Totals())
        accepted = max(old.accepted, amount)
        self.activities[activity_id] = _with(old, due=max(old.due, accepted), accepted=accepted)
        return self._refresh_accepted()

    def accept_agreement(self, amount: int) -> int:
        """Own to an invoice, and return what that adds to the debt.

        Raises:
            BadRequest: more than `amount` is accepted already.
        """
        if amount < self.totals.accepted:
            raise BadRequest("The invoice's amount is below what is accepted under its agreement already")
        self.bill_agreement(amount)
        return self._refresh_accepted(amount)

    def schedule(self, activity_id: str | None, amount: int) -> None:
        """Put `amount` of what is accepted into an order; None means the invoice's part."""
        self._move(activity_id, "scheduled", amount)

    def pay(self, activity_id: str | None, amount: int) -> None:
        """Count `amount` of what is scheduled as paid: the payer's side."""
        self._move(activity_id, "paid", amount)

    def receive(self, activity_id: str | None, amount: int) -> None:
        """Count `amount` as paid to us: the payee's side.

        Money that arrives implies that it was owned to and sent, whether or not we were told, and even where
        we never asked for as much.
        """
        if activity_id is not None:
            self.activities[activity_id] = _received(self.activities.get(activity_id, Totals()), amount)
        self.totals = _received(self.totals, amount)
        self._refresh_accepted()

    def take_back(self, activity_id: str | None, amount: int) -> None:
        """Undo `receive`: the payment vanished from the chain. What it implied stays accepted."""
        if activity_id is not None:
            self._give_back(activity_id, amount)
        if self.totals.paid < amount:
            raise LedgerBroken(f"cannot take back {amount} of {self.totals.paid} wei paid")
        paid = self.totals.paid - amount
        self.totals = _with(self.totals, paid=paid, scheduled=paid)

    def problems(self) -> list[str]:
        """Return how the totals contradict each other; nothing if all is well."""
        named = [("agreement", self.totals), *self.activities.items()]
        found = [f"{name}: {totals}" for name, totals in named if not in_order(totals)]
        found.extend(
            f"{column}: the agreement has {getattr(self.totals, column)}, its activities {self._sum(column)}"
            for column in ("due", "accepted", "scheduled", "paid")
            if getattr(self.totals, column) < self._sum(column)
        )
        return found

    def _give_back(self, activity_id: str, amount: int) -> None:
        old = self.activities[activity_id]
        if old.paid < amount:
            raise LedgerBroken(f"cannot take back {amount} of {old.paid} wei paid for {activity_id}")
        self.activities[activity_id] = _with(old, paid=old.paid - amount, scheduled=old.paid - amount)

    def _move(self, activity_id: str | None, column: str, amount: int) -> None:
        if activity_id is not None:
            old = self.activities.get(activity_id, Totals())
            self.activities[activity_id] = _checked(_plus(old, column, amount), activity_id)
        self.totals = _checked(_plus(self.totals, column, amount), "agreement")

    def _refresh_accepted(self, at_least: int = 0) -> int:
        before = self.totals.accepted
        accepted = max(before, at_least, self._sum("accepted"))
        self.totals = _with(self.totals, accepted=accepted)
        self._refresh_due()
        return accepted - before

    def _refresh_due(self) -> None:
        due = max(self.invoice_wei, self._sum("due"), self.totals.accepted)
        self.totals = _with(self.totals, due=due)

    def _sum(self, column: str) -> int:
        return sum(getattr(totals, column) for totals in self.activities.values())


def in_order(totals: Totals) -> bool:
    """Return whether due ≥ accepted ≥ scheduled ≥ paid ≥ 0."""
    return totals.due >= totals.accepted >= totals.scheduled >= totals.paid >= 0


def settled(amount: int, paid: int) -> bool:
    """Return whether a document of `amount` is settled when `paid` was paid for what it is about."""
    return paid >= amount


def sum_totals(totals: Iterable[Totals]) -> Totals:
    """Add totals up, column by column."""
    due = accepted = scheduled = paid = 0
    for one in totals:
        due += one.due
        accepted += one.accepted
        scheduled += one.scheduled
        paid += one.paid
    return Totals(due=due, accepted=accepted, scheduled=scheduled, paid=paid)


def _with(totals: Totals, **columns: int) -> Totals:
    return msgspec.structs.replace(totals, **columns)


def _plus(totals: Totals, column: str, amount: int) -> Totals:
    if amount < 0:
        raise LedgerBroken(f"{column} cannot grow by {amount}")
    return _with(totals, **{column: getattr(totals, column) + amount})


def _checked(totals: Totals, what: str) -> Totals:
    if not in_order(totals):
        raise LedgerBroken(f"{what} would have {totals}")
    return totals


def _received(totals: Totals, amount: int) -> Totals:
    if amount < 0:
        raise LedgerBroken(f"cannot receive {amount}")
    paid = totals.paid + amount
    accepted = max(totals.accepted, paid)
    return Totals(due=max(totals.due, accepted), accepted=accepted, scheduled=paid, paid=paid)
