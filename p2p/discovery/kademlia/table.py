"""The routing table: whom a node knows, many nearby and few far away. No I/O.

One bucket for each length of the prefix shared with our own key, `k` contacts each. Only who has answered us is
entered. Who is there stays while it answers, however many knock: nodes that were long up stay up longer, and an
attacker cannot flush a table. A full bucket keeps a few who knocked, to replace one that stopped answering.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

import msgspec

from p2p.discovery.kademlia.contact import KEY_BITS, Contact, Diversity, key_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from p2p.discovery.kademlia.params import KademliaParams

MAX_WAITING = 8
"""Contacts that wait for a place in one bucket; the last that knocked comes first."""
MAX_DRAWN_BITS = 11
"""Prefix up to which a key in a bucket is drawn by trial: 2^12 hashes on average."""
SHA256_MULTIHASH = b"\x12\x20"

_SPACE = 1 << KEY_BITS


class _Entry(msgspec.Struct):
    contact: Contact
    heard_at: float
    failures: int = 0


class _Bucket:
    def __init__(self, diversity: Diversity, now: float) -> None:
        self.entries: dict[bytes, _Entry] = {}
        self.waiting: dict[bytes, Contact] = {}
        self.diversity = diversity
        self.looked_up_at = now


class RoutingTable:
    """The contacts of one node.

    Args:
        me: our own PeerId, in binary; never entered.
        diverse: whether to bound how many contacts of one subnet there are.
    """

    def __init__(self, me: bytes, params: KademliaParams, *, diverse: bool = True) -> None:
        self._me = me
        self._key = key_of(me)
        self._params = params
        self._per_bucket = params.subnet_per_bucket if diverse else 0
        self._subnets = Diversity(params.subnet_per_table if diverse else 0)
        self._buckets: dict[int, _Bucket] = {}
        self._size = 0

    def __repr__(self) -> str:
        return f"<RoutingTable {self._size} contacts in {len(self._buckets)} buckets>"

    def __len__(self) -> int:
        return self._size

    def __contains__(self, peer_id: bytes) -> bool:
        bucket = self._buckets.get(self._prefix(key_of(peer_id)))
        return bucket is not None and peer_id in bucket.entries

    def wants(self, contact: Contact) -> bool:
        """Return whether `contact` would be entered if it answered now."""
        bucket = self._buckets.get(self._prefix(contact.key))
        if contact.peer_id == self._me or not contact.addresses or not self._subnets.admits(contact):
            return False
        if bucket is None:
            return True
        full = len(bucket.entries) >= self._params.k
        return contact.peer_id not in bucket.entries and not full and bucket.diversity.admits(contact)

    def answered(self, now: float, contact: Contact) -> None:
        """Note that `contact` answered a request of ours: it is entered if there is a place."""
        if contact.peer_id == self._me or not contact.addresses:
            return
        bucket = self._bucket(contact.key, now)
        entry = bucket.entries.get(contact.peer_id)
        if entry is not None:
            entry.heard_at, entry.failures = now, 0
            self._move(bucket, entry, contact)
            return
        if len(bucket.entries) >= self._params.k:
            gone = next((e.contact.peer_id for e in bucket.entries.values() if e.failures), None)
            if gone is None:
                self._wait(bucket, contact)
                return
            self._drop(bucket, gone)
        if not self._enter(bucket, contact, now):
            self._wait(bucket, contact)

    def failed(self, now: float, peer_id: bytes) -> None:
        """Note that a contact did not answer; who waits takes its place, else it has a few more tries."""
        bucket = self._bucket(key_of(peer_id), now)
        bucket.waiting.pop(peer_id, None)
        entry = bucket.entries.get(peer_id)
        if entry is None:
            return
        entry.failures += 1
        if not bucket.waiting and entry.failures < self._params.max_failures:
            return
        self._drop(bucket, peer_id)
        for contact in reversed(list(bucket.waiting.values())):
            del bucket.waiting[contact.peer_id]
            if self._enter(
                bucket, contact, -math.inf
            ):  # it is asked soon, since it was not heard of for long
                break

    def removed(self, peer_id: bytes) -> None:
        """Take out a contact that does not serve Kademlia any more."""
        bucket = self._buckets.get(self._prefix(key_of(peer_id)))
        if bucket is not None:
            bucket.waiting.pop(peer_id, None)
            if peer_id in bucket.entries:
                self._drop(bucket, peer_id)

    def closest(self, target: int, count: int) -> list[Contact]:
        """Return the contacts nearest to `target`, the nearest first."""
        everyone = (entry.contact for bucket in self._buckets.values() for entry in bucket.entries.values())
        return heapq.nsmallest(count, everyone, key=lambda contact: contact.key ^ target)

    def contacts(self) -> Iterable[Contact]:
        """Yield all contacts, those that were in their buckets longest first."""
        for prefix in sorted(self._buckets):
            for entry in self._buckets[prefix].entries.values():
                yield entry.contact

    def radius(self, count: int) -> int:
        """Return within which distance of any key about `count` nodes of the network should lie.

        Keys are spread evenly, so that the size of the network follows from how near our own neighbours are. Where
        far more are found within that distance, they were made to lie there.
        """
        nearest = [(contact.key ^ self._key) / _SPACE for contact in self.closest(self._key, self._params.k)]
        if len(nearest) < self._params.k:
            return _SPACE
        ranks = range(1, len(nearest) + 1)  # of N nodes the i-th nearest is expected at i / N: least squares
        size = sum(i * i for i in ranks) / sum(i * x for i, x in zip(ranks, nearest, strict=True))
        return round(_SPACE * min(1.0, count / size))

    # What needs attention.

    def silent(self, now: float) -> list[Contact]:
        """Return the contacts that were not heard of for long, to be asked whether they are there."""
        return [
            entry.contact
            for bucket in self._buckets.values()
            for entry in bucket.entries.values()
            if now - entry.heard_at >= self._params.check_after
        ]

    def looked_up(self, now: float, target: int) -> None:
        """Note that `target` was looked up, which refreshes its bucket."""
        if target != self._key:
            self._bucket(target, now).looked_up_at = now

    def stale_keys(self, now: float, chance: random.Random) -> list[bytes]:
        """Return keys to look up, one in each bucket where that was not done for long."""
        deepest = max((p for p, bucket in self._buckets.items() if bucket.entries), default=-1)
        keys = []
        for prefix in range(min(deepest, MAX_DRAWN_BITS) + 1):
            bucket = self._buckets.get(prefix)
            if bucket is None or now - bucket.looked_up_at >= self._params.refresh_bucket:
                keys.append(self._draw(prefix, chance))
        return keys

    # Within.

    def _prefix(self, key: int) -> int:
        return KEY_BITS - (key ^ self._key).bit_length()

    def _bucket(self, key: int, now: float) -> _Bucket:
        return self._buckets.setdefault(self._prefix(key), _Bucket(Diversity(self._per_bucket), now))

    def _enter(self, bucket: _Bucket, contact: Contact, heard_at: float) -> bool:
        if not (self._subnets.admits(contact) and bucket.diversity.admits(contact)):
            return False
        bucket.waiting.pop(contact.peer_id, None)
        bucket.entries[contact.peer_id] = _Entry(contact, heard_at)
        self._subnets.add(contact)
        bucket.diversity.add(contact)
        self._size += 1
        return True

    def _drop(self, bucket: _Bucket, peer_id: bytes) -> None:
        contact = bucket.entries.pop(peer_id).contact
        self._subnets.remove(contact)
        bucket.diversity.remove(contact)
        self._size -= 1

    def _move(self, bucket: _Bucket, entry: _Entry, contact: Contact) -> None:
        """Take over a contact's new addresses, unless they are in a subnet that has enough already."""
        for counted in (self._subnets, bucket.diversity):
            counted.remove(entry.contact)
        if self._subnets.admits(contact) and bucket.diversity.admits(contact):
            entry.contact = contact
        for counted in (self._subnets, bucket.diversity):
            counted.add(entry.contact)

    def _wait(self, bucket: _Bucket, contact: Contact) -> None:
        bucket.waiting.pop(contact.peer_id, None)
        bucket.waiting[contact.peer_id] = contact
        if len(bucket.waiting) > MAX_WAITING:
            del bucket.waiting[next(iter(bucket.waiting))]

    def _draw(self, prefix: int, chance: random.Random) -> bytes:
        """Return something in the form of a PeerId whose key shares `prefix` bits with ours.

        Requests carry what is hashed, not the hash, so that it has to be found by trial.
        """
        while True:
            drawn = SHA256_MULTIHASH + chance.randbytes(32)
            if self._prefix(key_of(drawn)) == prefix:
                return drawn
