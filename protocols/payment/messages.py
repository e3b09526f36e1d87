"""What payment says on the wire: documents, acceptances and payments between the two nodes of an agreement.

Peers call each other's `/public/payment`; who calls is the proven NodeId of the session, and every field that
repeats it is checked against it. Amounts are decimal text in whole tokens, times are RFC 3339 text, addresses
and node ids are lower case `0x` text, as in REST and in Golem's own messages of the same names. Programs of
the same node may use `/local/payment`.

Nothing is decided here. Every request to a peer is answered with `Ack` or with an error of one of the kinds
below; a receiver treats a repeated request like the first.

Error kinds (`RemoteError.kind`):
    badRequest      the message is wrong in itself, or contradicts what the receiver knows: final
    notFound        no such document at the receiver: final
    forbidden       the caller is not who may say this: final
    conflict        the document is in a state that rules this out: final
    retry           the receiver cannot tell now (its chain or its database does not answer): send it again
    busy            too much of this peer waits already: send it again later
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

PROTOCOL: Final = "payment"
VERSION: Final = 1
"""Major version: bumped only when an old peer could misread a message."""

PAYMENT_SERVICE: Final = "/public/payment"
"""Where a node takes messages of peers."""
LOCAL_SERVICE: Final = "/local/payment"
"""Where a node takes requests of its own programs."""

MAX_USAGE_COUNTERS: Final = 64
MAX_ACTIVITIES: Final = 1_000
"""Most activities that one invoice lists."""
MAX_SHARES: Final = 1_000
"""Most agreements, and most activities, that one payment covers."""
MAX_SYNC_ITEMS: Final = 200
"""Most entries of each list of a `PaymentSync`."""
MAX_TEXT: Final = 1_000
"""Longest free text, in characters: rejection messages."""

KIND_RETRY: Final = "retry"
KIND_BUSY: Final = "busy"
RETRYABLE_KINDS: Final = frozenset({KIND_RETRY, KIND_BUSY, "timeout"})
"""After these kinds a sender keeps its message; after any other it gives up."""


class Ack(msgspec.Struct, frozen=True):
    """It was taken, or had been taken before."""


# --- provider to requestor ----------------------------------------------------------------------------------


class SendDebitNote(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Give the requestor the running bill of one activity. The reply is `Ack`: the note is RECEIVED."""

    debit_note_id: str
    issuer_id: str
    """The agreement's provider; equal to the caller."""
    recipient_id: str
    """The agreement's requestor."""
    payee_addr: str
    payer_addr: str
    payment_platform: str
    agreement_id: str
    activity_id: str
    total_amount_due: str
    """Cumulative since the activity began."""
    timestamp: str
    """When it was issued."""
    previous_debit_note_id: str | None = None
    usage_counter_vector: Any = None
    """What the amount was computed from: usually a list of numbers."""
    payment_due_date: str | None = None
    """Set on payable notes; other notes are information and a sign of life."""


