"""`PaymentProtocol`: payment as a protocol of the node. Puts its parts together, serves peers, runs the loops.

The parts: `accounts`, `allocations`, `documents` (our clients' commands), `peer_documents` and `verification`
(peers' messages), `settlement` and `lanes` (paying), `sync` (catching up), `reading`, `audit`. They share
`books` and know of each other only what their constructors take. `service` is what REST and agents call; its
contract is `api.PaymentService`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import trio

from p2p.bus import Service
from p2p.storage import StorageError
from protocols.ground.money import format_amount
from protocols.payment import wire
from protocols.payment.accounts import Accounts
from protocols.payment.allocations import Allocations
from protocols.payment.audit import Auditor
from protocols.payment.books import Books
from protocols.payment.chains import Chains
from protocols.payment.documents import Documents
from protocols.payment.errors import PeerRefused, PeerSilent
from protocols.payment.facts import BusFacts
from protocols.payment.lanes import Lanes
from protocols.payment.messages import (
    LOCAL_SERVICE,
    PAYMENT_SERVICE,
    PROTOCOL,
    AcceptDebitNote,
    AcceptInvoice,
    AgreementTotals,
    CancelInvoice,
    GetAgreementTotals,
    Issued,
    IssueDebitNote,
    IssueInvoice,
    PaymentSync,
    PaymentSyncNeeded,
    RejectInvoice,
    SendDebitNote,
    SendInvoice,
    SendPayment,
)
from protocols.payment.networks import parse_platform
from protocols.payment.peer_documents import PeerDocuments, answers
from protocols.payment.reading import Reading
from protocols.payment.records import Totals
from protocols.payment.settings import Settings, from_mapping
from protocols.payment.settlement import Settlement
from protocols.payment.sync import Sync
from protocols.payment.troubles import Troubles
from protocols.payment.verification import Verification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from p2p.bus import Caller
    from p2p.identity import Signer
    from p2p.overlay import PeerChange
    from p2p.protocol import NodeContext
    from protocols.payment.api import PaymentService
    from protocols.payment.drivers.base import DriverFactory
    from protocols.payment.facts import Facts

_STORAGE_PAUSE = 10.0
"""Seconds before a loop that could not write tries again."""
_HEARD_QUEUE = 256
"""Peers whose messages are tried at once because they came back; beyond this the outbox's own time comes."""


class PaymentProtocol:
    """Payment between the nodes of agreements.

    Args:
        settings: a `Settings`, or the protocol's section of the configuration.
        drivers: the kinds of payment driver that this node has.
        signers: the key of an identity or wallet of ours, or None; by default the node's own identity alone.
        facts: who the parties of agreements are; by default asked of market and activity on the bus.
    """

    name = PROTOCOL

    def __init__(
        self,
        settings: Settings | Mapping[str, object] = Settings(),  # noqa: B008 - frozen
        *,
        drivers: Sequence[DriverFactory] = (),
        signers: Callable[[str], Signer | None] | None = None,
        facts: Facts | None = None,
    ) -> None:
        self._settings = settings if isinstance(settings, Settings) else from_mapping(settings)
        self._drivers = drivers
        self._signers = signers
        self._facts = facts
        self._service: PaymentService

    @property
    def service(self) -> PaymentService:
        """What REST and agents call, while the protocol runs."""
        return self._service

    @contextlib.asynccontextmanager
    async def running(self, ctx: NodeContext) -> AsyncIterator[None]:
        """Serve peers, pay what is owed, and verify what is received."""
        books = Books(ctx, self._settings, self._signers)
        await books.open()
        facts = self._facts or BusFacts(ctx.bus)
        chains = Chains(self._drivers, self._settings.environment)
        troubles = Troubles(books)
        lanes = Lanes(books, chains, troubles)
        accounts = Accounts(books, chains, lanes)
        allocations = Allocations(books, accounts)
        documents = Documents(books, facts)
        settlement = Settlement(books, chains, troubles)
        peer_documents = PeerDocuments(books, facts)
        verification = Verification(books, chains)
        sync = Sync(books, peer_documents, verification)
        self._service = _Service(accounts, allocations, documents, settlement, Reading(books), Auditor(books))
        public = ctx.bus.register(PAYMENT_SERVICE, _public(peer_documents, verification, sync))
        local = ctx.bus.register(LOCAL_SERVICE, _Local(books, self._service).endpoint(), allow=_is_the_node)
        try:
            async with chains.running(), trio.open_nursery() as nursery:
                for loop in (
                    books.letters.run,
                    books.receipts.run,
                    settlement.run,
                    lanes.run,
                    verification.watch,
                    allocations.release_when_timed_out,
                ):
                    nursery.start_soon(_steadily, loop, ctx)
                nursery.start_soon(_steadily, functools.partial(_hurry_when_heard, books), ctx)
                for name in self._settings.accounts:
                    await accounts.init_account(ctx.node_id, parse_platform(name), send=True, receive=True)
                if self._settings.sync_at_start:
                    await sync.ask()
                yield
                nursery.cancel_scope.cancel()
        finally:
            public.close()
            local.close()


def _public(documents: PeerDocuments, verification: Verification, sync: Sync) -> Service:
    service = Service()
    service.method(SendDebitNote, documents.send_debit_note)
    service.method(SendInvoice, documents.send_invoice)
    service.method(CancelInvoice, documents.cancel_invoice)
    service.method(AcceptDebitNote, documents.accept_debit_note)
    service.method(AcceptInvoice, documents.accept_invoice)
    service.method(RejectInvoice, documents.reject_invoice)
    service.method(SendPayment, verification.send_payment)
    service.method(PaymentSync, sync.sync)
    service.method(PaymentSyncNeeded, sync.sync_needed)
    return service


