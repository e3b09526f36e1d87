"""Catching up: what a provider may have missed while it was away, or lost with its disk's last second.

The outbox delivers what one side knows it owes the other. What it cannot know is that a message was taken and then
lost; so a provider that starts asks those requestors who still owe it an answer or money, and they say again
all that is open between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from p2p import codec
from p2p.bus import ServiceError
from protocols.ground.money import format_amount
from protocols.payment import wire
from protocols.payment.messages import (
    MAX_SYNC_ITEMS,
    RETRYABLE_KINDS,
    Acceptance,
    AcceptDebitNote,
    AcceptInvoice,
    Ack,
    PaymentSync,
    PaymentSyncNeeded,
    RejectInvoice,
    SendPayment,
    SyncError,
    SyncResult,
)
from protocols.payment.payout import send_receipt
from protocols.payment.peer_documents import answers
from protocols.payment.records import Status
from protocols.payment.store import documents, events, payments

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2p.bus import Caller
    from p2p.storage import Connection
    from protocols.ground.outbox import Item
    from protocols.payment.books import Books, Entry
    from protocols.payment.peer_documents import PeerDocuments
    from protocols.payment.verification import Verification

M = TypeVar("M")

_LEAST_PAUSE_S: Final = 30.0
"""A peer that asks more often is answered once in this time."""
_MOST_ASKERS: Final = 10_000
_SYNC_KEY: Final = "sync"
_MAX_PAYMENTS: Final = 50
"""Payments said again at most: the newest, each of up to half a megabyte of shares."""


class Sync:
    """Asks, tells and hears what is open between two nodes."""

    def __init__(self, books: Books, peer_documents: PeerDocuments, verification: Verification) -> None:
        self._books = books
        self._documents = peer_documents
        self._verification = verification
        self._told: dict[str, float] = {}
        books.on_delivered["PaymentSync"] = self._delivered

    async def ask(self) -> None:
        """Ask every requestor that owes us something to say what it has accepted and paid."""

        def ask(entry: Entry) -> None:
            for owner in documents.providers(entry.c):
                for peer in documents.open_peers(entry.c, owner):
                    entry.tell(peer, PaymentSyncNeeded(peer), f"{_SYNC_KEY}-needed:{owner}")

        await self._books.commit(ask)

    async def sync_needed(self, caller: Caller, message: PaymentSyncNeeded) -> Ack:
        """Answer a provider: all that is open comes in a message of its own."""
        with answers():
            wire.check_addresses(message.recipient_id)
        now = self._books.ctx.clock.monotonic()
        if now - self._told.get(caller.node_id, -_LEAST_PAUSE_S) < _LEAST_PAUSE_S:
            return Ack()
        if len(self._told) >= _MOST_ASKERS:
            self._told.clear()
        self._told[caller.node_id] = now

        def tell(entry: Entry) -> None:
            message_ = _all_open(entry.c, message.recipient_id, caller.node_id)
            if message_ != PaymentSync():
                entry.tell(caller.node_id, message_, f"{_SYNC_KEY}:{message.recipient_id}")

        await self._books.commit(tell)
        return Ack()

    async def sync(self, caller: Caller, message: PaymentSync) -> SyncResult:
        """Take each entry of a requestor's message on its own."""
        errors: list[SyncError] = []

        async def take(what: str, handler: Callable[[Caller, M], Awaitable[Ack]], entry: M) -> None:
            try:
                await handler(caller, entry)
            except ServiceError as error:
                errors.append(SyncError(what[:200], error.kind, error.message))

        lists = (
            message.debit_note_accepts,
            message.invoice_accepts,
            message.invoice_rejects,
            message.payments,
        )
        if any(len(entries) > MAX_SYNC_ITEMS for entries in lists):
            raise ServiceError("badRequest", f"a sync has at most {MAX_SYNC_ITEMS} entries of a kind")
        for note in message.debit_note_accepts:
            await take(note.debit_note_id, self._documents.accept_debit_note, note)
        for rejected in message.invoice_rejects:
            await take(rejected.invoice_id, self._documents.reject_invoice, rejected)
        for accepted in message.invoice_accepts:
            await take(accepted.invoice_id, self._documents.accept_invoice, accepted)
        for payment in message.payments:
            await take(_payment_id(payment), self._verification.send_payment, payment)
        return SyncResult(tuple(errors))

    async def _delivered(self, item: Item, reply: bytes) -> None:
        """Say again, each on its own, the payments that the payee could not look up now."""
        try:
            result = codec.decode(reply, SyncResult)
        except codec.CodecError as error:
            self._books.ctx.log.warning("peer answered a sync badly", peer=item.peer, error=str(error))
            return
        again = {error.what for error in result.errors if error.kind in RETRYABLE_KINDS}
        owner = item.key.partition(":")[2]

        def repeat(entry: Entry) -> None:
            for payment in payments.made_to(entry.c, owner, item.peer, _MAX_PAYMENTS):
                if payment.payment_id in again:
                    send_receipt(entry, payment)

        if again:
            await self._books.commit(repeat)


def _all_open(c: Connection, owner: str, provider_id: str) -> PaymentSync:
    notes, invoices = documents.answered(c, owner, provider_id, MAX_SYNC_ITEMS)
    return PaymentSync(
        payments=tuple(
            SendPayment(payment.signed_bytes, payment.signature)
            for payment in payments.made_to(c, owner, provider_id, _MAX_PAYMENTS)
        ),
        invoice_accepts=tuple(
            AcceptInvoice(i.invoice_id, Acceptance(format_amount(i.amount_wei)), i.issuer_id)
            for i in invoices
            if i.status is Status.ACCEPTED
        ),
        invoice_rejects=tuple(
            RejectInvoice(i.invoice_id, wire.rejection_message(rejection), i.issuer_id)
            for i in invoices
            if i.status is Status.REJECTED
            and (rejection := events.last_rejection(c, owner, "R", i.invoice_id)) is not None
        ),
        debit_note_accepts=tuple(
            AcceptDebitNote(n.debit_note_id, Acceptance(format_amount(n.total_due_wei)), n.issuer_id)
            for n in notes
        ),
    )


def _payment_id(message: SendPayment) -> str:
    try:
        tree = msgspec.json.decode(message.signed_bytes)
        return str(tree["paymentId"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
