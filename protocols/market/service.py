"""`Market`: what REST, the provider agent and the requestor helper call.

Each method takes the acting identity, one of this node's own; what belongs to another is as if it were not
there. Errors are those of `protocols.market.errors`. Events of offers and demands are given out once:
`collect` returns a `Collected` that is confirmed when it was delivered, or put back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import trio

from protocols.ground.wakeup import Signal
from protocols.market import store
from protocols.market.agreement_peers import AgreementPeers
from protocols.market.agreement_records import AgreementRecords, Hooks
from protocols.market.agreements import AgreementExchange
from protocols.market.errors import Forbidden
from protocols.market.negotiation import ProposalExchange
from protocols.market.offers import OfferExchange
from protocols.market.reasons import check_reason
from protocols.market.scans import ScanPage, Scans
from protocols.market.subscriptions import Kind, Subscriptions, SubscriptionView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from p2p.identity import NodeId, Signer
    from p2p.protocol import NodeContext
    from protocols.market.core.agreements import Agreement
    from protocols.market.core.catalogue import Change
    from protocols.market.core.queue import Batch, EventQueue
    from protocols.market.events import AgreementEvent, NegotiationEvent, Proposal
    from protocols.market.messages import AgreementState, AgreementView, Role
    from protocols.market.settings import Settings

MAX_EVENTS = 100
"""Most events that one reading gives."""
_LONGEST_SLEEP = 60.0
"""Seconds after which the timer looks again whatever happens: the machine's clock may have been set."""


class Collected:
    """Events taken from a queue; settle them once."""

    def __init__(self, queue: EventQueue | None, batch: Batch | None) -> None:
        self._queue = queue
        self._batch = batch

    @property
    def events(self) -> tuple[NegotiationEvent, ...]:
        """The events, those about agreements and rejections first."""
        return self._batch.events if self._batch else ()

    def confirm(self) -> None:
        """Say that they were delivered."""
        if self._queue is not None and self._batch is not None:
            self._queue.confirm(self._batch)

    def put_back(self) -> None:
        """Say that they were not: they will be collected again, in their order."""
        if self._queue is not None and self._batch is not None:
            self._queue.put_back(self._batch)


