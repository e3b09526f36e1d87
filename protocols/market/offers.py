"""The exchange of offers: ours go out as leases and are renewed, everyone's come in and are judged.

Owns the broadcast topic `offers/1` and the catalogue. An offer is a subscription of ours in one of 64 slots;
what must not be lost of it (the slot's sequence number, and how long any of its leases stands) is on disk
before a lease is published. Offers of an earlier run are withdrawn at start, for their agents are gone.

Whoever matches offers is told of changes by `changed`. Called by `service.Market` and by the handler's timer.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from p2p import codec
from p2p.broadcast import Verdict
from p2p.bus import BusError, BusTimeout, ask, net_address
from protocols.ground.times import MILLISECOND, SECOND
from protocols.market import ids, store
from protocols.market.bodies import BodyFetcher
from protocols.market.core.catalogue import (
    MAX_LEASE_NS,
    MAX_SLOTS,
    MIN_INTERVAL_NS,
    Body,
    Catalogue,
    Change,
    Checked,
    Offer,
    Refused,
    Stale,
    signed_lease,
)
from protocols.market.core.limits import RateLimit
from protocols.market.errors import LimitReached, NotFound, PeerRefused, PeerSilent, TimedOut
from protocols.market.messages import (
    MAX_BODIES,
    OFFER_TOPIC,
    PROTOCOL,
    Bodies,
    GetBodies,
    GetOffers,
    OfferBody,
    OfferLease,
    Offers,
    SignedLease,
)
from protocols.market.subscriptions import Subscription, Subscriptions, read_content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from p2p.bus import Caller
    from p2p.identity import NodeId, Signer
    from p2p.protocol import NodeContext
    from p2p.storage import Connection
    from protocols.market.settings import Settings

MAX_ANSWER_BYTES = 3 * 1024 * 1024
"""What one answer with bodies holds, below the bus's bound."""
PAGE = 32
"""Offers in one page of `GetOffers`."""


