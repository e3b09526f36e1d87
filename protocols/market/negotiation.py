"""The exchange of proposals: demands, what matches them, and the talk with the other side's node.

A demand stays on its node, which matches it against the catalogue and makes Initial proposals of what fits. The
requestor's first counter is what tells the provider. A counter is kept here first and then delivered, tried
again for a minute; what cannot be delivered comes back to its agent as rejected, with the reason.

Called by `service.Market`, by peers through the handler, and by the handler's timer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio

from p2p.bus import BusError, RemoteError, ask, net_address
from protocols.ground.times import SECOND
from protocols.market import events, ids
from protocols.market.core.catalogue import SKEW_NS, Change, Offer
from protocols.market.core.limits import RateLimit
from protocols.market.core.proposals import Negotiation, Negotiations, Record, check_reaction
from protocols.market.errors import (
    BadRequest,
    Conflict,
    Gone,
    LimitReached,
    MarketError,
    NotFound,
    PeerRefused,
    PeerSilent,
)
from protocols.market.language import LanguageError, PropertySet
from protocols.market.matcher import Matcher
from protocols.market.matcher import Subscription as MatcherEntry
from protocols.market.messages import (
    MAX_BODY_BYTES,
    PROTOCOL,
    Ack,
    InitialProposalReceived,
    ProposalContent,
    ProposalReceived,
    ProposalRejected,
    Role,
)
from protocols.market.offers import expiry_of
from protocols.market.reasons import read_reason
from protocols.market.subscriptions import Subscription, Subscriptions, read_content

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from p2p.bus import Caller
    from p2p.identity import NodeId, Signer
    from p2p.protocol import NodeContext
    from protocols.market.core.catalogue import Catalogue
    from protocols.market.core.queue import Batch
    from protocols.market.settings import Settings

FIRST_OUTCOME_TIMEOUT = 4.0
"""Seconds that a counter waits for the peer's answer before it returns; yapapi itself gives up after five."""
DELIVERY_PAUSES = (1.0, 3.0, 8.0, 16.0, 30.0)
"""Seconds between the attempts to deliver a proposal."""
CALL_TIMEOUT = 10.0
MAX_DELIVERIES = 2000
"""Proposals and rejections on their way at a time."""
AGREEMENT_GRACE_NS = 3600 * SECOND
"""How long after its demand's end a proposal may still become an agreement."""
LONGEST_NS = 24 * 3600 * SECOND
_MATCHES_PER_TURN = 200


