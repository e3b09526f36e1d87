"""The audit: every total computed again from documents, orders and payments, and compared with what is stored.

It trusts documents, order entries, confirmed payments and allocations' expenditures, and questions everything
that was added up. It changes nothing. With the chain's own figures beside it (the wallet's), it shows whether
what we believe we paid has left the wallet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ground.money import format_amount
from protocols.payment.core.documents import OWNED
from protocols.payment.records import Audit, Difference, Status
from protocols.payment.store import allocations, documents, ledger, orders, payments

if TYPE_CHECKING:
    from p2p.storage import Connection
    from protocols.payment.books import Books
    from protocols.payment.core.ledger import AgreementLedger
    from protocols.payment.records import DebitNote, Invoice, LedgerRow, Payment


class Auditor:
    """Audits this node's books."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def audit(self, owner: str | None = None) -> Audit:
        return await self._books.read(lambda c: _audit(c, owner))


def _audit(c: Connection, owner: str | None) -> Audit:
    rows = ledger.agreement_rows(c, owner)
    found: list[Difference] = []
    count_documents = count_payments = 0
    for row in rows:
        notes = documents.debit_notes(c, row.owner, agreement_id=row.agreement_id, role=row.role)
        invoices = documents.invoices(c, row.owner, agreement_id=row.agreement_id, role=row.role)
        paid = [
            payment
            for payment in payments.listing(c, row.owner, agreement_id=row.agreement_id)
            if payment.role == row.role
        ]
        count_documents += len(notes) + len(invoices)
        count_payments += len(paid)
        found += _check_agreement(c, row, notes, invoices, paid)
    for owner_id in sorted({row.owner for row in rows} if owner is None else {owner}):
        found += _check_allocations(c, owner_id)
        found += _check_orders(c, owner_id)
    return Audit(
        agreements=len(rows),
        documents=count_documents,
        payments=count_payments,
        differences=tuple(found),
    )


def _check_agreement(
    c: Connection,
    row: LedgerRow,
    notes: list[DebitNote],
    invoices: list[Invoice],
    paid: list[Payment],
) -> list[Difference]:
    stored = ledger.load(c, row.owner, row.role, row.agreement_id)
    where = f"{row.owner}/{row.role}/{row.agreement_id[:16]}"
    found = [Difference(where, problem, "due ≥ accepted ≥ scheduled ≥ paid") for problem in stored.problems()]
    shares = [share for payment in paid for share in payment.shares if share.agreement_id == row.agreement_id]
    entries = orders.entries(c, row.owner, agreement_id=row.agreement_id) if row.role == "R" else []

    def compare(what: str, has: int, computed: int) -> None:
        if has != computed:
            found.append(Difference(f"{where} {what}", format_amount(has), format_amount(computed)))

    for activity_id, totals in stored.activities.items():
        mine = [note for note in notes if note.activity_id == activity_id]
        paid_wei = sum(share.amount_wei for share in shares if share.activity_id == activity_id)
        accepted = max((note.total_due_wei for note in mine if note.status in OWNED), default=0)
        due = max((note.total_due_wei for note in mine), default=0)
        name = f"activity {activity_id[:16]}"
        compare(f"{name} paid", totals.paid, paid_wei)
        compare(f"{name} due", totals.due, max(due, totals.accepted))
        if row.role == "R":
            # Notes that an invoice settled were never accepted one by one, so this may be below the notes.
            scheduled = sum(e.amount_wei for e in entries if e.activity_id == activity_id)
            compare(f"{name} scheduled", totals.scheduled, scheduled)
            if not any(invoice.status in OWNED for invoice in invoices):
                compare(f"{name} accepted", totals.accepted, accepted)
    compare("paid", stored.totals.paid, sum(share.amount_wei for share in shares))
    compare("due", stored.totals.due, _due(stored, invoices))
    if row.role == "R":
        compare("scheduled", stored.totals.scheduled, sum(entry.amount_wei for entry in entries))
        owned = max((invoice.amount_wei for invoice in invoices if invoice.status in OWNED), default=0)
        accepted = sum(totals.accepted for totals in stored.activities.values())
        compare("accepted", stored.totals.accepted, max(owned, accepted))
        promised = allocations.promised(c, row.owner, row.agreement_id)
        compare("promised by allocations", promised, stored.totals.accepted)
    return found


def _due(stored: AgreementLedger, invoices: list[Invoice]) -> int:
    billed = sum(totals.due for totals in stored.activities.values())
    live = [invoice.amount_wei for invoice in invoices if invoice.status is not Status.CANCELLED]
    return max(billed, stored.totals.accepted, max(live, default=0))


def _check_allocations(c: Connection, owner: str) -> list[Difference]:
    found: list[Difference] = []
    for allocation in allocations.all_allocations(c, owner):
        promised = sum(e.accepted_wei for e in allocations.expenditures(c, allocation.allocation_id))
        if promised != allocation.spent_wei:
            found.append(
                Difference(
                    f"allocation {allocation.allocation_id} spent",
                    format_amount(allocation.spent_wei),
                    format_amount(promised),
                )
            )
    return found


def _check_orders(c: Connection, owner: str) -> list[Difference]:
    found: list[Difference] = []
    for order in orders.orders(c, owner):
        entries = orders.entries(c, owner, order_id=order.order_id)
        total = sum(entry.amount_wei for entry in entries)
        paid = sum(entry.amount_wei for entry in entries if entry.paid)
        for what, has, computed in (("total", order.total_wei, total), ("paid", order.paid_wei, paid)):
            if has != computed:
                found.append(
                    Difference(f"order {order.order_id} {what}", format_amount(has), format_amount(computed))
                )
    return found
