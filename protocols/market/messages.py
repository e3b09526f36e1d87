"""What is said about the market: offers that everyone hears, and the talk of the two nodes of a deal.

Three conversations:

* `offers/1` is broadcast. A record is a `SignedLease`: a small `OfferLease` and its signature. The static part
  of an offer, its `OfferBody`, is named in the lease by hash and asked for with `GetBodies` where it is missing.
* `/public/market` is where the nodes of a requestor and of a provider talk: proposals, then the agreement.
  Every message is idempotent, and its sender is the caller that the session proved, never a field.
* `/local/market` is where other protocols of this node ask about agreements: `GetAgreement`, `ListAgreements`.
  Changes are published under `AGREEMENT_TOPIC` (see `protocols.market.events`).

Nothing here decides anything. Ids on the wire are bare hashes; the letters `R-` and `P-` that REST shows are
each side's own (`protocols.market.ids`). Times are UTC nanoseconds. Properties travel as JSON text, flat and
sorted, so that one offer has one hash.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

PROTOCOL: Final = "market"
"""Name of the protocol, of its service, and of its tables."""
VERSION: Final = 1
"""Major version: bumped only when an old peer could misread a message."""
PUBLIC_SERVICE: Final = "/public/market"
"""Where peers' nodes talk to ours."""
LOCAL_SERVICE: Final = "/local/market"
"""Where other protocols of this node ask."""
OFFER_TOPIC: Final = "offers/1"
"""The broadcast of offers; also the domain of their signatures."""
AGREEMENT_TOPIC: Final = "market/agreements"
"""Bus topic of `protocols.market.events.AgreementChanged`."""

MAX_BODY_BYTES: Final = 64 * 1024
"""Largest encoded `OfferBody`, and largest content of a proposal."""
MAX_BODIES: Final = 64
"""Most bodies in one `GetBodies`; an answer also stays below the bus's bound."""
MAX_REASON_BYTES: Final = 8 * 1024
"""Longest reason, as JSON text."""
MAX_TIME_NS: Final = 2**63 - 1
"""The latest time there is: in the year 2262."""

Id = Annotated[str, msgspec.Meta(max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_BODY_BYTES)]
Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON_BYTES)]
"""A JSON object with a `message`."""
Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_NS)]
"""UTC nanoseconds since the epoch."""
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Signature = Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]
"""`r || s || v`, as `p2p.identity` makes it."""


class Role(enum.Enum):
    """Which side of a deal."""

    REQUESTOR = "Requestor"
    PROVIDER = "Provider"


class AgreementState(enum.Enum):
    """Where an agreement stands on one of its two nodes."""

    PROPOSAL = "Proposal"
    """Made by the requestor, who has told nobody."""
    PENDING = "Pending"
    """Confirmed by the requestor; the provider decides."""
    APPROVING = "Approving"
    """The provider has signed and waits for the requestor's commitment; clients are shown `Pending`."""
    APPROVED = "Approved"
    CANCELLED = "Cancelled"
    REJECTED = "Rejected"
    EXPIRED = "Expired"
    TERMINATED = "Terminated"


# --- offers: the broadcast `offers/1` ------------------------------------------------------------------------


class OfferBody(msgspec.Struct, frozen=True):
    """The static part of an offer; its name is the SHA-256 of its canonical bytes."""

    properties: Text
    """JSON object, flat, compact, keys sorted."""
    constraints: Text
    """Constraint text as the provider wrote it."""


class OfferLease(msgspec.Struct, frozen=True, array_like=True):
    """The changing part of an offer: that it stands, until when, and how much is free.

    The key of the record is (node, slot); of two leases with one key the higher `seq` holds.
    """

    network: Id
    """Overlay network, such as `devnet`: a lease holds on no other."""
    node: bytes
    """The provider's NodeId, 20 bytes."""
    slot: Number
    """Which of the provider's offers, from 0."""
    incarnation: Number
    """Tells offers apart that used the slot one after the other; renewals keep it."""
    seq: Number
    """Higher is newer. At least the unix milliseconds of issue, so that a lost disk does no harm."""
    body_hash: bytes
    """SHA-256 of the body, 32 bytes; empty when withdrawn."""
    created_ns: Time
    """When the offer was subscribed; the same in every renewal."""
    issued_ns: Time
    expires_ns: Time
    """When the lease ends: at most two hours after issue."""
    free: Number = 1
    """How many more agreements the provider would take now; 0 means busy."""
    withdrawn: bool = False
    """The offer is gone; kept until `expires_ns` so that older leases are not believed again."""


