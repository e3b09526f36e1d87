"""What happened in payment, for other protocols, agents and the dashboard of this node.

Published on the bus topic `TOPIC` after the commit, as canonical CBOR of one of the structs below, told apart
by their `event` tag (`decode_event`). They are hints: a slow subscriber loses the oldest, and who must miss
nothing reads the documents' events from the service. Amounts are decimal text in whole tokens.
"""

from __future__ import annotations

from typing import Final

import msgspec

from p2p import codec

TOPIC: Final = "payment/events"


class DocumentChanged(msgspec.Struct, frozen=True, rename="camel", tag_field="event", tag="documentChanged"):
    """A debit note or an invoice reached a state."""

    owner: str
    """Which of our identities holds the copy."""
    role: str
    """`R` for the requestor's copy, `P` for the provider's."""
    kind: str
    """`debitNote` or `invoice`."""
    document_id: str
    agreement_id: str
    activity_id: str
    """Empty for invoices."""
    peer: str
    status: str
    """RECEIVED, ACCEPTED, REJECTED, CANCELLED, SETTLED, or ISSUED at the issuer."""
    amount: str
    payable_at: str
    """The due date as RFC 3339 text, or empty."""


class PaymentMade(msgspec.Struct, frozen=True, rename="camel", tag_field="event", tag="paymentMade"):
    """Our transfer to a payee is confirmed at the platform's depth."""

    owner: str
    payment_id: str
    peer: str
    platform: str
    amount: str
    tx_hash: str


class PaymentSettled(msgspec.Struct, frozen=True, rename="camel", tag_field="event", tag="paymentSettled"):
    """A payer's transfer to us was found on the chain, deep enough."""

    owner: str
    payment_id: str
    peer: str
    platform: str
    amount: str
    tx_hash: str


class PaymentTaken(msgspec.Struct, frozen=True, rename="camel", tag_field="event", tag="paymentTaken"):
    """A payment that had been settled vanished from the chain (a reorganisation); its documents are open again."""

    owner: str
    payment_id: str
    peer: str
    platform: str
    amount: str


class AllocationChanged(
    msgspec.Struct, frozen=True, rename="camel", tag_field="event", tag="allocationChanged"
):
    """An allocation was made, amended, spent from or released."""

    owner: str
    allocation_id: str
    platform: str
    remaining: str
    released: bool


class PayerTrouble(msgspec.Struct, frozen=True, rename="camel", tag_field="event", tag="payerTrouble"):
    """Payments from an address cannot go out now, or (with an empty kind) can again."""

    owner: str
    platform: str
    kind: str
    """InsufficientGas, InsufficientToken, CantSign, TxStuck, RpcError, InvalidChainId, or empty."""
    detail: str


PaymentEvent = (
    DocumentChanged | PaymentMade | PaymentSettled | PaymentTaken | AllocationChanged | PayerTrouble
)


def decode_event(body: bytes) -> PaymentEvent:
    """Read what was published. Raises CodecError."""
    event: PaymentEvent = codec.decode(body, PaymentEvent)  # type: ignore[arg-type]
    return event
