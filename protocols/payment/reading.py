"""What clients read: documents, their events, payments, totals. Long polls wake with the commit that they wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ground.wakeup import poll
from protocols.payment.api import PROVIDER_EVENTS, REQUESTOR_EVENTS
from protocols.payment.errors import NotFound
from protocols.payment.store import documents, events, ledger, payments

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from protocols.payment.books import Books
    from protocols.payment.records import (
        DebitNote,
        DocumentEvent,
        Invoice,
        Kind,
        LedgerRow,
        Payment,
        Role,
    )


class Reading:
    """Questions about documents, payments and totals."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def debit_note(self, owner: str, debit_note_id: str) -> DebitNote:
        found = await self._books.read(lambda c: documents.debit_note(c, owner, debit_note_id))
        if found is None:
            raise NotFound(f"no debit note {debit_note_id}")
        return found

    async def debit_notes(
        self,
        owner: str,
        *,
        after_ns: int | None = None,
        limit: int | None = None,
        agreement_id: str | None = None,
        activity_id: str | None = None,
    ) -> Sequence[DebitNote]:
        return await self._books.read(
            lambda c: documents.debit_notes(
                c,
                owner,
                after_ns=after_ns,
                limit=limit,
                agreement_id=agreement_id,
                activity_id=activity_id,
            )
        )

    async def invoice(self, owner: str, invoice_id: str) -> Invoice:
        found = await self._books.read(lambda c: documents.invoice(c, owner, invoice_id))
        if found is None:
            raise NotFound(f"no invoice {invoice_id}")
        return found

    async def invoices(
        self,
        owner: str,
        *,
        after_ns: int | None = None,
        limit: int | None = None,
        agreement_id: str | None = None,
    ) -> Sequence[Invoice]:
        return await self._books.read(
            lambda c: documents.invoices(c, owner, after_ns=after_ns, limit=limit, agreement_id=agreement_id)
        )

    async def document_events(
        self,
        owner: str,
        kind: Kind,
        *,
        after_ns: int | None = None,
        timeout: float = 0.0,
        limit: int | None = None,
        session_id: str | None = None,
        requestor_events: Collection[str] = REQUESTOR_EVENTS,
        provider_events: Collection[str] = PROVIDER_EVENTS,
    ) -> Sequence[DocumentEvent]:
        if limit == 0:
            return ()

        async def read() -> Sequence[DocumentEvent]:
            return await self._books.read(
                lambda c: events.listing(
                    c,
                    owner,
                    kind,
                    after_ns=after_ns,
                    limit=limit,
                    session_id=session_id,
                    requestor_events=requestor_events,
                    provider_events=provider_events,
                )
            )

        return await poll(self._books.document_signal, read, timeout=timeout)

    async def payments(
        self,
        owner: str,
        *,
        after_ns: int | None = None,
        timeout: float = 0.0,
        limit: int | None = None,
        session_id: str | None = None,
        network: str | None = None,
        driver: str | None = None,
        pending: bool = False,
    ) -> Sequence[Payment]:
        if limit == 0:
            return ()

        async def read() -> Sequence[Payment]:
            return await self._books.read(
                lambda c: payments.listing(
                    c,
                    owner,
                    after_ns=after_ns,
                    limit=limit,
                    session_id=session_id,
                    network=network,
                    driver=driver,
                    pending=pending,
                )
            )

        return await poll(self._books.payment_signal, read, timeout=timeout)

    async def payment(self, owner: str, payment_id: str) -> Payment:
        found = await self._books.read(lambda c: payments.payment(c, owner, payment_id))
        if found is None:
            raise NotFound(f"no payment {payment_id}")
        return found

    async def invoice_payments(self, owner: str, invoice_id: str) -> Sequence[Payment]:
        invoice = await self.invoice(owner, invoice_id)
        return await self._books.read(lambda c: payments.listing(c, owner, agreement_id=invoice.agreement_id))

    async def agreement_ledger(
        self, owner: str, agreement_id: str | None = None, *, role: Role | None = None
    ) -> Sequence[LedgerRow]:
        return await self._books.read(lambda c: ledger.agreement_rows(c, owner, agreement_id, role))

    async def activity_ledger(
        self, owner: str, activity_id: str | None = None, *, agreement_id: str | None = None
    ) -> Sequence[LedgerRow]:
        return await self._books.read(lambda c: ledger.activity_rows(c, owner, activity_id, agreement_id))