class SignedLease(msgspec.Struct, frozen=True, array_like=True):
    """A record of `offers/1`."""

    lease: bytes
    """Canonical CBOR of an `OfferLease`: exactly the bytes that were signed."""
    signature: Signature
    """Of `record_digest("offer/1", lease)`, 65 bytes."""


class GetBodies(msgspec.Struct, frozen=True):
    """Ask for bodies by hash; answered with `Bodies`. Anyone may ask anyone."""

    hashes: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_BODIES)]


class Bodies(msgspec.Struct, frozen=True):
    """Encoded `OfferBody`s, in no order; what is not held, or did not fit, is missing."""

    bodies: tuple[bytes, ...]


class GetOffers(msgspec.Struct, frozen=True):
    """Ask a provider's node for its own live offers, without waiting for gossip; answered with `Offers`."""

    after_slot: int = -1
    """Only those above this slot."""


class Offers(msgspec.Struct, frozen=True):
    """A page of a node's own offers, by slot."""

    records: tuple[bytes, ...]
    """Encoded `SignedLease`s."""
    bodies: tuple[bytes, ...]
    """Their encoded bodies."""
    more: bool = False
    """Whether there are further ones."""


# --- negotiation: `/public/market` ---------------------------------------------------------------------------


class ProposalContent(msgspec.Struct, frozen=True):
    """One proposal as it crosses the wire."""

    id: Id
    """64 hex digits: the hash of what it says and of what it answers (`ids.proposal_hash`)."""
    properties: Text
    constraints: Text
    created_ns: Time


class InitialProposalReceived(msgspec.Struct, frozen=True):
    """A requestor's first answer to an offer: it is what tells the provider of the demand at all."""

    offer_id: Id
    demand_id: Id
    initial_created_ns: Time
    """When the requestor's node made the Initial proposal that this one answers."""
    demand_expires_ns: Time
    """When the demand ends."""
    proposal: ProposalContent


class ProposalReceived(msgspec.Struct, frozen=True):
    """A counter-proposal."""

    prev_proposal_id: Id
    proposal: ProposalContent


class ProposalRejected(msgspec.Struct, frozen=True):
    """The receiver's last proposal is refused."""

    proposal_id: Id
    reason: Reason | None = None
    """JSON object with a `message`."""


class Ack(msgspec.Struct, frozen=True):
    """Taken, now or before."""


# --- agreements: `/public/market` ----------------------------------------------------------------------------


class AgreementTerms(msgspec.Struct, frozen=True):
    """What the two sides agree on. Its canonical bytes are signed, and their hash is the agreement's id."""

    network: Id
    requestor_id: Id
    provider_id: Id
    demand_id: Id
    offer_id: Id
    proposal_id: Id
    """The provider's proposal that the requestor took up: 64 hex digits."""
    demand_properties: Text
    demand_constraints: Text
    offer_properties: Text
    offer_constraints: Text
    created_ns: Time
    valid_to_ns: Time
    """Until when the provider may approve. Does not bound an approved agreement."""


class AgreementReceived(msgspec.Struct, frozen=True):
    """The requestor proposes an agreement; answered with `AgreementStatus`."""

    terms: bytes
    """Canonical CBOR of `AgreementTerms`."""
    signature: Signature
    """The requestor's, over the terms."""


class AgreementApproved(msgspec.Struct, frozen=True):
    """The provider approves; answered with `AgreementStatus`, which carries the commitment if there is one."""

    agreement_id: Id
    approved_ns: Time
    signature: Signature
    """The provider's, over the id, the requestor's signature and the time."""


