"""Debit notes and invoices, as our own agents and clients handle them: issue, send, cancel, accept, reject.

Peers' messages about documents are answered in `peer_documents`. Every command is one transaction; what must
reach the peer goes into the outbox within it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from p2p.entropy import uuid4
from protocols.ground.money import format_amount
from protocols.payment import wire
from protocols.payment.api import ACK_TIMEOUT
from protocols.payment.core import spending
from protocols.payment.core.documents import OWNED, Action, follow
from protocols.payment.effects import advance, announce_allocation, settle
from protocols.payment.errors import (
    AmountMismatch,
    BadRequest,
    NotFound,
    NotYours,
    PeerRefused,
    WrongState,
)
from protocols.payment.facts import known_agreement
from protocols.payment.messages import MAX_ACTIVITIES, Acceptance, CancelInvoice, RejectInvoice
from protocols.payment.messages import AcceptDebitNote as AcceptDebitNoteMessage
from protocols.payment.messages import AcceptInvoice as AcceptInvoiceMessage
from protocols.payment.records import Status
from protocols.payment.store import allocations, documents, ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.bus import RemoteError
    from protocols.ground.outbox import Item
    from protocols.payment.books import Books, Entry
    from protocols.payment.facts import Facts
    from protocols.payment.records import Agreement, Allocation, DebitNote, Invoice, Rejection

_SECOND_NS: Final = 1_000_000_000
_DEFAULT_DUE_S: Final = 86_400.0
"""When an invoice is due without a negotiated payment timeout."""


class Documents:
    """Commands on documents."""

    def __init__(self, books: Books, facts: Facts) -> None:
        self._books = books
        self._facts = facts
        books.on_delivered["SendDebitNote"] = self._delivered
        books.on_delivered["SendInvoice"] = self._delivered
        books.on_delivered["CancelInvoice"] = self._cancelled
        books.on_refused["CancelInvoice"] = self._not_cancelled

    # --- provider -------------------------------------------------------------------------------------------

    async def issue_debit_note(
        self,
        owner: str,
        *,
        activity_id: str,
        total_due_wei: int,
        usage: Any = None,
        due_ns: int | None = None,
    ) -> DebitNote:
        wire.check_amount(total_due_wei)
        wire.check_usage(usage)
        agreement_id = await self._agreement_of(owner, activity_id)
        facts = await self._facts_of(owner, agreement_id, f"Activity not found: {activity_id}")
        debit_note_id = uuid4(self._books.ctx.entropy)

        def issue(entry: Entry) -> DebitNote:
            kept = ledger.keep_agreement(entry.c, owner, "P", facts, entry.now_ns)
            ledger.keep_activity(entry.c, owner, "P", activity_id, agreement_id, entry.now_ns)
            note = documents.new_debit_note(
                owner,
                "P",
                kept,
                debit_note_id=debit_note_id,
                activity_id=activity_id,
                total_due_wei=total_due_wei,
                timestamp_ns=wire.milliseconds(entry.now_ns),
                status=Status.ISSUED,
                previous_id=documents.last_debit_note_id(entry.c, owner, "P", activity_id),
                usage=usage,
                due_ns=due_ns,
            )
            documents.insert_debit_note(entry.c, note)
            with ledger.changing(entry.c, owner, "P", agreement_id, entry.now_ns) as totals:
                totals.bill_activity(activity_id, total_due_wei)
            entry.announce(note)
            return note

        return await self._books.commit(issue)

    async def issue_invoice(
        self,
        owner: str,
        *,
        agreement_id: str,
        amount_wei: int,
        activity_ids: Sequence[str] = (),
        due_ns: int | None = None,
    ) -> Invoice:
        wire.check_amount(amount_wei)
        if len(activity_ids) > MAX_ACTIVITIES:
            raise BadRequest(f"an invoice lists at most {MAX_ACTIVITIES} activities")
        facts = await self._facts_of(owner, agreement_id, f"Agreement not found: {agreement_id}")
        for activity_id in activity_ids:
            if await self._agreement_of(owner, activity_id) != agreement_id:
                raise BadRequest(f"Activity {activity_id} does not belong to agreement {agreement_id}")
        invoice_id = uuid4(self._books.ctx.entropy)

        def issue(entry: Entry) -> Invoice:
            kept = ledger.keep_agreement(entry.c, owner, "P", facts, entry.now_ns)
            billed = ledger.billed(entry.c, owner, "P", agreement_id)
            if amount_wei < billed:
                raise BadRequest(
                    f"An invoice of {format_amount(amount_wei)} is below the {format_amount(billed)} "
                    "that the agreement's debit notes ask for"
                )
            if ledger.invoice_owned(entry.c, owner, "P", agreement_id):
                raise BadRequest(f"Agreement {agreement_id} has an accepted invoice already")
            for activity_id in activity_ids:
                ledger.keep_activity(entry.c, owner, "P", activity_id, agreement_id, entry.now_ns)
            timeout = kept.payment_timeout_s or _DEFAULT_DUE_S
            invoice = documents.new_invoice(
                owner,
                "P",
                kept,
                invoice_id=invoice_id,
                activity_ids=tuple(activity_ids),
                amount_wei=amount_wei,
                timestamp_ns=wire.milliseconds(entry.now_ns),
                due_ns=entry.now_ns + int(timeout * _SECOND_NS) if due_ns is None else due_ns,
                status=Status.ISSUED,
            )
            documents.insert_invoice(entry.c, invoice)
            with ledger.changing(entry.c, owner, "P", agreement_id, entry.now_ns) as totals:
                totals.bill_agreement(amount_wei)
            entry.announce(invoice)
            return invoice

        return await self._books.commit(issue)

    async def send_debit_note(
        self, owner: str, debit_note_id: str, *, timeout: float | None = ACK_TIMEOUT
    ) -> None:
        note = await self._books.read(lambda c: documents.debit_note(c, owner, debit_note_id, "P"))
        if note is None:
            raise NotFound(f"no debit note {debit_note_id}")
        if note.status is Status.ISSUED:
            await self._send(
                note.peer, wire.debit_note_message(note), _key("send", owner, debit_note_id), timeout
            )

    async def send_invoice(self, owner: str, invoice_id: str, *, timeout: float | None = ACK_TIMEOUT) -> None:
        invoice = await self._books.read(lambda c: documents.invoice(c, owner, invoice_id, "P"))
        if invoice is None:
            raise NotFound(f"no invoice {invoice_id}")
        if invoice.status is Status.ISSUED:
            await self._send(
                invoice.peer, wire.invoice_message(invoice), _key("send", owner, invoice_id), timeout
            )

    async def cancel_invoice(
        self, owner: str, invoice_id: str, *, timeout: float | None = ACK_TIMEOUT
    ) -> None:
        invoice = await self._books.read(lambda c: documents.invoice(c, owner, invoice_id, "P"))
        if invoice is None:
            raise NotFound(f"no invoice {invoice_id}")
        if invoice.status in OWNED:
            raise WrongState("Invoice already accepted", invoice.status.value)
        if invoice.status is Status.CANCELLED:
            return
        try:
            await self._send(
                invoice.peer,
                CancelInvoice(invoice_id, invoice.recipient_id),
                _key("cancel", owner, invoice_id),
                timeout,
            )
        except PeerRefused as refusal:
            if refusal.kind == "conflict":
                raise WrongState(str(refusal), Status.ACCEPTED.value) from refusal
            if refusal.kind != "notFound":
                raise

    # --- requestor ------------------------------------------------------------------------------------------

    async def accept_debit_note(
        self, owner: str, debit_note_id: str, *, amount_wei: int, allocation_id: str
    ) -> None:
        def accept(entry: Entry) -> None:
            note = documents.debit_note(entry.c, owner, debit_note_id)
            if note is None:
                raise NotFound(f"no debit note {debit_note_id}")
            if amount_wei != note.total_due_wei:
                raise AmountMismatch
            follow(note.status, Action.ACCEPT, "Debit note")
            if note.status in OWNED or ledger.invoice_owned(entry.c, owner, "R", note.agreement_id):
                return  # an accepted invoice covers its notes: payment reference §7.1
            allocation = _spendable(entry, owner, allocation_id, note)
            moved = advance(entry, note, Action.ACCEPT, "ACCEPTED")
            with ledger.changing(entry.c, owner, "R", note.agreement_id, entry.now_ns) as totals:
                added = totals.accept_activity(note.activity_id, note.total_due_wei)
                settle(entry, owner, "R", note.agreement_id, totals, [note.activity_id])
            unpromised_ns = entry.now_ns + int(self._books.settings.unpromised_s * _SECOND_NS)
            due_ns = unpromised_ns if note.due_ns is None else note.due_ns
            _spend(entry, allocation, moved, note.activity_id, added, due_ns)
            if note.due_ns is not None:
                allocations.make_payable(entry.c, owner, note.agreement_id, note.activity_id, note.due_ns)
                entry.debts = (
                    True  # also where nothing is added: what was accepted before may be due sooner now
                )
            acceptance = Acceptance(format_amount(note.total_due_wei))
            entry.tell(
                note.issuer_id,
                AcceptDebitNoteMessage(debit_note_id, acceptance, note.issuer_id),
                _key("accept", owner, debit_note_id),
            )

        await self._books.commit(accept)

    async def accept_invoice(
        self, owner: str, invoice_id: str, *, amount_wei: int, allocation_id: str
    ) -> None:
        def accept(entry: Entry) -> None:
            invoice = documents.invoice(entry.c, owner, invoice_id)
            if invoice is None:
                raise NotFound(f"no invoice {invoice_id}")
            if amount_wei != invoice.amount_wei:
                raise AmountMismatch
            follow(invoice.status, Action.ACCEPT, "Invoice")
            if invoice.status in OWNED:
                return
            allocation = _spendable(entry, owner, allocation_id, invoice)
            moved = advance(entry, invoice, Action.ACCEPT, "ACCEPTED")
            with ledger.changing(entry.c, owner, "R", invoice.agreement_id, entry.now_ns) as totals:
                added = totals.accept_agreement(invoice.amount_wei)
                settle(entry, owner, "R", invoice.agreement_id, totals, ())
            _spend(entry, allocation, moved, None, added, invoice.due_ns)
            allocations.make_payable(entry.c, owner, invoice.agreement_id, None, invoice.due_ns)
            entry.debts = True  # also where nothing is added: what was accepted before may be due sooner now
            acceptance = Acceptance(format_amount(invoice.amount_wei))
            entry.tell(
                invoice.issuer_id,
                AcceptInvoiceMessage(invoice_id, acceptance, invoice.issuer_id),
                _key("accept", owner, invoice_id),
            )

        await self._books.commit(accept)

    async def reject_invoice(self, owner: str, invoice_id: str, rejection: Rejection) -> None:
        wire.check_rejection(rejection)

        def reject(entry: Entry) -> None:
            invoice = documents.invoice(entry.c, owner, invoice_id, "R")
            if invoice is None:
                raise NotFound(f"no invoice {invoice_id}")
            moved = advance(entry, invoice, Action.REJECT)
            if moved is invoice:
                return
            entry.document(moved, "REJECTED", rejection)
            entry.tell(
                invoice.issuer_id,
                RejectInvoice(invoice_id, wire.rejection_message(rejection), invoice.issuer_id),
                _key("reject", owner, invoice_id),
            )

        await self._books.commit(reject)

    # --- both -----------------------------------------------------------------------------------------------

    async def _send(self, peer: str, message: msgspec.Struct, key: str, timeout: float | None) -> None:
        async with self._books.replies.expect(peer, key, timeout):
            await self._books.commit(lambda entry: entry.tell(peer, message, key))

    async def _delivered(self, item: Item, reply: bytes) -> None:
        _, owner, document_id = item.key.split(":", 2)

        def delivered(entry: Entry) -> None:
            document = documents.debit_note(entry.c, owner, document_id, "P") or documents.invoice(
                entry.c, owner, document_id, "P"
            )
            if document is not None:
                advance(entry, document, Action.DELIVER, "RECEIVED")

        await self._books.commit(delivered)

    async def _cancelled(self, item: Item, reply: bytes) -> None:
        _, owner, invoice_id = item.key.split(":", 2)

        def cancel(entry: Entry) -> None:
            invoice = documents.invoice(entry.c, owner, invoice_id, "P")
            if invoice is None or invoice.status in OWNED:
                return
            advance(entry, invoice, Action.CANCEL, "CANCELLED")
            with ledger.changing(entry.c, owner, "P", invoice.agreement_id, entry.now_ns) as totals:
                totals.withdraw_invoice(ledger.largest_invoice(entry.c, owner, "P", invoice.agreement_id))

        await self._books.commit(cancel)

    async def _not_cancelled(self, item: Item, error: RemoteError) -> None:
        if error.kind == "notFound":  # what never arrived needs no consent
            await self._cancelled(item, b"")

    async def _agreement_of(self, owner: str, activity_id: str) -> str:
        known = await self._books.read(lambda c: ledger.agreement_of_activity(c, owner, "P", activity_id))
        found = known or await self._facts.agreement_of_activity(activity_id)
        if found is None:
            raise BadRequest(f"Activity not found: {activity_id}")
        return found

    async def _facts_of(self, owner: str, agreement_id: str, unknown: str) -> Agreement:
        """Return an agreement of which `owner` is the provider. Raises BadRequest, NotYours, Unavailable."""
        found = await known_agreement(self._books, self._facts, owner, "P", agreement_id)
        if found is not None:
            return found
        if await self._facts.agreement(owner, "R", agreement_id) is not None:
            raise NotYours(f"{owner} is not the provider of agreement {agreement_id}")
        raise BadRequest(unknown)


def _spendable(entry: Entry, owner: str, allocation_id: str, document: DebitNote | Invoice) -> Allocation:
    allocation = allocations.allocation(entry.c, owner, allocation_id)
    if allocation is None or allocation.released or allocation.timeout_ns <= entry.now_ns:
        raise BadRequest(f"Allocation {allocation_id} not found")
    if document.role != "R":
        raise BadRequest("only the requestor of the agreement can accept this document")
    spending.check_purpose(allocation, document.platform, document.payer_addr)
    return allocation


def _spend(
    entry: Entry,
    allocation: Allocation,
    document: DebitNote | Invoice,
    activity_id: str | None,
    added: int,
    due_ns: int,
) -> None:
    if added == 0:
        return
    spent = msgspec.structs.replace(
        allocation, spent_wei=spending.spend(allocation, added), updated_ns=entry.now_ns
    )
    allocations.update_allocation(entry.c, spent)
    announce_allocation(entry, spent)
    allocations.promise(
        entry.c,
        allocation,
        document.agreement_id,
        activity_id,
        added,
        payable=activity_id is None or document.due_ns is not None,
        due_ns=due_ns,
        now_ns=entry.now_ns,
    )
    entry.debts = True


def _key(what: str, owner: str, document_id: str) -> str:
    """Name a message about a document, so that saying it again replaces what still waits."""
    return f"{what}:{owner}:{document_id}"
