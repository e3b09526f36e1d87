"""`MarketProtocol`: the market as a protocol of the node.

Serves `/public/market` to peers and `/local/market` to other protocols of this node, joins the broadcast of
offers, and compares agreements with peers that come back. What it serves to people and agents is `service`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

import trio

from p2p.bus import Caller, Service, ServiceError
from protocols.market import store
from protocols.market.core.limits import RateLimit
from protocols.market.errors import MarketError, NotFound
from protocols.market.messages import (
    LOCAL_SERVICE,
    PROTOCOL,
    PUBLIC_SERVICE,
    AgreementApproved,
    AgreementCancelled,
    AgreementCommitted,
    AgreementReceived,
    AgreementRejected,
    Agreements,
    AgreementTerminated,
    AgreementView,
    GetAgreement,
    GetBodies,
    GetOffers,
    InitialProposalReceived,
    ListAgreements,
    ProposalReceived,
    ProposalRejected,
    Role,
    SyncAgreement,
)
from protocols.market.service import Market
from protocols.market.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from p2p.identity import Signer
    from p2p.overlay import PeerChange
    from p2p.protocol import NodeContext

Request = TypeVar("Request")

MAX_RETURNED = 256
"""Peers that wait for their agreements to be compared; beyond that it is left to the outbox."""


class MarketProtocol:
    """The market; a `p2p.protocol.Protocol`.

    Args:
        settings: as the section `market` of the configuration; it wins over what the context brings.
        signers: further identities that this node acts for, by NodeId, beside its own.
    """

    def __init__(
        self, settings: Mapping[str, object] | None = None, *, signers: Mapping[str, Signer] | None = None
    ) -> None:
        self._given = dict(settings or {})
        self._signers = dict(signers or {})
        self._service: Market | None = None

    @property
    def name(self) -> str:
        return PROTOCOL

    @property
    def service(self) -> Market:
        """What REST and agents call, while the protocol runs."""
        if self._service is None:
            raise RuntimeError("the market is not running")
        return self._service

    @contextlib.asynccontextmanager
    async def running(self, ctx: NodeContext) -> AsyncIterator[None]:
        settings = read_settings({**ctx.settings, **self._given})
        market = Market(ctx, settings, self._signers)
        returned_in, returned_out = trio.open_memory_channel[str](MAX_RETURNED)

        def returned(peer: str) -> None:
            with contextlib.suppress(trio.WouldBlock):
                returned_in.send_nowait(peer)

        def peer_changed(change: PeerChange) -> None:
            if change.connected:
                returned(change.node_id)

        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(market.running())
            public = ctx.bus.register(PUBLIC_SERVICE, _public(market, ctx), allow=_no_child)
            stack.callback(public.close)
            local = ctx.bus.register(LOCAL_SERVICE, _local(market), allow=_own_node)
            stack.callback(local.close)
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            stack.callback(ctx.overlay.subscribe_peers(peer_changed))
            for peer in ctx.overlay.peers():
                returned(peer.node_id)
            nursery.start_soon(_compare, market, ctx, returned_out)
            self._service = market
            try:
                yield
            finally:
                self._service = None


async def _compare(market: Market, ctx: NodeContext, returned: trio.MemoryReceiveChannel[str]) -> None:
    async for peer in returned:
        await market.agreement_peers.peer_returned(peer)


def _no_child(caller: Caller) -> bool:
    return not caller.child  # an exe-unit has no business in the market


def _own_node(caller: Caller) -> bool:
    return caller.local and not caller.child


def _public(market: Market, ctx: NodeContext) -> Service:
    service = Service()
    rate = RateLimit(per_second=50, burst=500)

    def serve(request: type[Request], handler: Callable[[Caller, Request], Awaitable[object]]) -> None:
        async def guarded(caller: Caller, message: Request) -> object:
            try:
                rate.spend(caller.node_id, ctx.clock.monotonic(), "messages")
                return await handler(caller, message)
            except MarketError as error:
                raise ServiceError(error.kind, str(error)) from error

        service.method(request, guarded)

    offers, proposals, agreements = market.offers_of_all, market.proposals, market.agreement_peers
    serve(GetBodies, offers.get_bodies)
    serve(GetOffers, offers.get_offers)
    serve(InitialProposalReceived, proposals.initial_received)
    serve(ProposalReceived, proposals.received)
    serve(ProposalRejected, proposals.rejected)
    serve(AgreementReceived, agreements.received)
    serve(AgreementApproved, agreements.approved)
    serve(AgreementCommitted, agreements.committed)
    serve(AgreementRejected, agreements.rejected)
    serve(AgreementCancelled, agreements.cancelled)
    serve(AgreementTerminated, agreements.terminated)
    serve(SyncAgreement, agreements.synced)
    return service


def _local(market: Market) -> Service:
    service = Service()

    async def get_agreement(caller: Caller, request: GetAgreement) -> AgreementView:
        for role in (request.role,) if request.role else Role:
            found = await market.agreements_of_all.find(request.agreement_id, role)
            if found is not None:
                return found.view()
        missing = NotFound(f"Agreement [{request.agreement_id}] not found.")
        raise ServiceError(missing.kind, str(missing))

    async def list_agreements(caller: Caller, request: ListAgreements) -> Agreements:
        wanted = store.Filter(
            role=request.role,
            states=request.states,
            after=request.after,
            limit=max(1, min(request.limit, 100)),
        )
        found = await market.agreements_of_all.select(wanted)
        return Agreements(tuple(agreement.view() for agreement in found))

    service.method(GetAgreement, get_agreement)
    service.method(ListAgreements, list_agreements)
    return service
