"""`Kademlia`: runs tables, lookups and stored records over an overlay's streams.

    kademlia = Kademlia(overlay, peer_id, rules, ...)
    async with kademlia.running():
        record, report = await kademlia.find(key)

Each request is a stream of its own. Contacts are claims until they have answered. A peer that connects is asked
once whether it serves Kademlia, so that the table lives off the sessions that there are anyway.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from p2p import base58
from p2p.discovery.kademlia.contact import Contact, key_of, node_of
from p2p.discovery.kademlia.lookup import Lookup
from p2p.discovery.kademlia.params import KademliaParams
from p2p.discovery.kademlia.requests import NoAnswer, Requests
from p2p.discovery.kademlia.search import BadAnswer, LookupReport, search
from p2p.discovery.kademlia.serving import Answerer, InboundLimits
from p2p.discovery.kademlia.store import RecordStore
from p2p.discovery.kademlia.table import RoutingTable
from p2p.discovery.kademlia.wire import MAX_REQUEST_BYTES, Kind, Message, decode_message, encode_message
from p2p.discovery.records import RecordRefused
from p2p.identity import NodeId
from p2p.overlay import StreamBroken, is_guest
from p2p.protobuf import FrameReader, WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from p2p.clock import Clock
    from p2p.discovery.records import NodeRecord, RecordRules
    from p2p.entropy import Entropy
    from p2p.overlay import Overlay, PeerChange, Stream

CORRECTED = 3
"""Nodes that are handed a record which they should have had, after a search."""
MEETERS = 4
"""Peers that are asked at once whether they serve Kademlia."""
MAX_TO_MEET = 256
"""Peers that wait to be asked. More are not: lookups will come across them."""
PUTS_AT_ONCE = 8
TICK = 30.0
"""Seconds between two looks at what needs to be refreshed."""
CHECKED_AT_ONCE = 4
"""Silent contacts that are asked in one tick whether they are there."""

_log = structlog.get_logger("p2p.kademlia")


class Kademlia:
    """Finds records and nodes; keeps records for others. Runs once.

    Args:
        overlay: opens and serves the streams; dials.
        peer_id: our own PeerId, in binary.
        rules: what records are good.
        addresses_of: returns the addresses known of a node.
        acceptable: whether an address may be dialled.
        serves: whether this node serves others, and so may stand in their tables; one that nobody can dial should
            not. Can be changed with `set_serving`.
        diverse: whether to bound how many contacts of one subnet are believed. Off on a devnet.
        linger: seconds after which sessions that lookups made are ended.
        spare: whether the session with a peer is of no other use by then, so that it may be ended.
    """

    def __init__(
        self,
        overlay: Overlay,
        peer_id: bytes,
        rules: RecordRules,
        *,
        addresses_of: Callable[[NodeId], Sequence[str]],
        acceptable: Callable[[str], bool],
        clock: Clock,
        entropy: Entropy,
        params: KademliaParams = KademliaParams(),  # noqa: B008 - frozen
        serves: bool = True,
        diverse: bool = True,
        linger: float = 60.0,
        spare: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.protocol = f"/golem-p2p/{overlay.network}/kad/1.0.0"
        self.counters: Counter[str] = Counter()
        """How often what happened: requests, dials, failures, lookups, bad_records, served, refused."""
        self.table = RoutingTable(peer_id, params, diverse=diverse)
        self.store = RecordStore(peer_id, rules, params.max_records)
        self._overlay = overlay
        self._peer_id = peer_id
        self._rules = rules
        self._addresses_of = addresses_of
        self._clock = clock
        self._chance = entropy.jitter
        self._params = params
        self._serves = serves
        self._diverse = diverse
        self._linger = linger
        self._spare = spare
        self._answerer = Answerer(self.table, self.store, params, self._itself, self._known)
        self._limits = InboundLimits(params)
        self._requests = Requests(
            overlay, self.protocol, self.table, params, clock, self.counters, acceptable
        )
        self._to_meet, self._met = trio.open_memory_channel[str](MAX_TO_MEET)
        self._contacts = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._log = _log.bind(node=overlay.node_id)

    def __repr__(self) -> str:
        return f"<Kademlia of {self._overlay.node_id}, {len(self.table)} contacts, {len(self.store)} records>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take part while the context is open."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._overlay.serve(self.protocol, self._serve, guests=True)
            unsubscribe = self._overlay.subscribe_peers(self._peer_changed, guests=True)
            for info in (*self._overlay.peers(), *self._overlay.guests()):
                self._meet(info.node_id)
            for _ in range(MEETERS):
                nursery.start_soon(self._meet_peers)
            nursery.start_soon(self._stay_fresh)
            try:
                yield
            finally:
                unsubscribe()
                self._nursery = None
                nursery.cancel_scope.cancel()

    def set_serving(self, serves: bool) -> None:
        """Begin or stop to serve others, when it turns out whether this node can be dialled."""
        self._serves = serves

    async def wait_for_contacts(self) -> None:
        """Wait until somebody is known who serves Kademlia."""
        await self._contacts.wait()

    # Looking up.

    async def find(self, key: bytes, *, thorough: bool = False) -> tuple[NodeRecord | None, LookupReport]:
        """Return the newest record under `key` that is found, and what it took.

        Args:
            thorough: whether all of the `k` nearest are asked. If not, the search ends soon after the nearest few
                have answered, which have the newest unless somebody lies, or the network has just parted.
        """
        found = _Found(key, self._rules, self._clock)
        held = self.store.get(key, self._clock.utc_ns())
        if held is not None:
            found.take(self._peer_id, held)

        def take(contact: Contact, answer: Message) -> float | None:
            self._take_record(found, contact, answer)
            if thorough or not found.records:
                return None
            enough = len(found.records) >= self._params.quorum
            return 0.0 if enough and lookup.settled(self._params.beta, contact) else self._params.settle

        # Where nobody of the nearest few has it, all of the nearest k are asked: the network may have grown.
        lookup = self._lookup(key, need=self._params.k)
        report = await self._search(lookup, Message(Kind.GET_VALUE, key), take)
        best = found.newest()
        if best is not None and self._nursery is not None:
            missing = [c for c in lookup.closest() if found.seq(c.peer_id) < best.seq][:CORRECTED]
            self._nursery.start_soon(self._hand_out, key, best.value, missing)
        return best, report

    async def put(self, key: bytes, value: bytes) -> tuple[int, NodeRecord]:
        """Have the `k` nodes nearest to `key` keep a record of ours.

        Returns:
            How many do; and the newest record under `key` that is out. If that is not ours, nothing was handed
            out: the caller signs again, with a higher number.

        Raises:
            RecordRefused: it is no good record.
        """
        ours = self._rules.judge(key, value, self._clock.utc_ns())
        found = _Found(key, self._rules, self._clock)

        def take(contact: Contact, answer: Message) -> None:
            self._take_record(found, contact, answer)

        lookup = self._lookup(key, need=self._params.k)
        await self._search(lookup, Message(Kind.GET_VALUE, key), take)
        newest = found.newest()
        if newest is not None and newest.seq > ours.seq:
            return 0, newest
        if self._serves:
            self.store.put(key, value, self._clock.utc_ns())
        return await self._hand_out(key, value, lookup.region()), ours

    async def find_peer(self, peer_id: bytes) -> Contact | None:
        """Return where a peer is said to be, by those nearest to it."""
        sought = [c for c in self.table.closest(key_of(peer_id), 1) if c.peer_id == peer_id]

        def take(_: Contact, answer: Message) -> float | None:
            sought.extend(c for c in answer.closer if c.peer_id == peer_id and c.addresses)
            return 0.0 if sought else None

        if not sought:
            lookup = self._lookup(peer_id, need=self._params.k)
            await self._search(lookup, Message(Kind.FIND_NODE, peer_id), take)
        return sought[0] if sought else None

    async def closest(self, key: bytes) -> list[Contact]:
        """Look up the `k` nodes nearest to `key`, a PeerId or anything else; this fills the table too."""
        lookup = self._lookup(key, need=self._params.k)
        await self._search(lookup, Message(Kind.FIND_NODE, key), lambda *_: None)
        return lookup.closest()

    def _lookup(self, key: bytes, *, need: int) -> Lookup:
        target = key_of(key)
        self.table.looked_up(self._clock.monotonic(), target)
        start = self.table.closest(target, self._params.k)
        return Lookup(
            target,
            self._peer_id,
            start,
            self._params,
            need=need,
            radius=self.table.radius(need),
            diverse=self._diverse,
        )

    async def _search(
        self, lookup: Lookup, request: Message, take: Callable[[Contact, Message], float | None]
    ) -> LookupReport:
        self.counters["lookups"] += 1
        return await search(lookup, self._requests, request, take, self._params.lookup_timeout)

    def _take_record(self, found: _Found, contact: Contact, answer: Message) -> None:
        if answer.record is None:
            return
        try:
            found.take(contact.peer_id, answer.record)
        except RecordRefused as error:
            self.counters["bad_records"] += 1
            self._log.debug("a peer handed out a bad record", peer=contact.names[0], reason=str(error))
            self.table.removed(contact.peer_id)
            raise BadAnswer from error

    async def _hand_out(self, key: bytes, value: bytes, contacts: Iterable[Contact]) -> int:
        """Have each of `contacts` keep a record; return how many say that they do."""
        taken = 0
        limit = trio.CapacityLimiter(PUTS_AT_ONCE)

        async def put(contact: Contact) -> None:
            nonlocal taken
            async with limit:
                try:
                    answer = await self._requests.ask(contact, Message(Kind.PUT_VALUE, key, value))
                except NoAnswer:
                    return
            taken += answer.record == value

        async with trio.open_nursery() as nursery:
            for contact in contacts:
                nursery.start_soon(put, contact)
        return taken

    # Being looked up.

    async def _serve(self, stream: Stream) -> None:
        peer = str(stream.peer)
        if not self._serves or not self._limits.enter(self._clock.monotonic(), peer):
            self.counters["refused"] += 1
            stream.reset()
            return
        try:
            await self._answer(stream, peer)
        except (WireError, RecordRefused, trio.TooSlowError) as error:
            self.counters["refused"] += 1
            self._log.debug("a request was refused", peer=peer, reason=str(error))
            stream.reset()
        except StreamBroken:
            pass
        finally:
            self._limits.leave(peer)

    async def _answer(self, stream: Stream, peer: str) -> None:
        reader = FrameReader(MAX_REQUEST_BYTES)
        while True:
            with trio.fail_after(self._params.inbound_idle):
                data = await stream.receive_some()
                if not data:
                    return
                for frame in reader.feed(data):
                    if not self._limits.allow(self._clock.monotonic(), peer):
                        raise WireError("too many requests")
                    self.counters["served"] += 1
                    answer = self._answerer.answer(peer, decode_message(frame), self._clock.utc_ns())
                    if answer is not None:
                        await stream.send_all(encode_message(answer))

    def _itself(self) -> Contact:
        return Contact.of(self._peer_id, self._overlay.listen_addresses() if self._serves else ())

    def _known(self, peer_id: bytes) -> Contact | None:
        node = node_of(peer_id)
        return None if node is None else Contact.of(peer_id, _of_peer(peer_id, self._addresses_of(node)))

    # Knowing who is there.

    def _peer_changed(self, change: PeerChange) -> None:
        if change.connected:
            self._meet(change.node_id)
        else:
            self._requests.peer_changed(change.node_id, connected=False)

    def _meet(self, name: str) -> None:
        self._requests.peer_changed(name, connected=True)
        try:
            self._to_meet.send_nowait(name)
        except trio.WouldBlock:
            self.counters["not_met"] += 1

    async def _meet_peers(self) -> None:
        async for name in self._met.clone():
            contact = self._contact_of(name)
            if contact is not None and self.table.wants(contact):
                try:
                    await self._requests.ask(contact, Message(Kind.FIND_NODE, self._peer_id))
                except NoAnswer as error:
                    self._log.debug("a peer does not serve Kademlia", peer=name, reason=str(error))
            if len(self.table):
                self._contacts.set()

    def _contact_of(self, name: str) -> Contact | None:
        """Return the contact of a connected peer; None if nobody could be told where it is."""
        if is_guest(name):
            dialled = [
                info.address
                for info in self._overlay.guests()
                if info.node_id == name and info.direction == "out"
            ]
            return Contact.of(
                base58.decode(name), [f"{a}/p2p/{name}" if "/p2p/" not in a else a for a in dialled]
            )
        for address in self._addresses_of(NodeId(name)):
            peer_id = _peer_id_in(address)
            if peer_id is not None and node_of(peer_id) == name:
                return Contact.of(peer_id, _of_peer(peer_id, self._addresses_of(NodeId(name))))
        return None

    async def _stay_fresh(self) -> None:
        await self._contacts.wait()
        refresh_at = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if now >= refresh_at:
                await self.closest(self._peer_id)
                refresh_at = self._clock.monotonic() + self._params.refresh_self * self._chance.uniform(
                    0.75, 1.25
                )
            for key in self.table.stale_keys(now, self._chance)[:1]:
                await self.closest(key)
            await self._check(self.table.silent(now)[:CHECKED_AT_ONCE])
            self.store.expire(self._clock.utc_ns())
            for name in self._requests.idle(self._linger):
                if self._spare(name):
                    await self._overlay.disconnect(name)
            await trio.sleep(TICK * self._chance.uniform(0.75, 1.25))

    async def _check(self, contacts: Iterable[Contact]) -> None:
        async def check(contact: Contact) -> None:
            try:
                await self._requests.ask(contact, Message(Kind.FIND_NODE, self._peer_id))
            except NoAnswer as error:
                self._log.debug("a contact is gone", peer=contact.names[0], reason=str(error))

        async with trio.open_nursery() as nursery:
            for contact in contacts:
                nursery.start_soon(check, contact)


class _Found:
    """The good records that a search came across, by who had them."""

    def __init__(self, key: bytes, rules: RecordRules, clock: Clock) -> None:
        self._key = key
        self._rules = rules
        self._clock = clock
        self.records: dict[bytes, NodeRecord] = {}

    def take(self, holder: bytes, value: bytes) -> None:
        """Enter a record. Raises RecordRefused."""
        same = next((record for record in self.records.values() if record.value == value), None)
        self.records[holder] = same or self._rules.judge(self._key, value, self._clock.utc_ns())

    def newest(self) -> NodeRecord | None:
        """Return the one with the highest number."""
        return max(self.records.values(), key=lambda record: record.seq, default=None)

    def seq(self, holder: bytes) -> int:
        """Return the number of the record that `holder` has, 0 if none."""
        record = self.records.get(holder)
        return 0 if record is None else record.seq


def _peer_id_in(address: str) -> bytes | None:
    _, found, text = address.rpartition("/p2p/")
    try:
        return base58.decode(text) if found else None
    except ValueError:
        return None


def _of_peer(peer_id: bytes, addresses: Iterable[str]) -> list[str]:
    suffix = f"/p2p/{base58.encode(peer_id)}"
    return [address for address in addresses if address.endswith(suffix)]
