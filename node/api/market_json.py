"""The JSON that market clients are shown: field names, time precision, and what is absent rather than null."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from protocols.ground.times import MILLISECOND, format_time
from protocols.market import events
from protocols.market.messages import AgreementState, AgreementView

if TYPE_CHECKING:
    from protocols.market.subscriptions import SubscriptionView


def subscription(view: SubscriptionView) -> dict[str, Any]:
    """Return an offer or a demand."""
    return {
        "properties": _json(view.properties),
        "constraints": view.constraints,
        f"{view.kind}Id": view.id,
        "providerId" if view.kind == "offer" else "requestorId": view.owner_id,
        "timestamp": format_time(view.created_ns),
    }


def proposal(view: events.Proposal) -> dict[str, Any]:
    """Return a proposal."""
    return _present(
        properties=_json(view.properties),
        constraints=view.constraints,
        proposalId=view.proposal_id,
        issuerId=view.issuer_id,
        state=view.state,
        timestamp=format_time(view.created_ns),
        prevProposalId=view.prev_proposal_id,
    )


def negotiation_event(event: events.NegotiationEvent) -> dict[str, Any]:
    """Return an event of an offer or a demand; its date has milliseconds."""
    date = format_time(event.at_ns // MILLISECOND * MILLISECOND)
    match event:
        case events.ProposalArrived():
            return {"eventType": "ProposalEvent", "eventDate": date, "proposal": proposal(event.proposal)}
        case events.ProposalRejected():
            return _present(
                eventType="ProposalRejectedEvent",
                eventDate=date,
                proposalId=event.proposal_id,
                reason=_json(event.reason),
            )
        case events.AgreementArrived():
            return {"eventType": "AgreementEvent", "eventDate": date, "agreement": agreement(event.agreement)}
        case _:
            assert_never(event)


def agreement(view: AgreementView) -> dict[str, Any]:
    """Return an agreement."""
    created = format_time(view.created_ns)
    return _present(
        agreementId=view.agreement_id,
        demand={
            "properties": _json(view.demand_properties),
            "constraints": view.demand_constraints,
            "demandId": view.demand_id,
            "requestorId": view.requestor_id,
            "timestamp": created,
        },
        offer={
            "properties": _json(view.offer_properties),
            "constraints": view.offer_constraints,
            "offerId": view.offer_id,
            "providerId": view.provider_id,
            "timestamp": created,
        },
        validTo=format_time(view.valid_to_ns),
        approvedDate=_time(view.approved_ns),
        state=_state(view.state),
        timestamp=created,
        appSessionId=view.app_session_id,
        proposedSignature=view.proposed_signature,
        approvedSignature=view.approved_signature if view.committed_signature else None,
        committedSignature=view.committed_signature,
    )


def agreement_line(view: AgreementView) -> dict[str, Any]:
    """Return an agreement as lists show it."""
    return {
        "id": view.agreement_id,
        "timestamp": format_time(view.created_ns),
        "approvedDate": _time(view.approved_ns),
        "role": view.role.value,
    }


def agreement_event(event: events.AgreementEvent) -> dict[str, Any]:
    """Return an entry of the log of agreement events; its date has microseconds and can be resumed after."""
    shown: dict[str, Any] = {
        "eventDate": format_time(event.at_ns),
        "agreementId": event.agreement_id,
        "eventType": f"Agreement{event.kind}Event",
    }
    if event.kind == "Terminated":
        shown["terminator"] = event.by.value if event.by else None
        shown["signature"] = event.signature
    if event.reason is not None:
        shown["reason"] = _json(event.reason)
    return shown


def _state(state: AgreementState) -> str:
    return "Pending" if state is AgreementState.APPROVING else state.value


def _time(ns: int | None) -> str | None:
    return None if ns is None else format_time(ns)


def _json(text: str | None) -> msgspec.Raw | None:
    """Return JSON text as it is: numbers keep the form in which their author wrote them."""
    return None if text is None else msgspec.Raw(text.encode())


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
