"""A whole deal between two nodes, and the views of it on both."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import trio
import trio.testing

from p2p.clock import SystemClock
from p2p.storage import open_database
from p2p.testing.nodes import memory_nodes
from protocols.market.messages import AgreementState, Role
from tests.protocols.market.trading import Neighbours, Trader, approved, pending, traders

if TYPE_CHECKING:
    from pathlib import Path


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


async def test_a_deal_with_databases_on_disk(tmp_path: Path) -> None:
    """Real threads and real time: what the inline database of the other tests would hide."""
    async with contextlib.AsyncExitStack() as stack:
        nodes, everyone = [], Neighbours()
        for number, ctx in enumerate(await stack.enter_async_context(memory_nodes(2, seed=3))):
            database = await stack.enter_async_context(open_database(tmp_path / f"{number}.sqlite3"))
            broadcast = everyone.of(ctx.node_id)
            clock = SystemClock()
            nodes.append(dataclasses.replace(ctx, database=database, clock=clock, broadcast=broadcast))
        nursery = await stack.enter_async_context(trio.open_nursery())
        provider, requestor = (Trader(ctx, nursery) for ctx in nodes)
        for trader in (provider, requestor):
            await trader.start()
        _, _, agreement = await approved(provider, requestor)
        await provider.restart()
        assert await provider.state(agreement) is AgreementState.APPROVED
        await provider.market.terminate_agreement(provider.id, agreement, {"message": "done"})
        events = await requestor.market.agreement_events(requestor.id, after_ns=0, timeout=10)
        events = await requestor.market.agreement_events(requestor.id, after_ns=events[0].at_ns, timeout=10)
        assert [event.kind for event in events] == ["Terminated"]
        for trader in (provider, requestor):
            await trader.kill()
