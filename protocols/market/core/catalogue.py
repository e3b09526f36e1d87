"""The offers of everyone: which leases are believed, and what they say is on offer now.

`check` judges a record by itself and by what is held, cheapest test first; `accept` keeps it once its body is
at hand; `expire` forgets what is over. No I/O and no clock.

What bounds it: a provider has 64 slots, so that 10,000 offers under one key are 64 on every node alike (a
quota by order of arrival would leave each node with others, and reconciliation would never end); and the whole
has a bound on records and on the bytes of bodies, beyond which new providers wait until others leave.

Errors, of a record: `Stale` (not news, or not judgeable now: nobody is to blame), `Refused` (whoever made or
forwarded it should have known).
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from p2p import codec
from p2p.identity import InvalidSignature, NodeId, record_digest, recover
from protocols.ground.times import SECOND
from protocols.market import ids
from protocols.market.language import Constraint, ConstraintError, LanguageError, PropertySet
from protocols.market.messages import MAX_BODY_BYTES, OFFER_TOPIC, OfferBody, OfferLease, SignedLease

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_SLOTS = 64
"""Offers of one provider."""
MAX_RECORD_BYTES = 1024
"""Largest record; a real one has about 200 bytes."""
MAX_LEASE_NS = 2 * 3600 * SECOND
"""Longest that a lease may promise to stand."""
SKEW_NS = 120 * SECOND
"""How far another node's clock may be ahead of ours."""
MIN_INTERVAL_NS = 1 * SECOND
"""Least time between the issues of two leases of one slot: what bounds the traffic that one key can cause."""
MAX_RECORDS = 200_000
MAX_BODIES_BYTES = 256 * 1024 * 1024


class Stale(Exception):
    """The record is no news, or cannot be judged now."""


class Refused(Exception):
    """The record is bad."""


class Checked(msgspec.Struct, frozen=True):
    """A record that may be kept."""

    data: bytes
    lease: OfferLease
    node_id: NodeId
    key: str
    """`<node id>/<slot>`."""


class Body:
    """A body, read once and shared by all leases that name it."""

    __slots__ = ("constraint", "constraints", "data", "hash", "properties")

    def __init__(self, data: bytes) -> None:
        """Read a body. Raises Refused: too large, or not one."""
        if len(data) > MAX_BODY_BYTES:
            raise Refused(f"the body has {len(data)} bytes, at most {MAX_BODY_BYTES} are taken")
        try:
            body = codec.decode(data, OfferBody)
            self.properties = PropertySet.from_text(body.properties, require_object=False)
        except (codec.CodecError, LanguageError) as error:
            raise Refused(f"not the body of an offer: {error}") from error
        self.data = data
        self.hash = hashlib.sha256(data).digest()
        self.constraints = body.constraints
        self.constraint = read_constraint(body.constraints)


class Offer(msgspec.Struct, frozen=True, eq=False):
    """An offer as it stands."""

    offer_id: str
    key: str
    node_id: NodeId
    lease: OfferLease
    body: Body
    arrival: int
    """Counts the offers as they came; a renewal keeps it."""


class Change(msgspec.Struct, frozen=True):
    """What accepting a record, or time, did to the offers that are worth answering."""

    gone: Offer | None = None
    """Withdrawn, expired, replaced by another in its slot, or busy now."""
    new: Offer | None = None
    """First heard of, or free again."""


