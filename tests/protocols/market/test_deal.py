"""A whole deal between two nodes, and the views of it on both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.market.messages import AgreementState, Role
from tests.protocols.market.trading import approved, pending, traders

if TYPE_CHECKING:
    import trio.testing


async def test_a_deal_from_offer_to_termination(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, demand, agreement = await pending(provider, requestor)
        await provider.market.approve_agreement(provider.id, agreement, "session-P", timeout=10)
        await requestor.market.wait_for_approval(requestor.id, agreement, 10)
        ours = await requestor.market.agreement(requestor.id, agreement)
        theirs = await provider.market.agreement(provider.id, agreement)
        assert (ours.state, theirs.state) == (AgreementState.APPROVED, AgreementState.APPROVED)
        assert (ours.role, theirs.role) == (Role.REQUESTOR, Role.PROVIDER)
        assert (ours.app_session_id, theirs.app_session_id) == ("session-R", "session-P")
        assert (ours.offer_id, ours.demand_id) == (offer, demand)
        assert ours.committed_signature
        assert ours.committed_signature == theirs.committed_signature
        await requestor.market.terminate_agreement(requestor.id, agreement, {"message": "done"})
        events = await provider.market.agreement_events(provider.id, after_ns=0, timeout=5, limit=10)
        assert [event.kind for event in events] == ["Approved"]
        events = await provider.market.agreement_events(provider.id, after_ns=events[-1].at_ns, timeout=5)
        assert [(event.kind, event.by) for event in events] == [("Terminated", Role.REQUESTOR)]
        again = await requestor.proposal("demand", demand)
        assert again.state == "Initial"


async def test_both_sides_hear_of_an_approval(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        await approved(provider, requestor)
        for side in (provider, requestor):
            events = await side.market.agreement_events(side.id, after_ns=0, timeout=1)
            assert [event.kind for event in events] == ["Approved"]
