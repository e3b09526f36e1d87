"""`MemoryNetwork` and `MemoryOverlay`: the `Overlay` interface in memory, on trio's (virtual) time.

    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), link=Link(latency=0.05))
    a, b = network.overlay(key_a), network.overlay(key_b)
    async with a.running(), b.running():
        await a.connect(b.listen_addresses()[0])

The network holds the links and the faults: `partition`, `cut`, `isolate`, `heal`, `break_sessions`, `stall`,
and `links` for the rest. Sessions stand in for Noise: who is at the other end is taken as proven. Hello and
discovery are off unless asked for; with them, an overlay finds its peers as one on libp2p does. Used by tests
and by simulations in node mode; knows nothing of libp2p.
"""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2p.discovery import Discovery, DiscoverySettings, Door, PeerStore, Sessions, ThisNode
from p2p.discovery.messages import OLDEST_VERSION, PROTOCOL_VERSION
from p2p.discovery.serving import OneAtATime, serve_stream
from p2p.events import logged, unreported
from p2p.identity import InvalidNodeId, NodeId, PrivateKey, parse_node_id
from p2p.identity.peer_id import peer_id_of
from p2p.overlay import PeerChange, PeerInfo, PeerUnreachable, Stream, StreamBroken, StreamHandler
from p2p.testing.network import Inbox, Link, Links, MemorySession, MemoryStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.events import Report
    from p2p.identity import Signer
    from p2p.identity.alias import AliasRecord
    from p2p.testing.determinism import Auditor
    from p2p.testing.network.links import LinkSource

ADDRESS_PREFIX = "/memory/"
DIAL_TIMEOUT = 5.0
"""Seconds until a dial into silence is given up."""
OPEN_TIMEOUT = 10.0
"""Seconds that opening a stream on a session may take."""
HANDSHAKE_ROUND_TRIPS = 3
"""TCP, then Noise XX with the protocols' negotiation folded in: what our own session takes."""
MAX_STREAMS_PER_SESSION = 512
"""Inbound streams beyond this are refused, as a muxer does."""
HANDSHAKE_BYTES = 128
"""About what one message of the handshake takes on the link."""


