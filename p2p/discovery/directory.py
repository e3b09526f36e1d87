"""`Directory`: where any node is, by its NodeId alone; and where we are, for the others.

    directory = Directory(key, kademlia, rules, listen=overlay.listen_addresses, ...)
    async with directory.running():
        addresses = await directory.find(node_id)

Our own record is signed and handed out when our addresses change; and again after ten minutes, twenty, and so on
up to twelve hours: a network that grows puts nearer nodes between a record and those who look for it. What is
found goes into the address book, as the claim of a node about itself.
"""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.discovery.kademlia import Kademlia
from p2p.discovery.records import RecordRefused, RecordRules
from p2p.identity import InvalidNodeId, NodeId, parse_node_id
from p2p.identity.peer_id import peer_id_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from p2p.clock import Clock
    from p2p.discovery.driver import Discovery
    from p2p.discovery.kademlia import LookupReport
    from p2p.discovery.records import NodeRecord
    from p2p.entropy import Entropy
    from p2p.identity import PrivateKey
    from p2p.overlay import Overlay

FIRST_PUBLISH = (2.0, 8.0)
"""Seconds from the first contact to the first record of ours: at least, and at most."""
REPUBLISH = (600.0, 12 * 3600.0)
"""Seconds until our record is handed out again: at first, doubling, and at most. Records hold for 48 hours."""
RETRY = 60.0
"""Seconds until it is tried again when nobody took it."""
WATCH_INTERVAL = 30.0
"""Seconds between two looks at our own addresses."""
MAX_LOOKUPS = 16
"""Lookups under way at once; more wait."""
MISSING_FOR = 10.0
"""Seconds for which a node that was not found is not looked for again."""
MAX_MISSING = 1024

_log = structlog.get_logger("p2p.directory")