class ProposalExchange:
    """Demands, and proposals with everybody."""

    def __init__(
        self,
        ctx: NodeContext,
        settings: Settings,
        subscriptions: Subscriptions,
        signer_of: Callable[[str], Signer],
    ) -> None:
        self.book = Negotiations()
        self.catalogue: Catalogue
        """Set by the service, which makes the exchange of offers after this one."""
        self._ctx = ctx
        self._settings = settings
        self._subscriptions = subscriptions
        self._signer_of = signer_of
        self._matcher = Matcher()
        self._rate = RateLimit(per_second=5, burst=20)
        self._demands = 0
        self._deliveries = 0
        self._nursery: trio.Nursery | None = None

    def run_in(self, nursery: trio.Nursery) -> None:
        """Deliver in this nursery."""
        self._nursery = nursery

    # --- demands and matching ---------------------------------------------------------------------------------

    async def subscribe(self, owner: NodeId, properties: Any, constraints: str, ttl: float | None) -> str:
        """Open a demand and match it; return its subscription id.

        Raises:
            BadRequest: the content is beyond the limits. Forbidden: not an identity of ours. LimitReached.
        """
        content, text, constraint = read_content(properties, constraints)
        self._signer_of(owner)
        self._subscriptions.check_room("demand")
        now = self._ctx.clock.utc_ns()
        self._demands += 1
        subscription = Subscription(
            id=ids.subscription_id("demand", owner, self._demands, now),
            kind="demand",
            owner=owner,
            properties=content,
            constraints=text,
            created_ns=now,
            expires_ns=expiry_of(now, ttl, self._settings),
            constraint=constraint,
        )
        self._subscriptions.add(subscription)
        entry = subscription.matcher_entry()
        if entry is not None:
            self._matcher.add_demand(entry)
            for count, offer_id in enumerate(self._matcher.match_demand(entry), 1):
                self._propose(subscription, offer_id)
                if count % _MATCHES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
        return subscription.id

    def unsubscribe(self, owner: NodeId, subscription_id: str) -> None:
        """Close a demand. Raises NotFound."""
        now = self._ctx.clock.utc_ns()
        self.end(self._subscriptions.to_unsubscribe("demand", owner, subscription_id, now), "unsubscribed")

    def end(self, subscription: Subscription, how: Any) -> None:
        """Close a demand that was unsubscribed, or whose time has passed."""
        self._subscriptions.end(subscription, how, self._ctx.clock.utc_ns())
        self._matcher.remove_demand(subscription.id)
        subscription.proposed.clear()

    def offers_changed(self, change: Change) -> None:
        """Match what is new on offer against our demands; drop what is gone."""
        if change.gone is not None:
            self._matcher.remove_offer(change.gone.offer_id)
        if change.new is not None and (entry := _entry_of(change.new)) is not None:
            self._matcher.add_offer(entry)
            now = self._ctx.clock.utc_ns()
            for demand_id in self._matcher.match_offer(entry):
                demand = self._subscriptions.find("demand", demand_id, now)
                if demand is not None:
                    self._propose(demand, change.new.offer_id)

    def offer_again(self, demand_id: str, offer_id: str) -> None:
        """Make a new Initial proposal of a pair whose agreement has ended, if both still stand."""
        demand = self._subscriptions.find("demand", demand_id, self._ctx.clock.utc_ns())
        if demand is not None:
            self._propose(demand, offer_id)

    def propose_again(self, owner: NodeId, demand_id: str, proposal_id: str) -> None:
        """Begin a negotiation that came to nothing anew. Raises NotFound, InvalidId."""
        record = self.book.of_subscription(owner, demand_id, proposal_id)
        self.offer_again(demand_id, record.negotiation.offer_id)

    def _propose(self, demand: Subscription, offer_id: str) -> None:
        """Make an Initial proposal of an offer, unless its provider is busy or there is one to be answered."""
        offer = self.catalogue.offer(offer_id)
        if offer is None or offer.lease.free == 0 or not demand.queue.has_room:
            return
        last = demand.proposed.get(offer_id)
        if last is not None and last.state == "Initial" and last.counter is None:
            return
        now = self._ctx.clock.utc_ns()
        negotiation = Negotiation(
            role=Role.REQUESTOR,
            owner=demand.owner,
            peer=offer.node_id,
            offer_id=offer_id,
            demand_id=demand.id,
            expires_ns=min(demand.expires_ns or now + LONGEST_NS, now + LONGEST_NS) + AGREEMENT_GRACE_NS,
        )
        initial = ids.initial_hash(offer_id, demand.id, offer.body.hash, now)
        try:
            record = self.book.begin(negotiation, initial, offer.body.properties, offer.body.constraints, now)
        except (LimitReached, Conflict) as error:
            self._ctx.log.debug("no proposal made of an offer", offer=offer_id, error=str(error))
            return
        demand.proposed[offer_id] = record
        self._tell(demand, events.ProposalArrived(now, record.view()))

    # --- what agents do ---------------------------------------------------------------------------------------

    def take(self, subscription: Subscription, limit: int) -> Batch | None:
        """Take events from a subscription's queue."""
        return subscription.queue.take(limit, self._ctx.entropy.jitter, self._is_worth_telling)

    def _is_worth_telling(self, event: events.NegotiationEvent) -> bool:
        """Drop Initial proposals of offers that went, or became busy, since; they come again when free."""
        if not isinstance(event, events.ProposalArrived) or event.proposal.state != "Initial":
            return True
        record = self.book.find(*ids.split_proposal_id(event.proposal.proposal_id))
        if record is None:
            return False
        offer = self.catalogue.offer(record.negotiation.offer_id)
        if offer is not None and offer.lease.free > 0:
            return True
        demand = self._subscriptions.find("demand", record.negotiation.demand_id, 0)
        if demand is not None:
            demand.proposed.pop(record.negotiation.offer_id, None)
        return False

    def proposal(self, owner: NodeId, subscription_id: str, proposal_id: str) -> events.Proposal:
        """Return a proposal. Raises NotFound, InvalidId."""
        return self.book.of_subscription(owner, subscription_id, proposal_id).view()

    async def counter(
        self, owner: NodeId, subscription_id: str, proposal_id: str, properties: Any, constraints: str
    ) -> str:
        """Answer a proposal with another; return its id.

        A requestor's first counter returns at once. Later ones wait some seconds for the peer's answer.

        Raises:
            NotFound, BadRequest, NotMatching, Gone: as the rules of proposals say.
            PeerRefused: the other side's node does not take it.
        """
        content, text, _ = read_content(properties, constraints)
        prev = self.book.of_subscription(owner, subscription_id, proposal_id)
        negotiation = prev.negotiation
        check_reaction(prev, negotiation.role)
        self._check_active(negotiation)
        if self._deliveries >= MAX_DELIVERIES:
            raise LimitReached(f"{MAX_DELIVERIES} messages to peers are on their way; try again later")
        was = prev.state
        record = self.book.counter(prev, negotiation.role, content, text, self._ctx.clock.utc_ns())
        delivery = _Delivery(record, self._message_of(record))
        first = isinstance(delivery.message, InitialProposalReceived)
        self._start(self._deliver_proposal, delivery)
        if not first:
            with trio.move_on_after(FIRST_OUTCOME_TIMEOUT):
                await delivery.over.wait()
        if delivery.refusal is not None:
            prev.state = was
            raise delivery.refusal
        delivery.awaited = False
        return record.id

    async def reject(self, owner: NodeId, subscription_id: str, proposal_id: str, reason: str | None) -> None:
        """Refuse a proposal; the other side is told in the background.

        Raises:
            NotFound, BadRequest, Gone, Conflict: as the rules of proposals say.
        """
        record = self.book.of_subscription(owner, subscription_id, proposal_id)
        news = self.book.reject(record, record.negotiation.role, reason)
        # An Initial proposal is this node's own making; the provider does not know of it.
        if news and record.prev is not None and self._deliveries < MAX_DELIVERIES:
            self._start(self._deliver_rejection, record, reason)
        await trio.lowlevel.checkpoint()

    def _check_active(self, negotiation: Negotiation) -> None:
        now = self._ctx.clock.utc_ns()
        self._subscriptions.active(negotiation.kind, negotiation.owner, negotiation.subscription_id, now)
        if negotiation.role is Role.REQUESTOR and self.catalogue.offer(negotiation.offer_id) is None:
            raise BadRequest(f"Subscription [{negotiation.offer_id}] was already unsubscribed.")

    # --- delivering -------------------------------------------------------------------------------------------

    def _start(self, task: Callable[..., Any], *args: object) -> None:
        assert self._nursery is not None, "the exchange is not running"
        self._deliveries += 1
        self._nursery.start_soon(task, *args)

    def _message_of(self, record: Record) -> InitialProposalReceived | ProposalReceived:
        negotiation, prev = record.negotiation, record.prev
        assert prev is not None
        if prev.prev is not None or negotiation.role is Role.PROVIDER:
            return ProposalReceived(prev.hash, record.content())
        return InitialProposalReceived(
            offer_id=negotiation.offer_id,
            demand_id=negotiation.demand_id,
            initial_created_ns=prev.created_ns,
            demand_expires_ns=negotiation.expires_ns - AGREEMENT_GRACE_NS,
            proposal=record.content(),
        )

    async def _deliver_proposal(self, delivery: _Delivery) -> None:
        record = delivery.record
        try:
            problem = await self._deliver(record.negotiation.peer, delivery.message)
        finally:
            self._deliveries -= 1
        if problem is not None and delivery.awaited:
            delivery.refusal = problem
            self.book.withdraw(record)
        elif problem is not None:
            record.state = "Rejected"
            reason = {
                "message": f"the proposal could not be delivered: {problem}",
                "golem.proposal.rejection.is-final": False,
            }
            record.reason = json.dumps(reason)
            self._tell_rejection(record)
        delivery.over.set()

    async def _deliver_rejection(self, record: Record, reason: str | None) -> None:
        try:
            problem = await self._deliver(record.negotiation.peer, ProposalRejected(record.hash, reason))
        finally:
            self._deliveries -= 1
        if problem is not None:
            self._ctx.log.debug("a rejection was not delivered", proposal=record.id, error=str(problem))

    async def _deliver(self, peer: str, message: msgspec.Struct) -> MarketError | None:
        """Try until the peer has answered; return what went wrong, or None."""
        problem: MarketError | None = None
        for pause in (*DELIVERY_PAUSES, None):
            try:
                address = net_address(peer, PROTOCOL)
                await ask(self._ctx.bus, address, message, Ack, timeout=CALL_TIMEOUT)
            except RemoteError as error:
                problem = _mapped(error, peer)
                if error.kind != LimitReached.kind:
                    return problem
            except BusError as error:
                problem = PeerSilent(f"{peer} is not reached: {error}")
            else:
                return None
            if pause is not None:
                await trio.sleep(pause * self._ctx.entropy.jitter.uniform(0.8, 1.2))
        return problem

    def _tell(self, subscription: Subscription, event: events.NegotiationEvent) -> None:
        if not subscription.queue.put(event):
            self._ctx.log.warning("event queue full, an event is lost", subscription=subscription.id)
        subscription.signal.notify()

    def _tell_rejection(self, record: Record) -> None:
        now, negotiation = self._ctx.clock.utc_ns(), record.negotiation
        subscription = self._subscriptions.find(negotiation.kind, negotiation.subscription_id, now)
        if subscription is not None:
            self._tell(subscription, events.ProposalRejected(now, record.id, record.reason))

    # --- what peers say ---------------------------------------------------------------------------------------

    async def initial_received(self, caller: Caller, message: InitialProposalReceived) -> Ack:
        """Take a requestor's first proposal for an offer of ours.

        Raises:
            NotFound, BadRequest, NotMatching, Gone, LimitReached.
        """
        now = self._ctx.clock.utc_ns()
        offer = self._subscriptions.find("offer", message.offer_id, now)
        if offer is None:
            raise NotFound(f"Subscription [{message.offer_id[:128]}] not found. Could be unsubscribed.")
        if offer.owner == caller.node_id:
            raise BadRequest("an offer and a demand of one identity do not match")
        held = self.catalogue.offer(message.offer_id)
        if held is None:
            raise Gone(f"Subscription [{message.offer_id}] expired.")
        ids.check_subscription_id(message.demand_id)
        initial = ids.initial_hash(
            message.offer_id, message.demand_id, held.body.hash, message.initial_created_ns
        )
        known = self.book.find(Role.PROVIDER, initial)
        if known is not None:
            return self._repeated(known, caller, message.proposal)
        self._rate.spend(caller.node_id, self._ctx.clock.monotonic(), "new negotiations")
        negotiation = Negotiation(
            role=Role.PROVIDER,
            owner=offer.owner,
            peer=caller.node_id,
            offer_id=message.offer_id,
            demand_id=message.demand_id,
            expires_ns=min(message.demand_expires_ns, now + LONGEST_NS) + AGREEMENT_GRACE_NS,
        )
        if not offer.queue.has_room:
            raise LimitReached("the provider's agent has too many proposals to read; try again later")
        prev = self.book.begin(
            negotiation, initial, held.body.properties, held.body.constraints, message.initial_created_ns
        )
        try:
            self._take_counter(prev, offer, Role.REQUESTOR, message.proposal)
        except MarketError:
            self.book.abandon(negotiation)
            raise
        return Ack()

    async def received(self, caller: Caller, message: ProposalReceived) -> Ack:
        """Take a counter to a proposal of ours. Raises as `initial_received`."""
        now = self._ctx.clock.utc_ns()
        prev = self._issued_to(caller, message.prev_proposal_id)
        if prev.counter is not None:
            return self._repeated(prev, caller, message.proposal)
        negotiation = prev.negotiation
        subscription = self._subscriptions.find(negotiation.kind, negotiation.subscription_id, now)
        if subscription is None:
            raise Gone(f"Subscription [{negotiation.subscription_id}] is not active any more.")
        if not subscription.queue.has_room:
            raise LimitReached("the other side's agent has too many events to read; try again later")
        self._take_counter(prev, subscription, negotiation.other, message.proposal)
        return Ack()

    async def rejected(self, caller: Caller, message: ProposalRejected) -> Ack:
        """Take the refusal of a proposal of ours; repeating one is no news."""
        record = self._issued_to(caller, message.proposal_id)
        reason = read_reason(message.reason)
        if self.book.reject(record, record.negotiation.other, reason):
            self._tell_rejection(record)
        return Ack()

    def _issued_to(self, caller: Caller, proposal: str) -> Record:
        for role in Role:
            record = self.book.find(role, proposal)
            if record is not None and record.negotiation.peer == caller.node_id and record.ours:
                return record
        raise NotFound(f"Proposal [{proposal[:128]}] not found.")

    def _repeated(self, prev: Record, caller: Caller, proposal: ProposalContent) -> Ack:
        if prev.negotiation.peer != caller.node_id:
            raise NotFound(f"Proposal [{prev.hash}] not found.")
        if prev.counter is None or prev.counter.hash != proposal.id:
            raise Gone(f"Proposal [{prev.hash}] already has counter proposal.")
        return Ack()

    def _take_counter(
        self, prev: Record, subscription: Subscription, issuer: Role, proposal: ProposalContent
    ) -> None:
        now, was = self._ctx.clock.utc_ns(), prev.state
        if proposal.created_ns > now + SKEW_NS:
            raise BadRequest("the proposal is made in the future: one of the clocks is wrong")
        if len(proposal.properties.encode()) + len(proposal.constraints.encode()) > MAX_BODY_BYTES:
            raise BadRequest(f"a proposal has {MAX_BODY_BYTES} bytes at most")
        try:
            properties = PropertySet.from_text(proposal.properties, require_object=False)
        except LanguageError as error:
            raise BadRequest(str(error)) from error
        record = self.book.counter(prev, issuer, properties, proposal.constraints, proposal.created_ns)
        if record.hash != proposal.id:
            self.book.withdraw(record)
            prev.state = was
            raise BadRequest("the proposal's id is not the hash of what it says")
        self._tell(subscription, events.ProposalArrived(now, record.view()))


class _Delivery:
    """A counter-proposal on its way."""

    def __init__(self, record: Record, message: InitialProposalReceived | ProposalReceived) -> None:
        self.record = record
        self.message = message
        self.over = trio.Event()
        self.awaited = isinstance(message, ProposalReceived)
        """Whether the agent's call still waits, and will be told of a refusal itself."""
        self.refusal: MarketError | None = None


def _mapped(error: RemoteError, peer: str) -> MarketError:
    for known in (BadRequest, Gone):
        if error.kind == known.kind:
            return known(error.message)
    if error.kind == NotFound.kind:
        return Gone(f"{peer} knows nothing of this negotiation (any more): {error.message}")
    return PeerRefused(f"{peer} refused: {error.message}")


def _entry_of(offer: Offer) -> MatcherEntry | None:
    body = offer.body
    if body.constraint is None:
        return None
    return MatcherEntry(offer.offer_id, offer.node_id, body.properties, body.constraint)