async def _steadily(loop: Callable[[], Awaitable[None]], ctx: NodeContext) -> None:
    """Run a loop again after the disk was full: its work is in the tables, and waits."""
    while True:
        try:
            await loop()
        except* StorageError as errors:
            ctx.log.error("payment waits for its database", error=str(errors.exceptions[0]))
        await trio.sleep(_STORAGE_PAUSE)


async def _hurry_when_heard(books: Books) -> None:
    """Try everything for a peer at once when a session with it begins."""
    send, receive = trio.open_memory_channel[str](_HEARD_QUEUE)

    def heard(change: PeerChange) -> None:
        if change.connected:
            with contextlib.suppress(trio.WouldBlock):
                send.send_nowait(change.node_id)

    stop = books.ctx.overlay.subscribe_peers(heard)
    try:
        async for peer in receive:
            await books.letters.wake_peer(peer)
            await books.receipts.wake_peer(peer)
    finally:
        stop()
        send.close()


class _Service:
    """The parts' public methods under one roof; an `api.PaymentService`."""

    def __init__(
        self,
        accounts: Accounts,
        allocations: Allocations,
        documents: Documents,
        settlement: Settlement,
        reading: Reading,
        auditor: Auditor,
    ) -> None:
        self.init_account = accounts.init_account
        self.accounts = accounts.accounts
        self.fund = accounts.fund
        self.balance = accounts.balance
        self.wallet = accounts.wallet
        self.driver = accounts.driver
        self.platforms = accounts.platforms
        self.create_allocation = allocations.create_allocation
        self.amend_allocation = allocations.amend_allocation
        self.release_allocation = allocations.release_allocation
        self.allocation = allocations.allocation
        self.allocations = allocations.allocations
        self.decorations = allocations.decorations
        self.expenditures = allocations.expenditures
        self.issue_debit_note = documents.issue_debit_note
        self.send_debit_note = documents.send_debit_note
        self.issue_invoice = documents.issue_invoice
        self.send_invoice = documents.send_invoice
        self.cancel_invoice = documents.cancel_invoice
        self.accept_debit_note = documents.accept_debit_note
        self.accept_invoice = documents.accept_invoice
        self.reject_invoice = documents.reject_invoice
        self.debit_note = reading.debit_note
        self.debit_notes = reading.debit_notes
        self.invoice = reading.invoice
        self.invoices = reading.invoices
        self.document_events = reading.document_events
        self.payments = reading.payments
        self.payment = reading.payment
        self.invoice_payments = reading.invoice_payments
        self.agreement_ledger = reading.agreement_ledger
        self.activity_ledger = reading.activity_ledger
        self.process_now = settlement.process_now
        self.cycles = settlement.cycles
        self.cycle = settlement.cycle
        self.set_cycle = settlement.set_cycle
        self.orders = settlement.orders
        self.order_entries = settlement.order_entries
        self.troubles = settlement.troubles
        self.audit = auditor.audit


class _Local:
    """`/local/payment`: what other parts of this node may ask, as the node's own identity."""

    def __init__(self, books: Books, service: PaymentService) -> None:
        self._books = books
        self._service = service

    def endpoint(self) -> Service:
        service = Service()
        service.method(IssueDebitNote, self._issue_debit_note)
        service.method(IssueInvoice, self._issue_invoice)
        service.method(GetAgreementTotals, self._totals)
        return service

    async def _issue_debit_note(self, caller: Caller, request: IssueDebitNote) -> Issued:
        due = request.payment_due_date
        with answers():
            note = await self._service.issue_debit_note(
                self._books.ctx.node_id,
                activity_id=request.activity_id,
                total_due_wei=wire.read_amount(request.total_amount_due, "totalAmountDue"),
                usage=request.usage_counter_vector,
                due_ns=None if due is None else wire.read_time(due, "paymentDueDate"),
            )
            with contextlib.suppress(PeerSilent, PeerRefused):
                await self._service.send_debit_note(note.owner, note.debit_note_id, timeout=0)
        return Issued(note.debit_note_id)

    async def _issue_invoice(self, caller: Caller, request: IssueInvoice) -> Issued:
        due = request.payment_due_date
        with answers():
            invoice = await self._service.issue_invoice(
                self._books.ctx.node_id,
                agreement_id=request.agreement_id,
                amount_wei=wire.read_amount(request.amount, "amount"),
                activity_ids=request.activity_ids,
                due_ns=None if due is None else wire.read_time(due, "paymentDueDate"),
            )
            with contextlib.suppress(PeerSilent, PeerRefused):
                await self._service.send_invoice(invoice.owner, invoice.invoice_id, timeout=0)
        return Issued(invoice.invoice_id)

    async def _totals(self, caller: Caller, request: GetAgreementTotals) -> AgreementTotals:
        rows = await self._service.agreement_ledger(self._books.ctx.node_id, request.agreement_id)
        totals = rows[0].totals if rows else Totals()
        return AgreementTotals(
            due=format_amount(totals.due),
            accepted=format_amount(totals.accepted),
            scheduled=format_amount(totals.scheduled),
            paid=format_amount(totals.paid),
        )


def _is_the_node(caller: Caller) -> bool:
    """Return whether the node's own programs call: neither a peer nor a supervisor handles its money."""
    return caller.local and not caller.child