class Market:
    """The market as this node takes part in it."""

    def __init__(self, ctx: NodeContext, settings: Settings, signers: Mapping[str, Signer]) -> None:
        self._ctx = ctx
        self._signers = {ctx.node_id: ctx.signer, **signers}
        self._replanned = Signal()
        self._subscriptions = Subscriptions()
        self.proposals = ProposalExchange(ctx, settings, self._subscriptions, self._signer_of)
        self.offers_of_all = OfferExchange(
            ctx, settings, self._subscriptions, self._signer_of, self._offers_changed
        )
        self.proposals.catalogue = self.offers_of_all.catalogue
        hooks = Hooks(ended=self._agreement_ended, replanned=self._agreements_replanned)
        self._records = AgreementRecords(ctx, self._signer_of, hooks)
        self.agreements_of_all = AgreementExchange(self._records, settings, self.proposals.book)
        self.agreement_peers = AgreementPeers(self._records, self._subscriptions, self.proposals.book)
        self._scans = Scans(self.offers_of_all)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Join the broadcast, deliver messages and keep time while the context is open."""
        peers = self.agreement_peers
        await self._records.open(delivered=peers.delivered, refused=peers.refused)
        async with trio.open_nursery() as nursery:
            self.proposals.run_in(nursery)
            nursery.start_soon(self._records.outbox.run)
            await self.offers_of_all.start()
            nursery.start_soon(self._keep_time)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    # --- offers and demands -----------------------------------------------------------------------------------

    async def subscribe_offer(
        self, acting: NodeId, properties: Any, constraints: str, *, ttl: float | None = None, free: int = 1
    ) -> str:
        """Publish an offer; return its id.

        Args:
            properties: JSON document, nested or flat.
            constraints: constraint text; a broken one subscribes and never matches.
            ttl: seconds that it stands; None for the configured life, `math.inf` until it is withdrawn.
            free: how many agreements the provider would take; see `set_free`.

        Raises:
            BadRequest: beyond the limits. LimitReached: 64 offers of the identity stand already.
        """
        offer_id = await self.offers_of_all.subscribe(acting, properties, constraints, ttl, free)
        self._replanned.notify()
        return offer_id

    async def subscribe_demand(
        self, acting: NodeId, properties: Any, constraints: str, *, ttl: float | None = None
    ) -> str:
        """Open a demand; return its id. What matches it already can be collected at once. Args as for offers."""
        demand_id = await self.proposals.subscribe(acting, properties, constraints, ttl)
        self._replanned.notify()
        return demand_id

    async def set_free(self, acting: NodeId, offer_id: str, free: int) -> None:
        """Let everyone know how many more agreements an offer's provider would take; 0 is busy.

        Raises:
            BadRequest, Gone: the offer is not open.
        """
        await self.offers_of_all.set_free(acting, offer_id, free)

    async def unsubscribe_offer(self, acting: NodeId, offer_id: str) -> None:
        """Withdraw an offer. Raises NotFound; Gone: it was withdrawn before, or has expired."""
        await self.offers_of_all.unsubscribe(acting, offer_id)

    async def unsubscribe_demand(self, acting: NodeId, demand_id: str) -> None:
        """Close a demand. Raises NotFound."""
        self.proposals.unsubscribe(acting, demand_id)
        await trio.lowlevel.checkpoint()

    def offers(self, acting: NodeId) -> Sequence[SubscriptionView]:
        """Return the identity's offers that stand."""
        return self._subscriptions.views("offer", acting, self._ctx.clock.utc_ns())

    def demands(self, acting: NodeId) -> Sequence[SubscriptionView]:
        """Return the identity's demands that are open."""
        return self._subscriptions.views("demand", acting, self._ctx.clock.utc_ns())

    # --- negotiation ------------------------------------------------------------------------------------------

    async def collect(
        self, acting: NodeId, kind: Kind, subscription_id: str, *, timeout: float, limit: int = 20
    ) -> Collected:
        """Take events of an offer or demand, waiting up to `timeout` seconds for the first.

        Raises:
            NotFound: unknown, foreign or expired; also a demand that was closed, even while waiting.
        """
        deadline = trio.current_time() + timeout
        await trio.lowlevel.checkpoint()
        while True:
            now = self._ctx.clock.utc_ns()
            subscription = self._subscriptions.readable(kind, acting, subscription_id, now)
            ticket = subscription.signal.ticket()
            batch = self.proposals.take(subscription, limit)
            if batch is not None or trio.current_time() >= deadline:
                return Collected(subscription.queue, batch)
            with trio.move_on_at(deadline):
                await ticket.wait()

    async def proposal(self, acting: NodeId, subscription_id: str, proposal_id: str) -> Proposal:
        """Return a proposal. Raises NotFound, InvalidId."""
        await trio.lowlevel.checkpoint()
        return self.proposals.proposal(acting, subscription_id, proposal_id)

    async def counter(
        self, acting: NodeId, subscription_id: str, proposal_id: str, properties: Any, constraints: str
    ) -> str:
        """Answer a proposal with another; return the new one's id.

        Raises:
            BadRequest: one's own, unsubscribed, or NotMatching. NotFound.
            Gone: countered already, or expired. PeerRefused: the other side's node does not take it.
        """
        return await self.proposals.counter(acting, subscription_id, proposal_id, properties, constraints)

    async def reject_proposal(
        self, acting: NodeId, subscription_id: str, proposal_id: str, reason: Any
    ) -> None:
        """Refuse a proposal; may be repeated.

        Args:
            reason: None, or an object with a `message`.

        Raises:
            BadRequest: one's own, or a malformed reason. NotFound, Gone, Conflict.
        """
        await self.proposals.reject(acting, subscription_id, proposal_id, check_reason(reason))

    async def propose_again(self, acting: NodeId, demand_id: str, proposal_id: str) -> None:
        """Requestor: begin a negotiation that came to nothing anew, with an Initial proposal of the same offer.

        There is none if the offer is gone, or as long as its provider is busy: then it comes when it is free.

        Raises:
            NotFound, InvalidId: no such proposal of the demand.
        """
        self.proposals.propose_again(acting, demand_id, proposal_id)
        await trio.lowlevel.checkpoint()

    # --- agreements -------------------------------------------------------------------------------------------

    async def create_agreement(self, acting: NodeId, proposal_id: str, valid_to_ns: int) -> str:
        """Requestor: make an agreement of the provider's proposal, telling nobody yet; return its id.

        Raises:
            BadRequest: no such proposal, or not one that can be agreed to. Conflict: it has an agreement.
        """
        return await self.agreements_of_all.create(acting, proposal_id, valid_to_ns)

    async def confirm_agreement(
        self, acting: NodeId, agreement_id: str, app_session_id: str | None = None
    ) -> None:
        """Requestor: sign the agreement and send it. Raises NotFound, WrongState."""
        await self.agreements_of_all.confirm(acting, agreement_id, app_session_id)

    async def wait_for_approval(self, acting: NodeId, agreement_id: str, timeout: float) -> None:
        """Requestor: return when the provider has approved.

        Raises:
            TimedOut; Gone: rejected, cancelled, expired; BadRequest: unconfirmed, terminated; NotFound.
        """
        await self.agreements_of_all.wait(acting, agreement_id, timeout)

    async def cancel_agreement(self, acting: NodeId, agreement_id: str, reason: Any = None) -> None:
        """Requestor: take back an agreement that is not approved. Raises NotFound, WrongState, BadRequest."""
        await self.agreements_of_all.cancel(acting, agreement_id, check_reason(reason))

    async def approve_agreement(
        self, acting: NodeId, agreement_id: str, app_session_id: str | None = None, *, timeout: float
    ) -> None:
        """Provider: sign the agreement, and wait until the requestor is bound too.

        Raises:
            PeerSilent: not in time. It may be called again; the agreement may also become Approved by itself.
            Gone: cancelled or expired meanwhile. NotFound, WrongState.
        """
        await self.agreements_of_all.approve(acting, agreement_id, app_session_id, timeout)

    async def reject_agreement(self, acting: NodeId, agreement_id: str, reason: Any = None) -> None:
        """Provider: refuse an agreement that is not approved. Raises NotFound, WrongState, BadRequest."""
        await self.agreements_of_all.reject(acting, agreement_id, check_reason(reason))

    async def terminate_agreement(self, acting: NodeId, agreement_id: str, reason: Any = None) -> None:
        """Either: end an approved agreement, at once and whether or not the other node is reached.

        Raises:
            NotFound, WrongState, BadRequest; Conflict: it was not even confirmed.
        """
        await self.agreements_of_all.terminate(acting, agreement_id, check_reason(reason))

    async def agreement(self, acting: NodeId, agreement_id: str) -> AgreementView:
        """Return an agreement. Raises NotFound."""
        return (await self.agreements_of_all.get(acting, agreement_id)).view()

    async def agreements(
        self,
        acting: NodeId,
        *,
        states: Sequence[AgreementState] = (),
        role: Role | None = None,
        after_ns: int | None = None,
        before_ns: int | None = None,
        app_session_id: str | None = None,
    ) -> list[AgreementView]:
        """Return the identity's agreements, oldest first."""
        wanted = store.Filter(
            owner=acting,
            role=role,
            states=states,
            created_after_ns=after_ns,
            created_before_ns=before_ns,
            app_session_id=app_session_id,
        )
        return [agreement.view() for agreement in await self.agreements_of_all.select(wanted)]

    async def termination(self, acting: NodeId, agreement_id: str) -> AgreementEvent:
        """Return how an agreement was terminated. Raises NotFound; BadRequest: it is not."""
        return await self.agreements_of_all.termination(acting, agreement_id)

    async def agreement_events(
        self,
        acting: NodeId,
        *,
        after_ns: int,
        app_session_id: str | None = None,
        timeout: float,
        limit: int = 20,
    ) -> Sequence[AgreementEvent]:
        """Return what happened to the identity's agreements after a time, waiting for the first of it."""
        return await self.agreements_of_all.events(acting, after_ns, app_session_id, limit, timeout)

    # --- scans ------------------------------------------------------------------------------------------------

    def begin_scan(
        self, acting: NodeId, kind: Kind, constraints: str | None = None, timeout: float | None = None
    ) -> str:
        """Open a scan of what is on offer; return its id. Raises BadRequest, LimitReached."""
        return self._scans.begin(acting, kind, constraints, timeout)

    async def scan(self, acting: NodeId, scan_id: str, *, timeout: float, limit: int = 500) -> ScanPage:
        """Return what the scan finds and did not deliver yet. Raises NotFound, Forbidden."""
        return await self._scans.collect(acting, scan_id, timeout=timeout, limit=limit)

    async def scan_provider(
        self, acting: NodeId, scan_id: str, provider: NodeId, *, timeout: float
    ) -> Sequence[SubscriptionView]:
        """Ask one provider's node what it offers. Raises NotFound, Forbidden, TimedOut, PeerFault."""
        return await self._scans.ask(acting, scan_id, provider, timeout=timeout)

    def end_scan(self, acting: NodeId, scan_id: str) -> None:
        """Close a scan. Raises NotFound, Forbidden."""
        self._scans.end(acting, scan_id)

    # --- inside -----------------------------------------------------------------------------------------------

    def _signer_of(self, node_id: str) -> Signer:
        signer = self._signers.get(node_id)
        if signer is None:
            raise Forbidden(f"this node has no key of {node_id}")
        return signer

    def _offers_changed(self, change: Change) -> None:
        self.proposals.offers_changed(change)
        if change.new is not None:
            self._scans.offers_changed()
        self._replanned.notify()

    def _agreements_replanned(self) -> None:
        self.agreements_of_all.replan()
        self._replanned.notify()

    def _agreement_ended(self, agreement: Agreement) -> None:
        self.proposals.offer_again(agreement.terms.demand_id, agreement.terms.offer_id)

    async def _keep_time(self) -> None:
        while True:
            ticket = self._replanned.ticket()
            now = self._ctx.clock.utc_ns()
            for subscription in self._subscriptions.over(now):
                if subscription.kind == "offer":
                    await self.offers_of_all.end_expired(subscription)
                else:
                    self.proposals.end(subscription, "expired")
            dues = (
                await self.offers_of_all.tick(now),
                await self.agreements_of_all.tick(now),
                self.proposals.book.expire(now),
                self._subscriptions.next_due(),
            )
            due = min((due for due in dues if due is not None), default=None)
            pause = _LONGEST_SLEEP
            if due is not None:
                pause = min(pause, max(0.001, (due - self._ctx.clock.utc_ns()) / 1e9))
            with trio.move_on_after(pause):
                await ticket.wait()
