"""`/public/payment`, documents: what peers say about debit notes and invoices.

The caller is the NodeId that the session proved. A provider may speak of documents that it issued under its own
agreements, a requestor of documents that it received; anyone else is refused. Each message may come twice and
in any order with others; what contradicts what was said before is refused, and changes nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from p2p.bus import ServiceError
from protocols.payment import wire
from protocols.payment.core.documents import OWNED, Action
from protocols.payment.effects import advance, settle
from protocols.payment.errors import BadRequest, NotFound, NotYours, PaymentError, Unavailable, WrongState
from protocols.payment.facts import known_agreement
from protocols.payment.messages import KIND_BUSY, KIND_RETRY, MAX_ACTIVITIES, Ack, SendDebitNote
from protocols.payment.records import DebitNote, Status
from protocols.payment.store import documents, ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2p.bus import Caller
    from protocols.payment.books import Books, Entry
    from protocols.payment.facts import Facts
    from protocols.payment.messages import (
        AcceptDebitNote,
        AcceptInvoice,
        CancelInvoice,
        RejectInvoice,
        SendInvoice,
    )
    from protocols.payment.records import Agreement, Invoice

MAX_NOTES_OF_ACTIVITY: Final = 100_000
"""A note every two minutes for four months."""
MAX_INVOICES_OF_AGREEMENT: Final = 100


class PeerDocuments:
    """Answers peers' messages about documents."""

    def __init__(self, books: Books, facts: Facts) -> None:
        self._books = books
        self._facts = facts

    # --- from providers -------------------------------------------------------------------------------------

    async def send_debit_note(self, caller: Caller, message: SendDebitNote) -> Ack:
        with answers():
            facts = await self._bill_of(caller, message)
            wire.check_ids(message.debit_note_id, message.activity_id)
            if message.previous_debit_note_id is not None:
                wire.check_ids(message.previous_debit_note_id)
            wire.check_usage(message.usage_counter_vector)
            total = wire.read_amount(message.total_amount_due, "totalAmountDue")
            due_text = message.payment_due_date
            due_ns = None if due_text is None else wire.read_time(due_text, "paymentDueDate")
            await self._check_activities(facts, (message.activity_id,))

            def receive(entry: Entry) -> None:
                owner, now_ns = facts.requestor_id, entry.now_ns
                kept = ledger.keep_agreement(entry.c, owner, "R", facts, now_ns)
                _claim_activity(entry, kept, message.activity_id)
                note = documents.new_debit_note(
                    owner,
                    "R",
                    kept,
                    debit_note_id=message.debit_note_id,
                    activity_id=message.activity_id,
                    total_due_wei=total,
                    timestamp_ns=wire.milliseconds(now_ns),
                    status=Status.RECEIVED,
                    previous_id=message.previous_debit_note_id,
                    usage=message.usage_counter_vector,
                    due_ns=due_ns,
                )
                known = documents.debit_note(entry.c, owner, message.debit_note_id, "R")
                if known is not None:
                    _check_same(_content(known), _content(note))
                    return
                if (
                    documents.count_debit_notes(entry.c, owner, "R", note.activity_id)
                    >= MAX_NOTES_OF_ACTIVITY
                ):
                    raise ServiceError(KIND_BUSY, "too many debit notes of one activity")
                documents.insert_debit_note(entry.c, note)
                with ledger.changing(entry.c, owner, "R", kept.agreement_id, now_ns) as totals:
                    totals.bill_activity(note.activity_id, total)
                entry.document(note, "RECEIVED")

            await self._books.commit(receive)
        return Ack()

    async def send_invoice(self, caller: Caller, message: SendInvoice) -> Ack:
        with answers():
            facts = await self._bill_of(caller, message)
            if len(message.activity_ids) > MAX_ACTIVITIES:
                raise BadRequest(f"an invoice lists at most {MAX_ACTIVITIES} activities")
            wire.check_ids(message.invoice_id, *message.activity_ids)
            amount = wire.read_amount(message.amount, "amount")
            due_ns = wire.read_time(message.payment_due_date, "paymentDueDate")
            await self._check_activities(facts, message.activity_ids)

            def receive(entry: Entry) -> None:
                owner, now_ns = facts.requestor_id, entry.now_ns
                kept = ledger.keep_agreement(entry.c, owner, "R", facts, now_ns)
                for activity_id in message.activity_ids:
                    _claim_activity(entry, kept, activity_id)
                invoice = documents.new_invoice(
                    owner,
                    "R",
                    kept,
                    invoice_id=message.invoice_id,
                    activity_ids=message.activity_ids,
                    amount_wei=amount,
                    timestamp_ns=wire.milliseconds(now_ns),
                    due_ns=due_ns,
                    status=Status.RECEIVED,
                )
                known = documents.invoice(entry.c, owner, message.invoice_id, "R")
                if known is not None:
                    _check_same(_content(known), _content(invoice))
                    return
                earlier = documents.invoices(entry.c, owner, agreement_id=kept.agreement_id, role="R")
                if len(earlier) >= MAX_INVOICES_OF_AGREEMENT:
                    raise ServiceError(KIND_BUSY, "too many invoices of one agreement")
                documents.insert_invoice(entry.c, invoice)
                with ledger.changing(entry.c, owner, "R", kept.agreement_id, now_ns) as totals:
                    totals.bill_agreement(amount)
                entry.document(invoice, "RECEIVED")

            await self._books.commit(receive)
        return Ack()

    async def cancel_invoice(self, caller: Caller, message: CancelInvoice) -> Ack:
        def cancel(entry: Entry) -> None:
            owner = message.recipient_id
            invoice = documents.invoice(entry.c, owner, message.invoice_id, "R")
            if invoice is None:
                raise NotFound(f"no invoice {message.invoice_id}")
            if invoice.issuer_id != caller.node_id:
                raise NotYours("only its issuer can cancel an invoice")
            advance(entry, invoice, Action.CANCEL, "CANCELLED")
            with ledger.changing(entry.c, owner, "R", invoice.agreement_id, entry.now_ns) as totals:
                totals.withdraw_invoice(ledger.largest_invoice(entry.c, owner, "R", invoice.agreement_id))

        with answers():
            wire.check_ids(message.invoice_id)
            await self._books.commit(cancel)
        return Ack()

    # --- from requestors ------------------------------------------------------------------------------------

    async def accept_debit_note(self, caller: Caller, message: AcceptDebitNote) -> Ack:
        def accept(entry: Entry) -> None:
            note = documents.debit_note(entry.c, message.issuer_id, message.debit_note_id, "P")
            if note is None:
                raise NotFound(f"no debit note {message.debit_note_id}")
            _check_answer(caller, note, message.acceptance.total_amount_accepted, note.total_due_wei)
            if note.status in OWNED:
                return
            advance(entry, note, Action.ACCEPT, "ACCEPTED")
            with ledger.changing(entry.c, note.owner, "P", note.agreement_id, entry.now_ns) as totals:
                totals.accept_activity(note.activity_id, note.total_due_wei)
                settle(entry, note.owner, "P", note.agreement_id, totals, [note.activity_id])

        with answers():
            await self._books.commit(accept)
        return Ack()

    async def accept_invoice(self, caller: Caller, message: AcceptInvoice) -> Ack:
        def accept(entry: Entry) -> None:
            invoice = documents.invoice(entry.c, message.issuer_id, message.invoice_id, "P")
            if invoice is None:
                raise NotFound(f"no invoice {message.invoice_id}")
            _check_answer(caller, invoice, message.acceptance.total_amount_accepted, invoice.amount_wei)
            if invoice.status in OWNED:
                return
            advance(entry, invoice, Action.ACCEPT, "ACCEPTED")
            with ledger.changing(entry.c, invoice.owner, "P", invoice.agreement_id, entry.now_ns) as totals:
                # More may be accepted here already: by payments that overtook this message.
                totals.accept_agreement(max(invoice.amount_wei, totals.totals.accepted))
                settle(entry, invoice.owner, "P", invoice.agreement_id, totals, ())

        with answers():
            await self._books.commit(accept)
        return Ack()

    async def reject_invoice(self, caller: Caller, message: RejectInvoice) -> Ack:
        with answers():
            rejection = wire.read_rejection(message.rejection)

            def reject(entry: Entry) -> None:
                invoice = documents.invoice(entry.c, message.issuer_id, message.invoice_id, "P")
                if invoice is None:
                    raise NotFound(f"no invoice {message.invoice_id}")
                if caller.node_id != invoice.recipient_id:
                    raise NotYours("only its recipient can reject an invoice")
                moved = advance(entry, invoice, Action.REJECT)
                if moved is not invoice:
                    entry.document(moved, "REJECTED", rejection)

            await self._books.commit(reject)
        return Ack()

    # --- checks ---------------------------------------------------------------------------------------------

    async def _bill_of(self, caller: Caller, message: SendDebitNote | SendInvoice) -> Agreement:
        """Return the agreement that a bill is under, once its parties and addresses are found to be right."""
        wire.check_ids(message.agreement_id)
        wire.check_addresses(message.issuer_id, message.recipient_id, message.payee_addr, message.payer_addr)
        if caller.node_id != message.issuer_id:
            raise NotYours("only its issuer can send a document")
        if self._books.signer(message.recipient_id) is None:
            raise NotFound(f"{message.recipient_id} is no identity of this node")
        facts = await known_agreement(
            self._books, self._facts, message.recipient_id, "R", message.agreement_id
        )
        if facts is None:
            raise BadRequest(f"Agreement {message.agreement_id} not found")
        if facts.provider_id != message.issuer_id:
            raise NotYours("only the agreement's provider can bill it")
        stated = (message.payment_platform, message.payee_addr, message.payer_addr)
        agreed = (facts.platform, facts.payee_addr, facts.payer_addr)
        if stated != agreed:
            raise BadRequest(f"the document is to be paid by {stated}, the agreement says {agreed}")
        return facts

    async def _check_activities(self, facts: Agreement, activity_ids: tuple[str, ...]) -> None:
        """Refuse activities that ran under another agreement, as far as this node can tell."""
        for activity_id in activity_ids:
            try:
                found = await self._facts.agreement_of_activity(activity_id)
            except Unavailable:
                continue  # a bill is no promise: the requestor's client decides whether to accept it
            if found is not None and found != facts.agreement_id:
                raise BadRequest(f"activity {activity_id} does not belong to {facts.agreement_id}")


