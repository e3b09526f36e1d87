"""A provider and a requestor on nodes in memory, and the steps of a deal between them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from p2p.testing.clock import EPOCH_NS
from p2p.testing.nodes import memory_nodes
from protocols.market.events import AgreementArrived, NegotiationEvent, ProposalArrived
from protocols.market.handler import MarketProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.identity import NodeId
    from p2p.protocol import NodeContext
    from protocols.market.service import Market

HOUR_NS = 3600 * 10**9
OFFER = {
    "golem.runtime.name": "vm",
    "golem.inf.mem.gib": 4.0,
    "golem.node.debug.subnet": "test",
    "golem.com.pricing.model.linear.coeffs": [0.0001, 5e-05, 0.0],
}
OFFER_CONSTRAINTS = "(golem.srv.comp.expiration>1)"
DEMAND = {"golem.srv.comp.expiration": 1_900_000_000_000, "golem.node.debug.subnet": "test"}
DEMAND_CONSTRAINTS = "(&(golem.runtime.name=vm)(golem.inf.mem.gib>=0.5)(golem.node.debug.subnet=test))"


class Trader:
    """One node, acting for its own identity."""

    def __init__(self, ctx: NodeContext, market: Market) -> None:
        self.ctx = ctx
        self.market = market
        self.id: NodeId = ctx.node_id

    async def offer(self, properties: Any = None, constraints: str = OFFER_CONSTRAINTS, **more: Any) -> str:
        return await self.market.subscribe_offer(self.id, properties or OFFER, constraints, **more)

    async def demand(self, properties: Any = None, constraints: str = DEMAND_CONSTRAINTS, **more: Any) -> str:
        return await self.market.subscribe_demand(self.id, properties or DEMAND, constraints, **more)

    async def collect(self, kind: Any, subscription: str, timeout: float = 30.0) -> list[NegotiationEvent]:
        collected = await self.market.collect(self.id, kind, subscription, timeout=timeout)
        collected.confirm()
        return list(collected.events)

    async def proposal(self, kind: Any, subscription: str) -> Any:
        (event,) = await self.collect(kind, subscription)
        assert isinstance(event, ProposalArrived)
        return event.proposal

    async def counter(self, subscription: str, proposal_id: str, properties: Any, constraints: str) -> str:
        return await self.market.counter(self.id, subscription, proposal_id, properties, constraints)


@contextlib.asynccontextmanager
async def traders(count: int = 2, *, seed: int = 1, **settings: object) -> AsyncIterator[list[Trader]]:
    """Run markets on `count` connected nodes."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for ctx in await stack.enter_async_context(memory_nodes(count, seed=seed, settings=settings)):
            protocol = MarketProtocol()
            await stack.enter_async_context(protocol.running(ctx))
            found.append(Trader(ctx, protocol.service))
        yield found


async def negotiated(provider: Trader, requestor: Trader) -> tuple[str, str, str]:
    """Bring a provider and a requestor to a provider's draft; return offer, demand and the draft's `R-` id."""
    offer = await provider.offer()
    demand = await requestor.demand()
    initial = await requestor.proposal("demand", demand)
    await requestor.counter(demand, initial.proposal_id, DEMAND, DEMAND_CONSTRAINTS)
    asked = await provider.proposal("offer", offer)
    await provider.counter(offer, asked.proposal_id, OFFER, OFFER_CONSTRAINTS)
    draft = await requestor.proposal("demand", demand)
    return offer, demand, draft.proposal_id


async def pending(provider: Trader, requestor: Trader, valid_ns: int = HOUR_NS) -> tuple[str, str, str]:
    """Bring the two to an agreement that waits for approval; return offer, demand and agreement id."""
    offer, demand, draft = await negotiated(provider, requestor)
    valid_to = requestor.ctx.clock.utc_ns() + valid_ns
    agreement = await requestor.market.create_agreement(requestor.id, draft, valid_to)
    await requestor.market.confirm_agreement(requestor.id, agreement, "session-R")
    (event,) = await provider.collect("offer", offer)
    assert isinstance(event, AgreementArrived)
    assert event.agreement.agreement_id == agreement
    return offer, demand, agreement


async def approved(provider: Trader, requestor: Trader, valid_ns: int = HOUR_NS) -> tuple[str, str, str]:
    """Bring the two to an approved agreement."""
    offer, demand, agreement = await pending(provider, requestor, valid_ns)
    await provider.market.approve_agreement(provider.id, agreement, "session-P", timeout=10)
    return offer, demand, agreement


__all__ = ["EPOCH_NS", "HOUR_NS", "Trader", "approved", "negotiated", "pending", "traders"]