class SendInvoice(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Give the requestor the final bill of an agreement. The reply is `Ack`: the invoice is RECEIVED."""

    invoice_id: str
    issuer_id: str
    recipient_id: str
    payee_addr: str
    payer_addr: str
    payment_platform: str
    agreement_id: str
    amount: str
    """All activities and all earlier notes together."""
    timestamp: str
    payment_due_date: str
    activity_ids: tuple[str, ...] = ()


class CancelInvoice(msgspec.Struct, frozen=True, rename="camel"):
    """Withdraw an invoice. The reply is `Ack`, or `conflict` once it was accepted."""

    invoice_id: str
    recipient_id: str


class PaymentSyncNeeded(msgspec.Struct, frozen=True, rename="camel"):
    """Ask the requestor to say again what it has accepted, rejected and paid. The reply is `Ack`."""

    recipient_id: str
    """Which identity of the requestor's node is meant."""


# --- requestor to provider ----------------------------------------------------------------------------------


class Acceptance(msgspec.Struct, frozen=True, rename="camel"):
    """That a debt is owned to."""

    total_amount_accepted: str
    """Equal to the document's amount."""
    allocation_id: str = ""
    """Always empty between nodes: which allocation pays is the payer's own affair."""


class Rejection(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Why a document is refused."""

    rejection_reason: str
    """`UNSOLICITED_SERVICE`, `BAD_SERVICE`, `INCORRECT_AMOUNT`, or a client's own word."""
    total_amount_accepted: str
    message: str | None = None


class AcceptDebitNote(msgspec.Struct, frozen=True, rename="camel"):
    """Accept a debit note. The reply is `Ack`."""

    debit_note_id: str
    acceptance: Acceptance
    issuer_id: str


class AcceptInvoice(msgspec.Struct, frozen=True, rename="camel"):
    """Accept an invoice. The reply is `Ack`."""

    invoice_id: str
    acceptance: Acceptance
    issuer_id: str


class RejectInvoice(msgspec.Struct, frozen=True, rename="camel"):
    """Refuse an invoice, for now: it may be accepted later. The reply is `Ack`."""

    invoice_id: str
    rejection: Rejection
    issuer_id: str


class SendPayment(msgspec.Struct, frozen=True, rename="camel"):
    """Tell the payee what a transfer on the chain was for. The reply is `Ack`: it was found on the chain.

    The transaction proves the money; the payer's signature proves the split, and is the payee's receipt.
    """

    signed_bytes: bytes
    """RFC 8785 canonical JSON of a `PaymentBody`."""
    signature: bytes
    """65 bytes v, r, s by the payer's identity over SHA3-256 of `signed_bytes`."""


class PaymentSync(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Say again all that is open with this provider. The reply is `SyncResult`."""

    payments: tuple[SendPayment, ...] = ()
    invoice_accepts: tuple[AcceptInvoice, ...] = ()
    invoice_rejects: tuple[RejectInvoice, ...] = ()
    debit_note_accepts: tuple[AcceptDebitNote, ...] = ()


class SyncResult(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What of a `PaymentSync` was not taken, entry by entry; the rest was."""

    errors: tuple[SyncError, ...] = ()


class SyncError(msgspec.Struct, frozen=True, rename="camel"):
    """One entry that was not taken."""

    what: str
    """The document's or payment's id."""
    kind: str
    message: str


class AgreementShare(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The part of a payment that an agreement's invoice takes, over what its activities were paid."""

    agreement_id: str
    amount: str
    allocation_id: str | None = None
    """Never between nodes."""


class ActivityShare(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The part of a payment that an activity's debit notes take."""

    activity_id: str
    amount: str
    allocation_id: str | None = None


class PaymentBody(msgspec.Struct, frozen=True, rename="camel"):
    """A payment as it is signed, and as REST shows it (there with allocation ids and signature)."""

    payment_id: str
    """32 hex digits; the same for all peers that share the payee's address."""
    payer_id: str
    payee_id: str
    payer_addr: str
    payee_addr: str
    payment_platform: str
    amount: str
    """The sum of the shares."""
    timestamp: str
    agreement_payments: tuple[AgreementShare, ...]
    activity_payments: tuple[ActivityShare, ...]
    details: str
    """Base64 of the driver's confirmation: for ERC-20 the 32 bytes of the transaction's hash."""


# --- the node's own programs: /local/payment ----------------------------------------------------------------


class IssueDebitNote(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Issue a debit note as the node's identity and send it. The reply is `Issued`."""

    activity_id: str
    total_amount_due: str
    usage_counter_vector: Any = None
    payment_due_date: str | None = None


class IssueInvoice(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Issue an agreement's invoice as the node's identity and send it. The reply is `Issued`."""

    agreement_id: str
    amount: str
    activity_ids: tuple[str, ...] = ()
    payment_due_date: str | None = None
    """The agreement's payment timeout from now, or a day, if absent."""


class Issued(msgspec.Struct, frozen=True, rename="camel"):
    """The document exists and will be delivered, whatever happens."""

    document_id: str


class GetAgreementTotals(msgspec.Struct, frozen=True, rename="camel"):
    """Ask what is due, accepted and paid under an agreement. The reply is `AgreementTotals`."""

    agreement_id: str


class AgreementTotals(msgspec.Struct, frozen=True, rename="camel"):
    """An agreement's money as this node knows it; all zero where nothing was billed yet."""

    due: str
    accepted: str
    scheduled: str
    paid: str