def _claim_activity(entry: Entry, facts: Agreement, activity_id: str) -> None:
    ledger.keep_activity(entry.c, facts.requestor_id, "R", activity_id, facts.agreement_id, entry.now_ns)
    if ledger.agreement_of_activity(entry.c, facts.requestor_id, "R", activity_id) != facts.agreement_id:
        raise BadRequest(f"activity {activity_id} was billed under another agreement")


def _check_answer(caller: Caller, document: DebitNote | Invoice, accepted: str, amount: int) -> None:
    if caller.node_id != document.recipient_id:
        raise NotYours("only its recipient can accept a document")
    if wire.read_amount(accepted, "totalAmountAccepted") != amount:
        raise BadRequest("the amount accepted is not the document's")


def _content(document: DebitNote | Invoice) -> tuple[object, ...]:
    """Return what of a document must be the same when it is sent again."""
    if isinstance(document, DebitNote):
        return (
            document.agreement_id,
            document.activity_id,
            document.total_due_wei,
            document.due_ns,
            document.previous_id,
        )
    return document.agreement_id, document.activity_ids, document.amount_wei, document.due_ns


def _check_same(known: tuple[object, ...], stated: tuple[object, ...]) -> None:
    if known != stated:
        raise BadRequest("a different document with this id was received before")


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """Turn our errors into what a peer is answered."""
    try:
        yield
    except WrongState as error:
        raise ServiceError("conflict", str(error)) from error
    except BadRequest as error:
        raise ServiceError("badRequest", str(error)) from error
    except NotYours as error:
        raise ServiceError("forbidden", str(error)) from error
    except NotFound as error:
        raise ServiceError("notFound", str(error)) from error
    except PaymentError as error:  # Unavailable, AccountUnusable: about this node, not about the message
        raise ServiceError(KIND_RETRY, str(error)) from error