class Catalogue:
    """What is known of offers.

    Args:
        network: the overlay's network; leases for others are refused.
    """

    def __init__(
        self, network: str, *, max_records: int = MAX_RECORDS, max_bodies_bytes: int = MAX_BODIES_BYTES
    ) -> None:
        self._network = network
        self._max_records = max_records
        self._max_bodies_bytes = max_bodies_bytes
        self._records: dict[str, Checked] = {}
        self._seqs: dict[str, int] = {}
        self._offers: dict[str, Offer] = {}
        self._keys: dict[str, str] = {}
        self._bodies: dict[bytes, tuple[Body, int]] = {}
        self._bodies_bytes = 0
        self._ends: list[tuple[int, str, int]] = []
        self._arrivals: list[tuple[int, str]] = []
        self._next_arrival = 1

    def __len__(self) -> int:
        return len(self._offers)

    @property
    def held(self) -> Mapping[str, int]:
        """Key → sequence number of every record, withdrawals included."""
        return self._seqs

    def record(self, key: str) -> bytes | None:
        """Return the record under `key`."""
        held = self._records.get(key)
        return held.data if held else None

    def offer(self, offer_id: str) -> Offer | None:
        """Return an offer that stands, by its subscription id."""
        return self._offers.get(self._keys.get(offer_id, ""))

    def body(self, body_hash: bytes) -> Body | None:
        """Return a body that some offer has."""
        entry = self._bodies.get(body_hash)
        return entry[0] if entry else None

    def offers(self) -> Iterator[Offer]:
        """Yield the offers that stand."""
        yield from self._offers.values()

    def arrived_after(self, arrival: int) -> Iterator[Offer]:
        """Yield the offers that came after the one with this number, as they came."""
        for number, key in self._arrivals[bisect_right(self._arrivals, arrival, key=lambda item: item[0]) :]:
            offer = self._offers.get(key)
            if offer is not None and offer.arrival == number:
                yield offer

    def check(self, data: bytes, now_ns: int) -> Checked:
        """Judge a record; what is returned may be given to `accept` when its body is at hand.

        Raises:
            Stale, Refused: as the module says.
        """
        if len(data) > MAX_RECORD_BYTES:
            raise Refused(f"a record of {len(data)} bytes, at most {MAX_RECORD_BYTES} are taken")
        try:
            signed = codec.decode(data, SignedLease)
            lease = codec.decode(signed.lease, OfferLease)
        except codec.CodecError as error:
            raise Refused(str(error)) from error
        self._check_form(lease)
        node_id = NodeId("0x" + lease.node.hex())
        checked = Checked(data, lease, node_id, f"{node_id}/{lease.slot}")
        self._check_news(checked, now_ns)
        try:
            signer = recover(record_digest(OFFER_TOPIC, signed.lease), signed.signature)
        except InvalidSignature as error:
            raise Refused(f"the lease's signature is not one: {error}") from error
        if signer != node_id:
            raise Refused(f"a lease of {node_id} is signed by {signer}")
        return checked

    def _check_form(self, lease: OfferLease) -> None:
        if lease.network != self._network:
            raise Refused(f"a lease for the network {lease.network[:32]!r}")
        if len(lease.node) != 20 or len(lease.body_hash) != (0 if lease.withdrawn else 32):
            raise Refused("a node id or a hash of the wrong length")
        if not 0 <= lease.slot < MAX_SLOTS:
            raise Refused(f"slot {lease.slot}: a provider has {MAX_SLOTS} offers at most")
        if lease.incarnation > lease.seq:
            raise Refused("the offer is newer than its lease")
        if not lease.issued_ns < lease.expires_ns <= lease.issued_ns + MAX_LEASE_NS:
            raise Refused("a lease stands for two hours at most, and not for less than nothing")

    def _check_news(self, checked: Checked, now_ns: int) -> None:
        lease = checked.lease
        if lease.seq <= self._seqs.get(checked.key, -1):
            raise Stale("a newer lease is held, or this one")
        if lease.issued_ns > now_ns + SKEW_NS:
            raise Stale("issued in the future: one of the clocks is wrong")
        if _forget_ns(lease) <= now_ns:
            raise Stale("expired")
        held = self._records.get(checked.key)
        if held is None:
            if len(self._records) >= self._max_records:
                raise Stale("no room for further offers")
        elif lease.issued_ns < held.lease.issued_ns + MIN_INTERVAL_NS:
            raise Stale("leases of one offer follow each other too fast")
        elif lease.incarnation < held.lease.incarnation:
            raise Stale("an offer that was replaced")
        elif (
            lease.incarnation == held.lease.incarnation
            and not (lease.withdrawn or held.lease.withdrawn)
            and lease.body_hash != held.lease.body_hash
        ):
            raise Stale("the body of an offer does not change; a new body is a new incarnation")
        elif lease.incarnation == held.lease.incarnation and held.lease.withdrawn and not lease.withdrawn:
            raise Stale("a withdrawn offer does not come back; a new one is a new incarnation")

    def accept(self, checked: Checked, body: Body | None) -> Change:
        """Keep a checked record, and say what changed.

        Args:
            body: the one that the lease names; None only for a withdrawal.

        Raises:
            Stale: something newer came meanwhile, or there is no room.
            Refused: another body than the lease names.
        """
        lease = checked.lease
        if lease.seq <= self._seqs.get(checked.key, -1):
            raise Stale("a newer lease came meanwhile")
        if not lease.withdrawn:
            if body is None or body.hash != lease.body_hash:
                raise Refused("not the body that the lease names")
            new_bytes = 0 if body.hash in self._bodies else len(body.data)
            if self._bodies_bytes + new_bytes > self._max_bodies_bytes:
                raise Stale("no room for further bodies")
        before = self._offers.get(checked.key)
        after = None if body is None or lease.withdrawn else self._stand(checked, body, before)
        if after is not None:
            self._hold_body(after.body)
        self._drop_offer(before)
        self._records[checked.key] = checked
        self._seqs[checked.key] = lease.seq
        heapq.heappush(self._ends, (_forget_ns(lease), checked.key, lease.seq))
        if after is not None:
            self._offers[checked.key] = after
            self._keys[after.offer_id] = checked.key
        return _change(before, after)

    def expire(self, now_ns: int) -> tuple[list[Offer], int | None]:
        """Forget what is over; return the offers that stood until now, and when the next record is over."""
        gone = []
        while self._ends and self._ends[0][0] <= now_ns:
            _, key, seq = heapq.heappop(self._ends)
            if self._seqs.get(key) != seq:
                continue
            offer = self._offers.get(key)
            self._drop_offer(offer)
            del self._records[key], self._seqs[key]
            if offer is not None:
                gone.append(offer)
        if len(self._ends) > 2 * len(self._records) + 64:
            self._ends = [(_forget_ns(r.lease), r.key, r.lease.seq) for r in self._records.values()]
            heapq.heapify(self._ends)
        if len(self._arrivals) > 2 * len(self._offers) + 64:
            self._arrivals = sorted((offer.arrival, offer.key) for offer in self._offers.values())
        return gone, self._ends[0][0] if self._ends else None

    def _stand(self, checked: Checked, body: Body, before: Offer | None) -> Offer:
        lease = checked.lease
        offer_id = ids.subscription_id("offer", checked.node_id, lease.slot, lease.incarnation)
        if before is not None and before.offer_id == offer_id:
            arrival = before.arrival
        else:
            arrival = self._next_arrival
            self._next_arrival += 1
            self._arrivals.append((arrival, checked.key))
        # The body that is held already, so that a thousand leases share one.
        shared = self.body(body.hash) or body
        return Offer(offer_id, checked.key, checked.node_id, lease, shared, arrival)

    def _hold_body(self, body: Body) -> None:
        held, count = self._bodies.get(body.hash, (body, 0))
        if not count:
            self._bodies_bytes += len(body.data)
        self._bodies[body.hash] = (held, count + 1)

    def _drop_offer(self, offer: Offer | None) -> None:
        if offer is None:
            return
        del self._offers[offer.key], self._keys[offer.offer_id]
        body, count = self._bodies.pop(offer.body.hash)
        if count > 1:
            self._bodies[body.hash] = (body, count - 1)
        else:
            self._bodies_bytes -= len(body.data)


def read_constraint(text: str) -> Constraint | None:
    """Return the constraint, or None for a broken one: it subscribes, and never matches."""
    try:
        return Constraint.parse(text)
    except ConstraintError:
        return None


def signed_lease(lease: OfferLease) -> tuple[bytes, bytes]:
    """Return the bytes of a lease and the digest that its provider signs."""
    encoded = codec.encode(lease)
    return encoded, record_digest(OFFER_TOPIC, encoded)


def _forget_ns(lease: OfferLease) -> int:
    # A withdrawal outlives every lease that it takes back, also on nodes whose clocks are late.
    return lease.expires_ns + SKEW_NS if lease.withdrawn else lease.expires_ns


def _change(before: Offer | None, after: Offer | None) -> Change:
    was = before is not None and before.lease.free > 0
    is_ = after is not None and after.lease.free > 0
    same = before is not None and after is not None and before.offer_id == after.offer_id
    return Change(
        gone=before if was and not (same and is_) else None,
        new=after if is_ and not (same and was) else None,
    )
