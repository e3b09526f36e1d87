"""A provider and a requestor on nodes in memory, and the steps of a deal between them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import trio

from p2p.bus import ask, net_address
from p2p.testing.clock import EPOCH_NS
from p2p.testing.nodes import memory_nodes
from protocols.market.events import AgreementArrived, NegotiationEvent, ProposalArrived
from protocols.market.handler import MarketProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.identity import NodeId
    from p2p.protocol import NodeContext
    from p2p.testing.overlay import MemoryNetwork
    from protocols.market.messages import AgreementState
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
    """One node, acting for its own identity. It can be stopped and started again on the same disk."""

    def __init__(self, ctx: NodeContext, nursery: trio.Nursery) -> None:
        self.ctx = ctx
        self.id: NodeId = ctx.node_id
        self.protocol = MarketProtocol()
        self._nursery = nursery
        self._life = trio.CancelScope()
        self._ended = trio.Event()

    @property
    def market(self) -> Market:
        return self.protocol.service

    @property
    def network(self) -> MemoryNetwork:
        """What lies between this node and the others."""
        overlay: Any = self.ctx.overlay
        world: MemoryNetwork = overlay._world
        return world

    async def start(self) -> None:
        self.protocol = MarketProtocol()
        self._life, self._ended = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._live)

    async def _live(self, task_status: Any) -> None:
        with self._life:
            async with self.protocol.running(self.ctx):
                task_status.started()
                await trio.Event().wait()
        self._ended.set()

    async def kill(self) -> None:
        """End the protocol where it stands."""
        self._life.cancel()
        await self._ended.wait()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def state(self, agreement: str) -> AgreementState:
        return (await self.market.agreement(self.id, agreement)).state

    async def kinds(self) -> list[str]:
        """Return what happened to our agreements."""
        events = await self.market.agreement_events(self.id, after_ns=0, timeout=0, limit=100)
        return [event.kind for event in events]

    async def ask(self, peer: Trader, message: Any, reply: Any) -> Any:
        """Say something to a peer's node as this node."""
        return await ask(self.ctx.bus, net_address(peer.id, "market"), message, reply)

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


class Neighbours:
    """A broadcast that hands records straight to everyone else, and lets nodes join again."""

    def __init__(self) -> None:
        self.topics: dict[NodeId, Any] = {}
        self.published: list[tuple[NodeId, bytes]] = []

    def of(self, node_id: NodeId) -> Any:
        return _Neighbour(self, node_id)


class _Neighbour:
    def __init__(self, everyone: Neighbours, node_id: NodeId) -> None:
        self._everyone = everyone
        self._node_id = node_id

    async def join(self, topic: Any) -> None:
        self._everyone.topics[self._node_id] = topic

    async def publish(self, topic: str, data: bytes) -> None:
        self._everyone.published.append((self._node_id, data))
        for node_id, other in list(self._everyone.topics.items()):
            if node_id != self._node_id:
                await other.receive(data, self._node_id)


@contextlib.asynccontextmanager
async def traders(
    count: int = 2, *, seed: int = 1, neighbours: Neighbours | None = None, **settings: object
) -> AsyncIterator[list[Trader]]:
    """Run markets on `count` connected nodes; with `neighbours` instead of gossip, if given."""
    async with memory_nodes(count, seed=seed, settings=settings) as nodes, trio.open_nursery() as nursery:
        found = []
        for ctx in nodes:
            if neighbours is not None:
                ctx = dataclasses.replace(ctx, broadcast=neighbours.of(ctx.node_id))
            found.append(Trader(ctx, nursery))
            await found[-1].start()
        yield found
        nursery.cancel_scope.cancel()


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


__all__ = ["EPOCH_NS", "HOUR_NS", "Neighbours", "Trader", "approved", "negotiated", "pending", "traders"]