class MemoryNetwork:
    """The network that some `MemoryOverlay`s share.

    Args:
        clock: tells `PeerInfo.since_ns`.
        entropy: decides jitter, loss and breaks.
        link: what lies between any two nodes, or a function of both.
        directory: whether `open_stream` finds a node that was never dialled by its id alone, as if a
            directory had been asked. Without it, an address must be known from a dial or from discovery.
        window_bytes: what a stream may carry unread.
        detection: seconds until both ends of a session notice that the link between them went down.
        auditor: gets a line for each session, stream and dial; that of a session's end has a hash of all
            that was said.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        link: LinkSource = Link(),  # noqa: B008 - frozen
        *,
        directory: bool = True,
        window_bytes: int = 262_144,
        detection: float = 0.0,
        auditor: Auditor | None = None,
    ) -> None:
        self.clock = clock
        self.links = Links(link, entropy.jitter)
        self.directory = directory
        self.window_bytes = window_bytes
        self.running: dict[NodeId, MemoryOverlay] = {}
        self.places: dict[str, NodeId] = {}
        """Who is where, of the nodes that were given an address."""
        self._detection = detection
        self._auditor = auditor
        self._sessions: dict[MemorySession, None] = {}

    def overlay(
        self,
        who: Signer | NodeId,
        network: str = "devnet",
        *,
        discovery: DiscoverySettings | None = None,
        bootstrap: Sequence[str] = (),
        entropy: Entropy | None = None,
        store: PeerStore | None = None,
        agent: str = "memory",
        version: int = PROTOCOL_VERSION,
        oldest: int = OLDEST_VERSION,
        aliases: Callable[[], Sequence[AliasRecord]] = tuple,
        report: Report | None = None,
        address: str | None = None,
    ) -> MemoryOverlay:
        """Return a new node's overlay; it takes part while its `running()` is open.

        Args:
            discovery: turns hello and discovery on.
            bootstrap, store, agent, version, oldest, aliases: as for `Discovery`.
            report: is told of what happens on the network; None logs what went wrong.
            entropy: spreads this node's dials and exchanges; has to be given with `discovery`.
            address: where it is, as `/ip4/192.0.2.1/tcp/4001`; its PeerId is added, so that `who` has to be its key.
                Without it, the address is made of the NodeId.
        """
        node_id = who if isinstance(who, str) else who.node_id
        place = ADDRESS_PREFIX + node_id
        if address is not None:
            if not isinstance(who, PrivateKey):
                raise ValueError("an address holds a PeerId, which follows from the key alone")
            place = f"{address}/p2p/{peer_id_of(who.public_key)}"
        overlay = MemoryOverlay(self, node_id, network, place, report)
        if discovery is not None:
            if entropy is None:
                raise ValueError("discovery needs the node's entropy")
            overlay.discovery = Discovery(
                node_id,
                network,
                overlay.listen_addresses,
                clock=self.clock,
                entropy=entropy,
                bootstrap=bootstrap,
                settings=discovery,
                agent=agent,
                store=store,
                version=version,
                oldest=oldest,
                aliases=aliases,
                report=report or logged,
            )
        return overlay

    def partition(self, *groups: Iterable[NodeId]) -> None:
        """Split the nodes into groups that cannot reach each other; the unnamed form one more group."""
        self.links.partition(*groups)
        self._sever_downed()

    def cut(self, a: NodeId, b: NodeId) -> None:
        """Take the link between two nodes down."""
        self.links.cut(a, b)
        self._sever_downed()

    def isolate(self, node: NodeId) -> None:
        """Cut a node off from everyone."""
        self.links.isolate(node)
        self._sever_downed()

    def heal(self) -> None:
        """Bring all links back up. Sessions that were lost stay lost."""
        self.links.heal()

    def break_sessions(self, a: NodeId, b: NodeId) -> None:
        """Lose every connection between two nodes, once."""
        for session in self._between(a, b):
            session.sever("the connection was lost")

    def stall(self, a: NodeId, b: NodeId, seconds: float) -> None:
        """Freeze the open connections between two nodes for some seconds."""
        for session in self._between(a, b):
            session.stall(seconds)

    def trace(self, node: NodeId, event: str) -> None:
        """Record what happened, if somebody audits."""
        if self._auditor is not None:
            self._auditor.record(trio.current_time(), node, event)

    def begin(self, dialer: MemoryOverlay, listener: MemoryOverlay) -> MemorySession:
        """Return a new session between two nodes."""
        session = MemorySession(dialer, listener, self.links, self.window_bytes)
        session.since_ns = self.clock.utc_ns()
        self._sessions[session] = None
        return session

    def forget(self, session: MemorySession) -> None:
        """Drop a session that has ended at both ends."""
        if not session.is_open(session.dialer) and not session.is_open(session.listener):
            self._sessions.pop(session, None)

    def _between(self, a: NodeId, b: NodeId) -> list[MemorySession]:
        return [s for s in self._sessions if {s.dialer.node_id, s.listener.node_id} == {a, b}]

    def _sever_downed(self) -> None:
        for session in list(self._sessions):
            if not self.links.is_up(session.dialer.node_id, session.listener.node_id):
                session.sever("the link went down", self._detection)


class MemoryOverlay:
    """A node on a `MemoryNetwork`; implements `p2p.overlay.Overlay`."""

    discovery: Discovery | None = None
    """Its discovery, if it was asked for."""
    find_addresses: Callable[[NodeId], Awaitable[Sequence[str]]] | None = None
    """Where else to look for a node that is not where it is known to be, or not known at all."""

    def __init__(
        self, world: MemoryNetwork, node_id: NodeId, network: str, place: str, report: Report | None = None
    ) -> None:
        self.inbox = Inbox()
        self._world = world
        self._node_id = node_id
        self._network = network
        self.place = place
        self._known: dict[NodeId, str] = {}
        self._sessions: Sessions[MemorySession] = Sessions(report or unreported)
        self._report = report or logged
        self._handlers: dict[str, StreamHandler] = {}
        self._dialling = OneAtATime()
        self._nursery: trio.Nursery | None = None
        self._door: Door[MemorySession] | None = None

    def __repr__(self) -> str:
        return f"<MemoryOverlay {self._node_id} on {self._network}, {len(self._sessions)} sessions>"

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def network(self) -> str:
        return self._network

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MemoryOverlay]:
        """Take part in the network: be dialled, serve streams. Ends sessions at exit."""
        if self._node_id in self._world.running:
            raise RuntimeError(f"{self._node_id} is running on this network already")
        self._door = Door(
            self._sessions,
            self.discovery,
            node=self._node_id,
            open_stream=lambda session, protocol: session.open_stream(self, protocol),
            served=self._served_by,
            close=lambda session, reason: session.close(self, reason),
            report=self._report,
        )
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._world.running[self._node_id] = self
            self._world.places[self.place] = self._node_id
            self.inbox.open()
            nursery.start_soon(self.inbox.run)
            if self.discovery is not None:
                nursery.start_soon(self.discovery.run, self)
            try:
                yield self
            finally:
                del self._world.running[self._node_id]
                self._world.places.pop(self.place, None)
                for session in self._sessions.all():
                    session.close(self, "this node is shutting down")
                self.inbox.close()
                self._nursery = None
                nursery.cancel_scope.cancel()

    def listen_addresses(self) -> Sequence[str]:
        return (self.place,)

    def move(self, place: str) -> None:
        """Change the address at which this node is found; sessions last."""
        self._world.places.pop(self.place, None)
        self.place = place
        self._world.places[place] = self._node_id

    def peers(self) -> Sequence[PeerInfo]:
        return self._sessions.peers()

    def guests(self) -> Sequence[PeerInfo]:
        return self._sessions.guests()

    def aliases_of(self, peer: NodeId) -> frozenset[NodeId]:
        return frozenset() if self.discovery is None else self.discovery.aliases_of(peer)

    async def connect(self, address: str) -> NodeId:
        target = self._world.places.get(address)
        if target is None and address.startswith("/ip") and "/p2p/" in address:
            await trio.sleep(DIAL_TIMEOUT)
            raise PeerUnreachable(f"nobody answered at {address[:128]} within {DIAL_TIMEOUT:g} s")
        target = target or _parse_address(address)
        await self._session_with(target, [address])
        return target

    async def disconnect(self, peer: str) -> None:
        for session in self._sessions.of(peer):
            session.close(self, "this node disconnected")
        await trio.lowlevel.checkpoint()

    async def open_stream(self, peer: str, protocol: str) -> Stream:
        if self.discovery is not None:
            peer = self.discovery.resolve(peer)
        while True:
            made = self._sessions.newest(peer) is None
            node = NodeId(peer)
            session = await self._session_with(node, self._addresses_of(node))
            try:
                with trio.fail_after(OPEN_TIMEOUT):
                    stream = await session.open_stream(self, protocol)
            except trio.TooSlowError as error:
                raise PeerUnreachable(
                    f"{peer} did not answer to {protocol} within {OPEN_TIMEOUT:g} s"
                ) from error
            except StreamBroken as error:
                if made or session.is_open(self):
                    raise PeerUnreachable(f"{peer} was lost: {error}") from error
            else:
                self._world.trace(self._node_id, f"opened {protocol} to {peer}")
                return stream

    def serve(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        self._handlers[protocol] = handler

    def subscribe_peers(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        return self._sessions.subscribe(listener, guests=guests)

    # What a session tells this end (`SessionOwner`).

    def stream_arrived(self, stream: MemoryStream) -> bool:
        """Serve an inbound stream, unless nobody serves its protocol or there are too many."""
        if self._nursery is None or stream.count_beside() > MAX_STREAMS_PER_SESSION:
            return False
        if self.discovery is not None and stream.protocol == self.discovery.protocol:
            assert self._door is not None
            answer = functools.partial(self._door.answer, stream.session)
            self._nursery.start_soon(self._serve, answer, stream, False)
        elif stream.protocol in self._handlers:
            self._nursery.start_soon(self._serve, self._handlers[stream.protocol], stream, True)
        else:
            return False
        return True

    def session_ended(self, session: MemorySession, reason: str) -> None:
        """Forget a session."""
        self._sessions.end(session, reason)
        self._world.forget(session)
        self._world.trace(
            self._node_id, f"lost {session.other(self).node_id}: {reason}; said {session.said(self)}"
        )

    # Dialling and serving.

    def _addresses_of(self, peer: NodeId) -> list[str]:
        if self._world.directory:
            return [ADDRESS_PREFIX + peer]
        if self.discovery is not None:
            return self.discovery.policy.addresses_of(peer)
        return [self._known[peer]] if peer in self._known else []

    async def _session_with(self, peer: NodeId, addresses: Sequence[str]) -> MemorySession:
        if self._nursery is None:
            raise PeerUnreachable(f"cannot reach {peer}: this overlay is not running")
        if peer == self._node_id:
            raise ThisNode(f"{peer} is this node itself")
        async with self._dialling(peer):  # who waited finds the session made
            session = self._sessions.newest(peer)
            if session is not None:
                return session
            address = await self._place_of(peer, addresses)
            session = await self._dial(peer)
            assert self._door is not None
            await self._door.enter_dialled(session, peer)
        self._known[peer] = address
        if self.discovery is not None:
            self.discovery.dialled(address, peer)
        return session

    async def _place_of(self, peer: NodeId, addresses: Sequence[str]) -> str:
        """Return the address among those known, or else those found, at which `peer` is."""
        tried: set[str] = set()
        for source in (None, self.find_addresses):
            found = addresses if source is None else await source(peer)
            for address in found:
                if address == ADDRESS_PREFIX + peer or self._world.places.get(address) == peer:
                    return address
            if not tried.issuperset(found):
                await trio.sleep(DIAL_TIMEOUT)  # all at once, into silence
            if self.discovery is not None:
                for address in found:
                    self.discovery.failed(address)
            tried.update(found)
            if self.find_addresses is None:
                break
        if tried:
            raise PeerUnreachable(f"{peer} did not answer at any of its {len(tried)} addresses")
        raise PeerUnreachable(
            f"no address of {peer} is known: it was never dialled, nor told by a peer, nor found by others"
        )

    async def _dial(self, peer: NodeId) -> MemorySession:
        world, me = self._world, self._node_id
        there, back = world.links.direction(me, peer), world.links.direction(peer, me)
        session: MemorySession | None = None
        try:
            for trip in range(HANDSHAKE_ROUND_TRIPS):
                await self._travel(there.arrival(trio.current_time(), HANDSHAKE_BYTES), peer)
                listener = world.running.get(peer)
                accepts = trip > 0 or world.links.may_dial(peer)
                if trip == HANDSHAKE_ROUND_TRIPS - 1 and listener is not None:
                    session = world.begin(self, listener)
                    listener._accept(session)  # noqa: SLF001 - the other end of the same session
                await self._travel(back.arrival(trio.current_time(), HANDSHAKE_BYTES), peer)
                if listener is None or not accepts:
                    raise PeerUnreachable(
                        f"{peer} does not accept connections: it is not running, or is full"
                    )
            assert session is not None
            if not session.is_open(self):
                raise PeerUnreachable(f"{peer} was lost as the session began")
        except BaseException as error:
            # trio's words for a cancellation name objects by their addresses, which no run shares with another.
            why = "it was given up" if isinstance(error, trio.Cancelled) else error
            world.trace(me, f"dial {peer} failed: {why}")
            if session is not None:
                session.close(self, "the dial was given up")
            raise
        self._open(session)
        return session

    async def _travel(self, arrival: float | None, peer: NodeId) -> None:
        if arrival is None or not self._world.links.is_up(self._node_id, peer):
            await trio.sleep(DIAL_TIMEOUT)
            raise PeerUnreachable(f"{peer} did not answer within {DIAL_TIMEOUT:g} s")
        await trio.sleep_until(arrival)

    def _accept(self, session: MemorySession) -> None:
        assert self._nursery is not None
        assert self._door is not None
        self._open(session)
        self._door.accept(session, session.other(self).node_id, self._nursery)

    def _open(self, session: MemorySession) -> None:
        peer = session.other(self).node_id
        self._world.trace(self._node_id, f"met {peer}")
        info = PeerInfo(
            node_id=peer,
            address=session.other(self).place,
            direction="out" if session.dialer is self else "in",
            since_ns=session.since_ns,
        )
        self._sessions.open(session, info)

    async def _serve(self, handler: StreamHandler, stream: MemoryStream, gated: bool) -> None:
        if gated and not await self._sessions.admission(stream.session):
            stream.reset()
            return
        await serve_stream(handler, stream, node=self._node_id, protocol=stream.protocol)

    async def _served_by(self, session: MemorySession) -> tuple[str, ...]:
        other = session.other(self)
        assert isinstance(other, MemoryOverlay)
        hello = () if other.discovery is None else (other.discovery.protocol,)
        return (*hello, *other._handlers)  # noqa: SLF001 - what identify tells on libp2p


def _parse_address(address: str) -> NodeId:
    try:
        if not address.startswith(ADDRESS_PREFIX):
            raise InvalidNodeId(f"{address[:128]!r} is no address in memory")
        return parse_node_id(address.removeprefix(ADDRESS_PREFIX))
    except InvalidNodeId as error:
        raise PeerUnreachable(f"{error}: expected {ADDRESS_PREFIX}<node id>") from error