class OfferExchange:
    """Our offers and everyone's. A `p2p.broadcast.Topic`."""

    def __init__(
        self,
        ctx: NodeContext,
        settings: Settings,
        subscriptions: Subscriptions,
        signer_of: Callable[[str], Signer],
        changed: Callable[[Change], None],
    ) -> None:
        self.catalogue = Catalogue(ctx.overlay.network)
        self._ctx = ctx
        self._settings = settings
        self._subscriptions = subscriptions
        self._signer_of = signer_of
        self._changed = changed
        self._bodies = BodyFetcher(ctx)
        self._rate = RateLimit(per_second=20, burst=200)
        self._slots: dict[tuple[NodeId, int], store.OwnOffer] = {}
        self._standing: dict[str, _Standing] = {}
        self._signing = trio.Lock()

    async def start(self) -> None:
        """Join the topic, and withdraw what an earlier run left standing."""
        for slot in await self._ctx.database.read(store.own_offers):
            self._slots[slot.owner, slot.slot] = slot
        await self._ctx.broadcast.join(self)
        now = self._ctx.clock.utc_ns()
        for slot in list(self._slots.values()):
            if not slot.withdrawn and slot.expires_ns > now and self._is_ours(slot.owner):
                await self._issue(slot, None, None)

    # --- ours -----------------------------------------------------------------------------------------------

    async def subscribe(
        self, owner: NodeId, properties: Any, constraints: str, ttl: float | None, free: int
    ) -> str:
        """Publish an offer; return its subscription id.

        Raises:
            BadRequest: the content is beyond the limits. Forbidden: not an identity of ours.
            LimitReached: the identity has an offer in every slot.
        """
        content, text, constraint = read_content(properties, constraints)
        self._signer_of(owner)
        self._subscriptions.check_room("offer")
        body = Body(codec.encode(OfferBody(content.text, text)))
        async with self._signing:
            now = self._ctx.clock.utc_ns()
            slot = self._free_slot(owner)
            seq = max(slot.seq + 1, now // MILLISECOND)
            expires_ns = expiry_of(now, ttl, self._settings)
            fresh = msgspec.structs.replace(slot, incarnation=seq, created_ns=now)
            standing = _Standing(fresh.slot, seq, body, now, expires_ns, free)
            await self._issue_locked(fresh, standing, now)
            subscription = Subscription(
                id=ids.subscription_id("offer", owner, fresh.slot, seq),
                kind="offer",
                owner=owner,
                properties=body.properties,
                constraints=text,
                created_ns=now,
                expires_ns=expires_ns,
                constraint=constraint,
            )
            self._standing[subscription.id] = standing
            self._subscriptions.add(subscription)
        return subscription.id

    async def set_free(self, owner: NodeId, subscription_id: str, free: int) -> None:
        """Tell how many more agreements an offer's provider would take; 0 means busy.

        Raises:
            BadRequest, Gone: as `Subscriptions.active`.
        """
        self._subscriptions.active("offer", owner, subscription_id, self._ctx.clock.utc_ns())
        standing = self._standing[subscription_id]
        if standing.free != free:
            standing.free = free
            await self._issue(self._slots[owner, standing.slot], standing, subscription_id)

    async def unsubscribe(self, owner: NodeId, subscription_id: str) -> None:
        """Withdraw an offer. Raises NotFound, Gone: as `Subscriptions.to_unsubscribe`."""
        now = self._ctx.clock.utc_ns()
        subscription = self._subscriptions.to_unsubscribe("offer", owner, subscription_id, now)
        self._subscriptions.end(subscription, "unsubscribed", now)
        await self._withdraw(subscription)

    async def end_expired(self, subscription: Subscription) -> None:
        """End an offer whose time has passed; its leases have, too, unless its slot had longer ones before."""
        now = self._ctx.clock.utc_ns()
        self._subscriptions.end(subscription, "expired", now)
        standing = self._standing[subscription.id]
        if self._slots[subscription.owner, standing.slot].expires_ns > now:
            await self._withdraw(subscription)
        else:
            del self._standing[subscription.id]

    async def _withdraw(self, subscription: Subscription) -> None:
        standing = self._standing.pop(subscription.id)
        await self._issue(self._slots[subscription.owner, standing.slot], None, None)

    async def tick(self, now_ns: int) -> int | None:
        """Renew leases that are due, forget expired offers; return when to look again."""
        gone, next_due = self.catalogue.expire(now_ns)
        for offer in gone:
            self._changed(Change(gone=offer))
        for subscription in self._subscriptions.opened("offer"):
            standing = self._standing.get(subscription.id)
            if standing is not None and standing.renew_ns <= now_ns and not subscription.is_over(now_ns):
                slot = self._slots[subscription.owner, standing.slot]
                await self._issue(slot, standing, subscription.id)
        renewals = [standing.renew_ns for standing in self._standing.values()]
        return min((due for due in (next_due, *renewals) if due is not None), default=None)

    def _free_slot(self, owner: NodeId) -> store.OwnOffer:
        taken = {s.slot for id_, s in self._standing.items() if self._owner_of(id_) == owner}
        for number in range(MAX_SLOTS):
            if number not in taken:
                unused = store.OwnOffer(owner, number, 0, 0, 0, 0, 0, True)
                return self._slots.get((owner, number), unused)
        raise LimitReached(f"{owner} has {MAX_SLOTS} offers, which is the most there may be; withdraw some")

    def _owner_of(self, subscription_id: str) -> str | None:
        found = self._subscriptions.find("offer", subscription_id, 0)
        return found.owner if found else None

    async def _issue(
        self, slot: store.OwnOffer, standing: _Standing | None, subscription_id: str | None
    ) -> None:
        async with self._signing:
            if subscription_id is not None and subscription_id not in self._standing:
                return  # it ended while this waited
            current = self._slots.get((slot.owner, slot.slot), slot)
            if current.incarnation == slot.incarnation:  # else the slot has a new offer already
                await self._issue_locked(current, standing, self._ctx.clock.utc_ns())

    async def _issue_locked(self, slot: store.OwnOffer, standing: _Standing | None, now_ns: int) -> None:
        """Sign and publish a lease, or a withdrawal, for a slot."""
        issued_ns = max(now_ns, slot.issued_ns + MIN_INTERVAL_NS)
        if standing is None:
            expires_ns = min(max(slot.expires_ns, issued_ns + SECOND), issued_ns + MAX_LEASE_NS)
        else:
            expires_ns = issued_ns + int(self._settings.lease * SECOND)
            if standing.expires_ns is not None:
                expires_ns = max(issued_ns + 1, min(expires_ns, standing.expires_ns))
        slot = msgspec.structs.replace(
            slot,
            seq=max(slot.seq + 1, now_ns // MILLISECOND),
            issued_ns=issued_ns,
            expires_ns=max(slot.expires_ns, expires_ns),
            withdrawn=standing is None,
        )
        lease = OfferLease(
            network=self._ctx.overlay.network,
            node=bytes.fromhex(slot.owner[2:]),
            slot=slot.slot,
            incarnation=slot.incarnation,
            seq=slot.seq,
            body_hash=standing.body.hash if standing else b"",
            created_ns=slot.created_ns,
            issued_ns=issued_ns,
            expires_ns=expires_ns,
            free=standing.free if standing else 0,
            withdrawn=standing is None,
        )
        await self._ctx.database.write(functools.partial(_put, slot=slot))
        self._slots[slot.owner, slot.slot] = slot
        encoded, digest = signed_lease(lease)
        data = codec.encode(SignedLease(encoded, self._signer_of(slot.owner).sign(digest)))
        if standing is not None:
            # Two thirds of the lease; spread, so that nodes that started together do not renew together.
            share = self._ctx.entropy.jitter.uniform(0.60, 0.70)
            ends = standing.expires_ns is not None and expires_ns >= standing.expires_ns
            standing.renew_ns = 2**63 if ends else issued_ns + int((expires_ns - issued_ns) * share)
        checked = Checked(data, lease, slot.owner, f"{slot.owner}/{slot.slot}")
        try:
            self._changed(self.catalogue.accept(checked, standing.body if standing else None))
        except Stale as error:
            # A record of ours that we do not remember, from a lost disk or another machine with our key.
            self._ctx.log.warning("our own lease is not the newest", slot=slot.slot, error=str(error))
        await self._ctx.broadcast.publish(OFFER_TOPIC, data)

    def _is_ours(self, node_id: str) -> bool:
        return any(node_id == owner for owner, _ in self._slots) or node_id == self._ctx.node_id

    # --- everyone's: the broadcast topic ----------------------------------------------------------------------

    @property
    def name(self) -> str:
        return OFFER_TOPIC

    def held(self) -> Mapping[str, int]:
        return self.catalogue.held

    def record(self, key: str) -> bytes | None:
        return self.catalogue.record(key)

    async def receive(self, data: bytes, source: NodeId) -> Verdict:
        try:
            checked = self.catalogue.check(data, self._ctx.clock.utc_ns())
            if self._is_ours(checked.node_id):
                await self._answer_own_ghost(checked)
                return Verdict.IGNORE
            body = None
            if not checked.lease.withdrawn:
                body_hash = checked.lease.body_hash
                body = self.catalogue.body(body_hash)
                body = body or await self._bodies.fetch(body_hash, source, checked.node_id)
                if body is None:
                    return Verdict.IGNORE
            change = self.catalogue.accept(checked, body)
        except Stale:
            return Verdict.IGNORE
        except Refused as error:
            self._ctx.log.debug("a record of an offer was refused", source=source, error=str(error))
            return Verdict.REJECT
        self._changed(change)
        return Verdict.ACCEPT

    async def _answer_own_ghost(self, checked: Checked) -> None:
        """Take back a lease under our key that we do not remember, unless its slot is in use again."""
        lease, owner = checked.lease, checked.node_id
        if lease.withdrawn:
            return
        async with self._signing:
            known = self._slots.get((owner, lease.slot))
            if known is not None and not known.withdrawn:
                self._ctx.log.warning("another lease under our key is about", slot=lease.slot, seq=lease.seq)
                return
            ghost = store.OwnOffer(
                owner,
                lease.slot,
                lease.incarnation,
                lease.seq,
                lease.created_ns,
                lease.issued_ns,
                lease.expires_ns,
                False,
            )
            await self._issue_locked(ghost, None, self._ctx.clock.utc_ns())

    # --- what peers ask ---------------------------------------------------------------------------------------

    async def get_bodies(self, caller: Caller, request: GetBodies) -> Bodies:
        """Answer with what bodies are held. Raises LimitReached."""
        self._rate.spend(caller.node_id, self._ctx.clock.monotonic(), "requests for offers")
        bodies, size = [], 0
        for body_hash in dict.fromkeys(request.hashes[:MAX_BODIES]):
            body = self.catalogue.body(body_hash)
            if body is not None and size + len(body.data) <= MAX_ANSWER_BYTES:
                size += len(body.data)
                bodies.append(body.data)
        return Bodies(tuple(bodies))

    async def get_offers(self, caller: Caller, request: GetOffers) -> Offers:
        """Answer with a page of our own offers. Raises LimitReached."""
        self._rate.spend(caller.node_id, self._ctx.clock.monotonic(), "requests for offers")
        ours = [
            offer
            for subscription in self._subscriptions.opened("offer")
            if (offer := self.catalogue.offer(subscription.id)) is not None
            and offer.lease.slot > request.after_slot
            and offer.node_id == self._ctx.node_id
        ]
        ours.sort(key=lambda offer: offer.lease.slot)
        records = [self.catalogue.record(offer.key) or b"" for offer in ours[:PAGE]]
        return Offers(tuple(records), tuple(offer.body.data for offer in ours[:PAGE]), len(ours) > PAGE)

    async def ask_provider(self, provider: NodeId, timeout: float) -> list[Offer]:
        """Return the offers that a provider's node itself names.

        Raises:
            TimedOut: no answer in time. PeerSilent, PeerRefused: it cannot be reached, or will not.
        """
        found: dict[str, Offer] = {}
        after = -1
        address = net_address(provider, PROTOCOL)
        try:
            with trio.fail_after(timeout):
                for _ in range(math.ceil(MAX_SLOTS / PAGE)):
                    page = await ask(self._ctx.bus, address, GetOffers(after), Offers, timeout=timeout)
                    for offer in self._take_page(page, provider):
                        found[offer.offer_id] = offer
                        after = max(after, offer.lease.slot)
                    if not page.more:
                        break
        except (BusTimeout, trio.TooSlowError) as error:
            raise TimedOut("Timeout while attempting to fetch data from a peer") from error
        except BusError as error:
            raise PeerSilent(f"{provider} could not be asked for its offers: {error}") from error
        return list(found.values())

    def _take_page(self, page: Offers, provider: NodeId) -> list[Offer]:
        now = self._ctx.clock.utc_ns()
        bodies: dict[bytes, Body] = {}
        offers = []
        try:
            for data in page.bodies[:PAGE]:
                body = Body(data)
                bodies[body.hash] = body
            for record in page.records[:PAGE]:
                checked = self._check_again(record, now)
                if checked is not None and checked.node_id != provider:
                    raise Refused(f"an offer of {checked.node_id}")
                if checked is not None:
                    self._changed(self.catalogue.accept(checked, bodies.get(checked.lease.body_hash)))
                lease = codec.decode(codec.decode(record, SignedLease).lease, OfferLease)
                offer_id = ids.subscription_id("offer", provider, lease.slot, lease.incarnation)
                offer = self.catalogue.offer(offer_id)
                if offer is not None:
                    offers.append(offer)
        except (Refused, Stale) as error:
            raise PeerRefused(f"{provider} answered with what is not an offer of its own: {error}") from error
        return offers

    def _check_again(self, record: bytes, now_ns: int) -> Checked | None:
        try:
            return self.catalogue.check(record, now_ns)
        except Stale:
            return None  # known already

    def find(self, offer_id: str) -> Offer:
        """Return an offer that stands. Raises NotFound."""
        offer = self.catalogue.offer(offer_id)
        if offer is None:
            raise NotFound(f"Offer [{offer_id}] not found.")
        return offer


class _Standing:
    """An offer of ours that is published."""

    __slots__ = ("body", "created_ns", "expires_ns", "free", "incarnation", "renew_ns", "slot")

    def __init__(
        self, slot: int, incarnation: int, body: Body, created_ns: int, expires_ns: int | None, free: int
    ) -> None:
        self.slot = slot
        self.incarnation = incarnation
        self.body = body
        self.created_ns = created_ns
        self.expires_ns = expires_ns
        self.free = free
        self.renew_ns = 2**63


def expiry_of(now_ns: int, ttl: float | None, settings: Settings) -> int | None:
    """Return when a subscription made now ends; None for one that does not."""
    seconds = settings.ttl if ttl is None else ttl
    return None if math.isinf(seconds) else now_ns + max(1, int(seconds * SECOND))


def _put(c: Connection, slot: store.OwnOffer) -> None:
    store.put_own_offer(c, slot)
