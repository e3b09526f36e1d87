"""What follows from a change, on either side: which documents are settled or open again, and who hears of it.

Functions of an `Entry`, called within the transaction that changed the totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocols.ground.money import format_amount
from protocols.payment.books import amount_of
from protocols.payment.core.documents import OWNED, Action, follow
from protocols.payment.events import AllocationChanged
from protocols.payment.records import Invoice, Status
from protocols.payment.store import documents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocols.payment.books import Entry
    from protocols.payment.core.ledger import AgreementLedger
    from protocols.payment.records import Allocation, DebitNote, Role, Trouble

_SETTLING = frozenset({Status.ISSUED, Status.RECEIVED, Status.ACCEPTED, Status.FAILED})


def advance(
    entry: Entry, document: DebitNote | Invoice, action: Action, event: str = ""
) -> DebitNote | Invoice:
    """Take a document to the state that an action leads to, log `event` if it moved, and return it.

    Raises:
        WrongState: the action is illegal in its state.
    """
    what = "Invoice" if isinstance(document, Invoice) else "Debit note"
    status = follow(document.status, action, what)
    if status is document.status:
        return document
    entry.set_status(document, status)
    moved = msgspec.structs.replace(document, status=status)
    if event:
        entry.document(moved, event)
    else:
        entry.announce(moved)
    return moved


def announce_allocation(entry: Entry, allocation: Allocation) -> None:
    """Publish what is left of an allocation."""
    entry.publish(
        AllocationChanged(
            owner=allocation.owner,
            allocation_id=allocation.allocation_id,
            platform=allocation.platform,
            remaining=format_amount(allocation.remaining_wei),
            released=allocation.released,
        )
    )


def settle(
    entry: Entry,
    owner: str,
    role: Role,
    agreement_id: str,
    ledger: AgreementLedger,
    activity_ids: Iterable[str],
) -> None:
    """Settle every document that is covered by what is paid now.

    An activity's notes up to what was paid for it; an agreement's invoice when all of it is paid, and with it
    whatever notes it covers. What nobody has accepted counts as covered only where money was asked and paid.
    """
    for activity_id in activity_ids:
        paid = ledger.activities[activity_id].paid
        for note in documents.notes_up_to(entry.c, owner, role, activity_id, paid, _SETTLING):
            _settle(entry, note)
    for invoice in documents.invoices_up_to(
        entry.c, owner, role, agreement_id, ledger.totals.paid, _SETTLING
    ):
        if role == "R" and invoice.status not in OWNED:
            continue
        if _settle(entry, invoice):
            for activity_id in ledger.activities:
                for note in documents.notes_up_to(
                    entry.c, owner, role, activity_id, invoice.amount_wei, _SETTLING
                ):
                    _settle(entry, note)


def reopen(
    entry: Entry,
    owner: str,
    role: Role,
    agreement_id: str,
    ledger: AgreementLedger,
    trouble: Trouble,
) -> None:
    """Open documents again that are not covered any more, and say why."""
    settled: list[DebitNote | Invoice] = [
        d
        for d in documents.debit_notes(entry.c, owner, agreement_id=agreement_id, role=role)
        if d.total_due_wei > ledger.activities[d.activity_id].paid
    ]
    settled += [
        d
        for d in documents.invoices(entry.c, owner, agreement_id=agreement_id, role=role)
        if d.amount_wei > ledger.totals.paid
    ]
    for document in settled:
        if document.status is Status.SETTLED:
            moved = advance(entry, document, Action.REOPEN)
            entry.document(moved, "PAYMENT_EVENT", trouble)


def _settle(entry: Entry, document: DebitNote | Invoice) -> bool:
    if document.status not in OWNED and amount_of(document) == 0:
        return False
    advance(entry, document, Action.SETTLE, "SETTLED")
    return True
