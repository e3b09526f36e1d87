"""`PaymentService`: what REST, the CLI, the provider agent and the requestor helper ask of payment.

Every method takes the acting identity first; documents, allocations and payments of other identities do not
exist for it (`NotFound`). Amounts are wei, times are UTC nanoseconds, timeouts are seconds.

A method that changes something returns after the commit, and what must reach the peer is in the outbox by
then: it is delivered whatever crashes. `send_*` and `cancel_invoice` also wait for the peer's answer. All are
safe to repeat. Errors are those of `errors`.

`handler.PaymentProtocol.service` implements it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from protocols.payment.drivers.base import Balance, Funding, PaymentDriver
    from protocols.payment.networks import Platform
    from protocols.payment.records import (
        Account,
        Allocation,
        Audit,
        Cycle,
        DebitNote,
        Decorations,
        DocumentEvent,
        Expenditure,
        Invoice,
        Kind,
        LedgerRow,
        Order,
        OrderEntry,
        Payment,
        Rejection,
        Role,
        Trouble,
        Wallet,
    )

ACK_TIMEOUT = 15.0
"""Seconds that a sender waits for the peer when the client does not say."""
POLL_TIMEOUT = 5.0
"""Seconds that an event poll waits when the client does not say."""

REQUESTOR_EVENTS: frozenset[str] = frozenset({"RECEIVED", "CANCELLED"})
"""What a requestor sees of its documents unless it asks for more; the default that SDKs depend on."""
PROVIDER_EVENTS: frozenset[str] = frozenset({"ACCEPTED", "REJECTED", "SETTLED", "CANCELLED"})


class PaymentService(Protocol):
    """Allocations, bills, acceptances and payments of this node's identities."""

    # --- accounts -------------------------------------------------------------------------------------------

    async def init_account(
        self, owner: str, platform: Platform, *, send: bool, receive: bool, address: str | None = None
    ) -> Account:
        """Make an address usable on a platform; flags only add up. Address: the identity's own by default.

        Raises:
            AccountUnusable: no driver serves the platform, or sending is asked for and there is no key.
        """
        ...

    async def accounts(
        self, owner: str | None = None, *, send: bool = False, receive: bool = False
    ) -> Sequence[Account]:
        """List accounts: of one identity or of all, those that can send and those that can receive as asked."""
        ...

    async def fund(
        self, owner: str, platform: Platform, *, progress: Callable[[str], None] | None = None
    ) -> Funding:
        """Get test coin and tokens for the identity, wait for them, and make its account usable both ways.

        Raises:
            AccountUnusable: no driver or no key.
            drivers.errors.DriverError: what the chain or faucet said.
        """
        ...

    async def balance(self, address: str, platform: Platform) -> Balance:
        """Give what an address holds on the chain. Raises AccountUnusable, Unavailable."""
        ...

    async def wallet(self, owner: str, platform: Platform) -> Wallet:
        """Give the figures of `payment status`. Raises AccountUnusable, Unavailable."""
        ...

    async def driver(self, platform: Platform) -> PaymentDriver:
        """Give the open driver of a platform. Raises AccountUnusable."""
        ...

    def platforms(self) -> Sequence[Platform]:
        """List the platforms that this node has drivers for."""
        ...

    # --- allocations ----------------------------------------------------------------------------------------

    async def create_allocation(
        self,
        owner: str,
        *,
        platform: Platform,
        total_wei: int,
        timeout_ns: int | None = None,
        address: str | None = None,
    ) -> Allocation:
        """Reserve money, as far as the chain's balance covers it beside what is reserved already.

        Without a timeout it lives ten years, as clients expect. The account is made usable for sending.

        Raises:
            AllocationProblem: no funds, timeout in the past, unknown platform or foreign address.
        """
        ...

    async def amend_allocation(
        self, owner: str, allocation_id: str, *, total_wei: int | None = None, timeout_ns: int | None = None
    ) -> Allocation:
        """Change an allocation's total or timeout; only an increase is checked against funds.

        Raises:
            NotFound: unknown or released.
            BadRequest: below what is spent, or a timeout in the past.
            AllocationProblem: no funds.
        """
        ...

    async def release_allocation(self, owner: str, allocation_id: str) -> None:
        """Give back what is unspent; what was accepted stays owed. Raises NotFound, AllocationReleased."""
        ...

    async def allocation(self, owner: str, allocation_id: str) -> Allocation:
        """Give a live allocation. Raises NotFound."""
        ...

    async def allocations(
        self, owner: str, *, after_ns: int | None = None, limit: int | None = None
    ) -> Sequence[Allocation]:
        """List live allocations, oldest first."""
        ...

    async def decorations(self, owner: str, allocation_ids: Sequence[str]) -> Decorations:
        """Give what a demand must carry to be paid from these allocations. Raises NotFound."""
        ...

    async def expenditures(self, owner: str, allocation_id: str) -> Sequence[Expenditure]:
        """List what an allocation has promised, released ones included."""
        ...

    # --- provider's documents -------------------------------------------------------------------------------

    async def issue_debit_note(
        self,
        owner: str,
        *,
        activity_id: str,
        total_due_wei: int,
        usage: Any = None,
        due_ns: int | None = None,
    ) -> DebitNote:
        """Write the running bill of an activity; nothing is sent yet.

        Args:
            total_due_wei: cumulative since the activity began; a lower amount than before changes nothing.
            usage: what it was computed from, any JSON value of at most 64 items.
            due_ns: set for a payable note: when it must be paid.

        Raises:
            BadRequest: the activity or its agreement is unknown, or has no payment platform.
            NotYours: the identity is not the agreement's provider.
            Unavailable: market or activity does not answer.
        """
        ...

    async def send_debit_note(
        self, owner: str, debit_note_id: str, *, timeout: float | None = ACK_TIMEOUT
    ) -> None:
        """Send a note to the requestor and wait for its acknowledgement; None waits for ever.

        Raises:
            NotFound: no such note of ours.
            PeerRefused, PeerSilent: see there; after PeerSilent delivery goes on behind.
        """
        ...

    async def issue_invoice(
        self,
        owner: str,
        *,
        agreement_id: str,
        amount_wei: int,
        activity_ids: Sequence[str] = (),
        due_ns: int | None = None,
    ) -> Invoice:
        """Write the final bill of an agreement; nothing is sent yet.

        Args:
            amount_wei: for the whole agreement, all debit notes included; not below what is due already.
            due_ns: the agreement's payment timeout from now, or a day, by default.

        Raises:
            BadRequest: unknown agreement or activity, an amount below what is due, or an accepted invoice.
            NotYours: the identity is not the agreement's provider.
            Unavailable: market or activity does not answer.
        """
        ...

    async def send_invoice(self, owner: str, invoice_id: str, *, timeout: float | None = ACK_TIMEOUT) -> None:
        """Send an invoice; as `send_debit_note`."""
        ...

    async def cancel_invoice(
        self, owner: str, invoice_id: str, *, timeout: float | None = ACK_TIMEOUT
    ) -> None:
        """Withdraw an invoice, with the requestor's consent where it was sent.

        Raises:
            NotFound: no such invoice of ours.
            WrongState: it is accepted, settled or failed.
            PeerRefused, PeerSilent: as `send_debit_note`.
        """
        ...

    # --- requestor's answers --------------------------------------------------------------------------------

    async def accept_debit_note(
        self, owner: str, debit_note_id: str, *, amount_wei: int, allocation_id: str
    ) -> None:
        """Own to a debit note, and spend what it adds from an allocation.

        Raises:
            NotFound: no such note.
            AmountMismatch, NotEnoughFunds, BadRequest: also for an unknown or released allocation.
            WrongState: it is cancelled.
        """
        ...

    async def accept_invoice(
        self, owner: str, invoice_id: str, *, amount_wei: int, allocation_id: str
    ) -> None:
        """Own to an invoice, and spend from an allocation what the debit notes have not.

        Raises:
            NotFound: no such invoice.
            AmountMismatch, NotEnoughFunds, BadRequest: also for an unknown or released allocation.
            WrongState: it is cancelled.
        """
        ...

    async def reject_invoice(self, owner: str, invoice_id: str, rejection: Rejection) -> None:
        """Refuse an invoice; accepting it later is allowed. Raises NotFound, WrongState."""
        ...

    # --- reading --------------------------------------------------------------------------------------------

    async def debit_note(self, owner: str, debit_note_id: str) -> DebitNote:
        """Give a debit note. Raises NotFound."""
        ...

    async def debit_notes(
        self,
        owner: str,
        *,
        after_ns: int | None = None,
        limit: int | None = None,
        agreement_id: str | None = None,
        activity_id: str | None = None,
    ) -> Sequence[DebitNote]:
        """List debit notes by time, those later than `after_ns`."""
        ...

    async def invoice(self, owner: str, invoice_id: str) -> Invoice:
        """Give an invoice. Raises NotFound."""
        ...

    async def invoices(
        self,
        owner: str,
        *,
        after_ns: int | None = None,
        limit: int | None = None,
        agreement_id: str | None = None,
    ) -> Sequence[Invoice]:
        """List invoices by time, those later than `after_ns`."""
        ...

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
        """Give events later than `after_ns`, as soon as there is one, at most `timeout` seconds from now.

        An event's `time_ns` is the cursor for the next call: no two events of an identity share one.

        Args:
            limit: most events; 0 gives none, None all.
            requestor_events: which events of requestor copies are wanted.
            provider_events: which events of provider copies are wanted.
        """
        ...

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
        """Give payments made or received later than `after_ns`; waits as `document_events` does.

        Args:
            pending: also received ones that are not deep enough in the chain yet. They get a new time when
                they are, so that nobody misses them.
        """
        ...

    async def payment(self, owner: str, payment_id: str) -> Payment:
        """Give a payment. Raises NotFound."""
        ...

    async def invoice_payments(self, owner: str, invoice_id: str) -> Sequence[Payment]:
        """List the payments that touch an invoice's agreement. Raises NotFound."""
        ...

    async def agreement_ledger(
        self, owner: str, agreement_id: str | None = None, *, role: Role | None = None
    ) -> Sequence[LedgerRow]:
        """List agreements with their totals: all of an identity, or one."""
        ...

    async def activity_ledger(
        self, owner: str, activity_id: str | None = None, *, agreement_id: str | None = None
    ) -> Sequence[LedgerRow]:
        """List activities with their totals."""
        ...

    # --- paying ---------------------------------------------------------------------------------------------

    async def process_now(self, owner: str, platform: Platform) -> tuple[float, float]:
        """Pay all payable debts now, without waiting for the cycle; the chain is waited for behind.

        Returns:
            Seconds spent on building the order, and on handing it over.
        """
        ...

    async def cycles(self, owner: str) -> Sequence[Cycle]:
        """List the payment cycles of all platforms."""
        ...

    async def cycle(self, owner: str, platform: str) -> Cycle:
        """Give the payment cycle of a platform; one of an unknown name has the production defaults."""
        ...

    async def set_cycle(
        self,
        owner: str,
        platform: str,
        *,
        interval_s: float | None = None,
        cron: str | None = None,
        extra_s: float | None = None,
        next_ns: int | None = None,
    ) -> Cycle:
        """Change a payment cycle; an interval wins over a cron line. Raises BadRequest."""
        ...

    async def orders(self, owner: str, order_id: str | None = None) -> Sequence[Order]:
        """List payment orders, oldest first."""
        ...

    async def order_entries(
        self,
        owner: str,
        *,
        order_id: str | None = None,
        allocation_id: str | None = None,
        agreement_id: str | None = None,
        activity_id: str | None = None,
        payee_addr: str | None = None,
    ) -> Sequence[OrderEntry]:
        """List the debts in orders, by any of the given keys."""
        ...

    async def troubles(
        self, owner: str, *, driver: str | None = None, network: str | None = None
    ) -> Sequence[Trouble]:
        """List what keeps payments from going out now; nothing means healthy.

        Raises:
            NotFound: this node has no such driver, or none for such a network.
        """
        ...

    async def audit(self, owner: str | None = None) -> Audit:
        """Compute every total again from documents, orders and payments, and compare. Changes nothing."""
        ...
