"""Payment's own values, as the store holds them and the service returns them.

Amounts are wei, times are UTC nanoseconds. The wire's and REST's decimal text is made at the edges
(`messages`, `node.api`). Nothing here decides or does I/O.
"""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

Role = Literal["R", "P"]
"""Whose copy of a document: the requestor's (payer) or the provider's (payee)."""
Kind = Literal["debit_note", "invoice"]


class Status(enum.Enum):
    """Where a debit note or invoice stands; the transitions are in `core.documents`."""

    ISSUED = "ISSUED"
    RECEIVED = "RECEIVED"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    SETTLED = "SETTLED"
    CANCELLED = "CANCELLED"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """What of an agreement matters for money; frozen at first use."""

    agreement_id: str
    requestor_id: str
    provider_id: str
    platform: str
    payer_addr: str
    payee_addr: str
    session_id: str | None = None
    """The acting side's own appSessionId."""
    payment_timeout_s: float | None = None
    """The negotiated time to pay a payable note."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An address that we send from, or receive at, on a platform."""

    owner: str
    address: str
    platform: str
    send: bool
    receive: bool


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """A reservation of money for a purpose; nothing of it is on the chain."""

    allocation_id: str
    owner: str
    platform: str
    address: str
    total_wei: int
    spent_wei: int
    created_ns: int
    updated_ns: int
    timeout_ns: int
    released: bool

    @property
    def remaining_wei(self) -> int:
        """What may still be spent; negative where a negative total was asked for."""
        return self.total_wei - self.spent_wei


class Decorations(msgspec.Struct, frozen=True):
    """What a demand must carry so that it can be paid from given allocations."""

    properties: tuple[tuple[str, str], ...]
    constraints: tuple[str, ...]


class DebitNote(msgspec.Struct, frozen=True, kw_only=True):
    """The running bill of one activity: one side's copy."""

    debit_note_id: str
    owner: str
    role: Role
    issuer_id: str
    recipient_id: str
    payee_addr: str
    payer_addr: str
    platform: str
    agreement_id: str
    activity_id: str
    total_due_wei: int
    timestamp_ns: int
    """When this copy was made; whole milliseconds."""
    status: Status
    number: int = 0
    """Its place among the notes of its activity, from 0, as this side counts them."""
    previous_id: str | None = None
    usage: Any = None
    due_ns: int | None = None
    session_id: str | None = None

    @property
    def peer(self) -> str:
        """The agreement's other party."""
        return self.issuer_id if self.role == "R" else self.recipient_id


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """The final bill of one agreement: one side's copy."""

    invoice_id: str
    owner: str
    role: Role
    issuer_id: str
    recipient_id: str
    payee_addr: str
    payer_addr: str
    platform: str
    agreement_id: str
    activity_ids: tuple[str, ...]
    amount_wei: int
    timestamp_ns: int
    due_ns: int
    status: Status
    session_id: str | None = None

    @property
    def peer(self) -> str:
        """The agreement's other party."""
        return self.issuer_id if self.role == "R" else self.recipient_id


class Rejection(msgspec.Struct, frozen=True):
    """Why an invoice was refused."""

    reason: str
    accepted_wei: int
    message: str | None = None


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why payments do not go out now, in the words of REST's status property."""

    kind: str
    """InsufficientGas, InsufficientToken, InvalidChainId, CantSign, TxStuck or RpcError."""
    driver: str
    network: str | None = None
    address: str | None = None
    needed: str | None = None
    """Coin or token that is missing, decimal text."""
    chain_id: int | None = None


class DocumentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a debit note or an invoice."""

    serial: int
    """Grows by the order of commits."""
    kind: Kind
    role: Role
    document_id: str
    event: str
    """RECEIVED, ACCEPTED, REJECTED, CANCELLED, SETTLED, PAYMENT_EVENT or PAYMENT_OK."""
    time_ns: int
    """Whole microseconds, and different for every event of one identity."""
    rejection: Rejection | None = None
    trouble: Trouble | None = None


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a payment that one agreement's invoice, or one activity's notes, take."""

    agreement_id: str
    activity_id: str | None
    """None for the invoice's part."""
    amount_wei: int
    allocation_id: str | None = None
    """Known to the payer only."""


class PaymentState(enum.Enum):
    """How sure a payment is; `core.verification` has the rules."""

    SEEN = "seen"
    CONFIRMED = "confirmed"
    FINAL = "final"


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer as one peer takes part in it: one side's copy."""

    payment_id: str
    owner: str
    role: Role
    peer: str
    payer_id: str
    payee_id: str
    payer_addr: str
    payee_addr: str
    platform: str
    amount_wei: int
    timestamp_ns: int
    """When this copy was made; whole milliseconds, different for every payment of one identity."""
    tx_hash: str
    shares: tuple[Share, ...]
    state: PaymentState
    signed_bytes: bytes
    signature: bytes
    """v, r, s."""


class Wallet(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a platform's account, for `payment status`."""

    platform: str
    address: str
    token_wei: int
    gas_wei: int
    block_number: int
    block_timestamp: int
    """Seconds since 1970."""
    reserved_wei: int
    """What live allocations hold, and what is accepted and not yet paid."""
    outgoing_due_wei: int
    outgoing_accepted_wei: int
    outgoing_paid_wei: int
    incoming_due_wei: int
    incoming_accepted_wei: int
    incoming_paid_wei: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The four sums of an activity or an agreement: due ≥ accepted ≥ scheduled ≥ paid ≥ 0."""

    due: int = 0
    accepted: int = 0
    scheduled: int = 0
    paid: int = 0


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """An agreement's or an activity's totals, with whose they are."""

    id: str
    owner: str
    role: Role
    agreement_id: str
    peer: str
    payee_addr: str
    payer_addr: str
    platform: str
    session_id: str | None
    totals: Totals
    created_ns: int
    updated_ns: int


class Expenditure(msgspec.Struct, frozen=True, kw_only=True):
    """What an allocation has promised to one activity, or to an agreement's invoice."""

    allocation_id: str
    agreement_id: str
    activity_id: str | None
    accepted_wei: int
    scheduled_wei: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Debts that were put together to be paid in one go."""

    order_id: str
    owner: str
    payer_addr: str
    platform: str
    total_wei: int
    paid_wei: int
    created_ns: int
    updated_ns: int


class OrderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One debt in an order."""

    order_id: str
    owner: str
    payee_addr: str
    peer: str
    allocation_id: str
    agreement_id: str
    activity_id: str | None
    invoice_id: str | None
    debit_note_id: str | None
    amount_wei: int
    transfer_id: str
    paid: bool
    created_ns: int
    updated_ns: int


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """When debts of an identity on a platform are paid at the latest."""

    owner: str
    platform: str
    interval_s: float | None
    cron: str | None
    """Exactly one of the two is set."""
    max_interval_s: float
    extra_s: float
    """How long a payment may take on top."""
    last_ns: int | None
    next_ns: int


class Difference(msgspec.Struct, frozen=True):
    """A figure that the audit computed otherwise than it is stored."""

    what: str
    stored: str
    computed: str


class Audit(msgspec.Struct, frozen=True):
    """The outcome of `audit`: clean when there is no difference."""

    agreements: int
    documents: int
    payments: int
    differences: tuple[Difference, ...]

    @property
    def clean(self) -> bool:
        """Whether every stored figure follows from the documents and payments."""
        return not self.differences