class AgreementCommitted(msgspec.Struct, frozen=True):
    """The requestor is bound too: sent in case the answer to the approval was lost."""

    agreement_id: Id
    signature: Signature
    """The requestor's, over the id and the provider's signature."""


class AgreementRejected(msgspec.Struct, frozen=True):
    """The provider will not approve."""

    agreement_id: Id
    reason: Reason | None
    at_ns: Time
    signature: Signature


class AgreementCancelled(msgspec.Struct, frozen=True):
    """The requestor takes its proposal of an agreement back."""

    agreement_id: Id
    reason: Reason | None
    at_ns: Time
    signature: Signature


class AgreementTerminated(msgspec.Struct, frozen=True):
    """The sender has ended an approved agreement. News, not a question."""

    agreement_id: Id
    reason: Reason | None
    at_ns: Time
    signature: Signature


class SyncAgreement(msgspec.Struct, frozen=True):
    """Both ends compare where an agreement stands, after a session was made anew."""

    agreement_id: Id
    status: AgreementStatus


class AgreementStatus(msgspec.Struct, frozen=True):
    """Where an agreement stands at the sender, with the signatures that prove it."""

    state: AgreementState | None
    """None if the sender knows of no such agreement between the two."""
    approved_ns: Time | None = None
    approved_signature: Signature | None = None
    committed_signature: Signature | None = None
    ended: AgreementEnd | None = None


class AgreementEnd(msgspec.Struct, frozen=True):
    """How an agreement was rejected, cancelled or terminated."""

    by: Role
    at_ns: Time
    reason: Reason | None
    signature: Signature
    """Of the side that ended it, over id, kind, reason and time."""


# --- for other protocols of this node: `/local/market` -------------------------------------------------------


class GetAgreement(msgspec.Struct, frozen=True):
    """Ask for one agreement; answered with `AgreementView`, or RemoteError `notFound`."""

    agreement_id: Id
    role: Role | None = None
    """Which side of it, in case that this node is both."""


class ListAgreements(msgspec.Struct, frozen=True):
    """Ask for agreements, oldest first; answered with `Agreements`."""

    role: Role | None = None
    states: tuple[AgreementState, ...] = ()
    """Only those in one of these states; empty means all."""
    after: Id = ""
    """Continue after the agreement with this id, the last of the page before."""
    limit: int = 100
    """Most agreements in the answer: 1 to 100."""


class AgreementView(msgspec.Struct, frozen=True):
    """An agreement as this node has it: all that payment, activities and agents need of it."""

    agreement_id: Id
    """64 hex digits."""
    role: Role
    """Our side."""
    requestor_id: Id
    provider_id: Id
    demand_id: Id
    offer_id: Id
    demand_properties: Text
    """JSON object, flat."""
    demand_constraints: Text
    offer_properties: Text
    offer_constraints: Text
    state: AgreementState
    created_ns: Time
    valid_to_ns: Time
    approved_ns: Time | None = None
    """When the provider signed; None until the agreement is approved."""
    app_session_id: str | None = None
    """Our own side's label, given at confirming or approving."""
    proposed_signature: str | None = None
    """Hex of the requestor's signature over the terms, once confirmed."""
    approved_signature: str | None = None
    committed_signature: str | None = None
    terminator: Role | None = None
    """Who ended it, once Rejected, Cancelled or Terminated."""
    reason: Reason | None = None
    """Why, as the JSON text of a reason object."""
    ended_ns: Time | None = None
    """When it was ended, by the clock of whoever did."""

    @property
    def owner_id(self) -> str:
        """NodeId of our side."""
        return self.requestor_id if self.role is Role.REQUESTOR else self.provider_id

    @property
    def peer_id(self) -> str:
        """NodeId of the other side."""
        return self.provider_id if self.role is Role.REQUESTOR else self.requestor_id


class Agreements(msgspec.Struct, frozen=True):
    """A page of agreements."""

    agreements: tuple[AgreementView, ...]
