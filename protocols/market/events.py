"""What others may observe of the market: one struct for each thing that happens.

`AgreementChanged` is published on the bus under `messages.AGREEMENT_TOPIC`, after the commit, as canonical
CBOR. A subscriber that may have missed some (a restart, a full queue) lists the agreements again.

`NegotiationEvent`s are what an agent collects from the queue of its offer or demand. They are consumed by
reading; `AgreementEvent`s, the log of what happened to agreements, are not.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from protocols.market.messages import AgreementState, AgreementView, Role

ProposalState = Literal["Initial", "Draft", "Rejected", "Accepted", "Expired"]
"""Where a proposal stands, in the words that clients know."""


class AgreementChanged(msgspec.Struct, frozen=True):
    """An agreement of this node came into a new state."""

    agreement_id: str
    role: Role
    """Our side."""
    requestor_id: str
    provider_id: str
    state: AgreementState
    app_session_id: str | None
    at_ns: int
    """UTC nanoseconds, by this node's clock."""


class AgreementEvent(msgspec.Struct, frozen=True):
    """One entry of the log of agreement events."""

    at_ns: int
    """By this node's clock, in whole microseconds; no two events of a node have the same."""
    agreement_id: str
    role: Role
    """Our side."""
    kind: Literal["Approved", "Rejected", "Cancelled", "Terminated"]
    app_session_id: str | None
    by: Role | None = None
    """Who ended the agreement; None for Approved."""
    reason: str | None = None
    """JSON object with a `message`."""
    signature: str = ""
    """Hex of the ending side's signature."""


class Proposal(msgspec.Struct, frozen=True):
    """A proposal as an agent sees it."""

    proposal_id: str
    """`R-` or `P-` and 64 hex digits."""
    prev_proposal_id: str | None
    issuer_id: str
    state: ProposalState
    properties: str
    """JSON object, flat."""
    constraints: str
    created_ns: int


class ProposalArrived(msgspec.Struct, frozen=True):
    """A new proposal of the other side, or an offer that matches."""

    at_ns: int
    proposal: Proposal


class ProposalRejected(msgspec.Struct, frozen=True):
    """The other side has refused our proposal, or never got it."""

    at_ns: int
    proposal_id: str
    reason: str | None
    """JSON object with a `message`."""


class AgreementArrived(msgspec.Struct, frozen=True):
    """A requestor wants the provider's approval."""

    at_ns: int
    agreement: AgreementView


NegotiationEvent = ProposalArrived | ProposalRejected | AgreementArrived