class _Flight:
    """A lookup under way, and those who wait for it."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.record: NodeRecord | None = None


class Directory:
    """Finds nodes, and lets this one be found.

    Args:
        key: our own; signs our record.
        kademlia: runs beside the directory: whoever runs this one runs that one.
        listen: returns our own addresses, those that others may not dial included.
        addresses_of: returns what the address book has of a node.
        learn: takes in where a node says by a signed record that it is.
        serve: whether others are served: None for when they can dial this node directly.
    """

    def __init__(
        self,
        key: PrivateKey,
        kademlia: Kademlia,
        rules: RecordRules,
        *,
        listen: Callable[[], Sequence[str]],
        addresses_of: Callable[[NodeId], Sequence[str]],
        learn: Callable[[NodeId, Sequence[str]], None],
        clock: Clock,
        entropy: Entropy,
        serve: bool | None = None,
    ) -> None:
        self.kademlia = kademlia
        self.counters: Counter[str] = Counter()
        """How often what happened: found, not_found, published, publish_failed."""
        self.last_report: LookupReport | None = None
        """What the last lookup took."""
        self._key = key
        self._rules = rules
        self._listen = listen
        self._addresses_of = addresses_of
        self._learn = learn
        self._clock = clock
        self._chance = entropy.jitter
        self._serve = serve
        self._seq = 0
        self._keepers = 0
        self._flights: dict[NodeId, _Flight] = {}
        self._missing: dict[NodeId, float] = {}
        self._limit = trio.CapacityLimiter(MAX_LOOKUPS)
        self._nursery: trio.Nursery | None = None
        self._log = _log.bind(node=key.node_id)

    def __repr__(self) -> str:
        return f"<Directory of {self._key.node_id}, {len(self._flights)} lookups under way>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look up and publish while the context is open; runs Kademlia too."""
        async with self.kademlia.running(), trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_serving)
            nursery.start_soon(self._keep_published)
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    @property
    def nodes(self) -> int:
        """Return how many nodes are in the table."""
        return len(self.kademlia.table)

    @property
    def published(self) -> bool:
        """Return whether somebody keeps our record, as far as was heard when it was last handed out."""
        return self._keepers > 0

    def figures(self) -> Mapping[str, int]:
        """Return `nodes`, and how often what happened since the start, to be counted."""
        return {"nodes": self.nodes, **self.kademlia.counters, **self.counters}

    async def find(self, node: NodeId) -> Sequence[str]:
        """Return where `node` may be dialled: what the address book has, or else what the network says."""
        known = self._addresses_of(node)
        return known or await self.look_up(node)

    async def look_up(self, node: NodeId) -> Sequence[str]:
        """Return where the network says that `node` may be dialled; empty if it has no word of it."""
        try:
            node = parse_node_id(node)
        except InvalidNodeId:
            return ()
        if self._nursery is None or node == self._key.node_id or self._is_missing(node):
            return ()
        flight = self._flights.get(node)
        if flight is None:
            flight = self._flights[node] = _Flight()
            self._nursery.start_soon(self._fly, node, flight)
        await flight.landed.wait()
        return () if flight.record is None else flight.record.addresses

    async def _fly(self, node: NodeId, flight: _Flight) -> None:
        try:
            async with self._limit:
                record = await self._search(node)
            flight.record = record
            if record is None:
                self.counters["not_found"] += 1
                self._missing[node] = self._clock.monotonic() + MISSING_FOR
                if len(self._missing) > MAX_MISSING:
                    del self._missing[next(iter(self._missing))]
            else:
                self.counters["found"] += 1
                self._learn(node, record.addresses)
        finally:
            del self._flights[node]
            flight.landed.set()

    async def _search(self, node: NodeId) -> NodeRecord | None:
        """Return the newest record; all who may have one are asked if the first has nothing that was not known.

        Whoever asks for a node that is in the address book has not found it where it was: then what the nearest
        few have may be as old as that.
        """
        key, known = self._rules.key(node), frozenset(self._addresses_of(node))
        record, self.last_report = await self.kademlia.find(key)
        if record is not None and known.issuperset(record.addresses):
            record, self.last_report = await self.kademlia.find(key, thorough=True)
        return record

    def _is_missing(self, node: NodeId) -> bool:
        until = self._missing.get(node)
        if until is not None and until <= self._clock.monotonic():
            del self._missing[node]
            return False
        return until is not None

    # Our own record.

    async def _keep_serving(self) -> None:
        while True:
            serves = self._rules.serves(self._listen()) if self._serve is None else self._serve
            self.kademlia.set_serving(serves)
            await trio.sleep(WATCH_INTERVAL)

    async def _keep_published(self) -> None:
        await self.kademlia.wait_for_contacts()
        await trio.sleep(self._chance.uniform(*FIRST_PUBLISH))
        published: Sequence[str] | None = None
        pause, longest = REPUBLISH
        due = self._clock.monotonic()
        while True:
            addresses = tuple(self._listen())
            if addresses != published:
                pause, due = REPUBLISH[0], self._clock.monotonic()
            if self._clock.monotonic() >= due:
                published = addresses
                if await self._publish(addresses):
                    due = self._clock.monotonic() + pause * self._chance.uniform(0.75, 1.0)
                    pause = min(2 * pause, longest)
                else:
                    due = self._clock.monotonic() + RETRY * self._chance.uniform(0.75, 1.25)
            await trio.sleep(WATCH_INTERVAL * self._chance.uniform(0.75, 1.25))

    async def _publish(self, addresses: Sequence[str]) -> bool:
        """Hand out our record; return whether somebody keeps it, or there is nothing to tell."""
        key = self._rules.key(self._key.node_id)
        for _ in range(2):
            self._seq = max(self._seq + 1, self._clock.utc_ns())
            value = self._rules.sign(self._key, self._seq, addresses)
            if value is None:
                self._keepers = 0
                return True
            try:
                self._keepers, newest = await self.kademlia.put(key, value)
            except RecordRefused as error:
                self._log.warning("our own record was refused", reason=str(error))
                break
            if newest.value == value:
                self.counters["published" if self._keepers else "publish_failed"] += 1
                self._log.debug("our record is kept", keepers=self._keepers, addresses=addresses)
                return self._keepers > 0
            self._seq = newest.seq  # our clock went back, or the node ran elsewhere: ours has to be newer
        self.counters["publish_failed"] += 1
        return False


def make_directory(
    key: PrivateKey,
    overlay: Overlay,
    discovery: Discovery,
    *,
    acceptable: Callable[[str], bool],
    clock: Clock,
    entropy: Entropy,
    diverse: bool,
    spare: Callable[[str], bool] = lambda _: True,
) -> Directory:
    """Return the directory of a node, with a Kademlia of its own, over its overlay and its address book.

    Args:
        acceptable: whether an address may be dialled.
        diverse: whether to bound how many contacts of one subnet are believed; off on a devnet.
        spare: whether a session that a lookup made is of no other use.
    """
    rules = RecordRules(overlay.network, acceptable)
    kademlia = Kademlia(
        overlay,
        peer_id_bytes(key.public_key),
        rules,
        addresses_of=discovery.policy.addresses_of,
        acceptable=acceptable,
        clock=clock,
        entropy=entropy,
        diverse=diverse,
        spare=spare,
    )
    return Directory(
        key,
        kademlia,
        rules,
        listen=overlay.listen_addresses,
        addresses_of=discovery.policy.addresses_of,
        learn=discovery.signed,
        clock=clock,
        entropy=entropy,
    )
