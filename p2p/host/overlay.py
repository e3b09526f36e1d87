"""`LibP2POverlay`: the `Overlay` interface on py-libp2p. Importing this module imports libp2p.

What is stock and what is mended stands in `p2p.host.swarm` and `p2p.host.muxer`. Who is admitted and whom to
dial is decided by `p2p.discovery`; addresses are kept there too, libp2p's own peer store stays empty.

Errors, beside those of `p2p.overlay`:
    ListenFailed    an address to listen on is taken or invalid
"""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import structlog
import trio
from multiaddr import Multiaddr

from p2p.discovery import Discovery, DiscoverySettings, Door, PeerStore, Sessions, ThisNode
from p2p.discovery.messages import OLDEST_VERSION, PROTOCOL_VERSION
from p2p.discovery.serving import OneAtATime, serve_stream
from p2p.host.addresses import InvalidAddress, is_acceptable, parse_address
from p2p.host.identify import protocols_of
from p2p.host.listening import check_free, concrete
from p2p.host.mdns import announce_and_listen
from p2p.host.multistream import respond
from p2p.host.sessions import MAX_INBOUND_STREAMS, NEGOTIATION_TIMEOUT, HostSession, remote_address
from p2p.host.swarm import OverlayHost, make_host, swarm_running
from p2p.identity import NodeId
from p2p.identity.peer_id import InvalidPeerId, node_id_of_peer, peer_id_of
from p2p.overlay import (
    OverlayError,
    PeerChange,
    PeerInfo,
    PeerUnreachable,
    ProtocolRefused,
    Stream,
    StreamBroken,
    StreamHandler,
    is_guest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.host.addresses import TcpAddress
    from p2p.identity import PrivateKey
    from p2p.identity.alias import AliasRecord

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)
DIAL_TIMEOUT = 10.0
"""Seconds from a dial's first packet to a session; hello has its own limit."""
SHUTDOWN_TIMEOUT = 1.2
"""Seconds that all connections together have to say goodbye when the overlay closes."""

_log = structlog.get_logger("p2p.host")


class ListenFailed(OverlayError):
    """The overlay cannot listen where it was told to."""


class LibP2POverlay:
    """A node on libp2p; implements `p2p.overlay.Overlay`.

    Args:
        key: the node's key, which is its libp2p identity.
        network: `devnet`, `test` or `main`; peers of another are dropped.
        listen: multiaddrs to listen on; port 0 takes a free one.
        bootstrap: multiaddrs to keep dialling.
        peer_store: keeps the address book between runs.
        agent: what the node calls itself to peers.
        mdns: whether to look for nodes of the network on the local one. Never on by itself.
        settings: how many peers to look for, and how eagerly.
        aliases: returns the records of further NodeIds that this node speaks for.
    """

    def __init__(
        self,
        key: PrivateKey,
        network: str,
        listen: Sequence[str] = DEFAULT_LISTEN,
        bootstrap: Sequence[str] = (),
        *,
        clock: Clock,
        entropy: Entropy,
        peer_store: PeerStore | None = None,
        agent: str = "golem-p2p",
        mdns: bool = False,
        settings: DiscoverySettings = DiscoverySettings(),  # noqa: B008 - frozen
        version: int = PROTOCOL_VERSION,
        oldest: int = OLDEST_VERSION,
        aliases: Callable[[], Sequence[AliasRecord]] = tuple,
    ) -> None:
        self._node_id = key.node_id
        self._peer_id = peer_id_of(key.public_key)
        self._network = network
        self._clock = clock
        self._listen = tuple(listen)
        self._mdns = mdns
        self._listening: tuple[str, ...] = ()
        self._sessions: Sessions[HostSession] = Sessions()
        self._by_connection: dict[Any, HostSession] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._dialling = OneAtATime()
        self._nursery: trio.Nursery | None = None
        self._host: OverlayHost = make_host(key, entropy, self._connected)
        self._host.serve_inbound = self._serve_inbound
        self.discovery = Discovery(
            key.node_id,
            network,
            self.listen_addresses,
            clock=clock,
            entropy=entropy,
            bootstrap=bootstrap,
            settings=settings,
            agent=agent,
            store=peer_store,
            acceptable=functools.partial(is_acceptable, allow_private=network == "devnet"),
            version=version,
            oldest=oldest,
            aliases=aliases,
        )
        self._advertise(self.discovery.protocol)
        self._door = Door(
            self._sessions,
            self.discovery,
            node=key.node_id,
            open_stream=HostSession.open_stream,
            served=protocols_of,
            close=self._end,
        )

    def __repr__(self) -> str:
        return f"<LibP2POverlay {self._node_id} on {self._network}, {len(self._sessions)} sessions>"

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def network(self) -> str:
        return self._network

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LibP2POverlay]:
        """Listen, find peers, serve streams. Usable once; closes within two seconds.

        Raises:
            ListenFailed: an address to listen on is taken or invalid.
        """
        swarm = self._host.get_network()
        async with swarm_running(swarm), trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._start_listening(swarm)
            finding = trio.CancelScope()
            nursery.start_soon(self._find_peers, finding)
            try:
                yield self
            finally:
                self._nursery = None
                finding.cancel()
                await self._say_goodbye()
                nursery.cancel_scope.cancel()

    def listen_addresses(self) -> Sequence[str]:
        return self._listening

    def peers(self) -> Sequence[PeerInfo]:
        return self._sessions.peers()

    def guests(self) -> Sequence[PeerInfo]:
        return self._sessions.guests()

    def aliases_of(self, peer: NodeId) -> frozenset[NodeId]:
        return self.discovery.aliases_of(peer)

    async def connect(self, address: str) -> NodeId:
        try:
            place = parse_address(address)
        except InvalidAddress as error:
            raise PeerUnreachable(str(error)) from error
        session = await self._session_at(place)
        self.discovery.dialled(address, session.peer)
        return session.peer

    async def disconnect(self, peer: str) -> None:
        for session in self._sessions.of(peer):
            self._end(session, "this node disconnected")
        await trio.lowlevel.checkpoint()

    async def open_stream(self, peer: str, protocol: str) -> Stream:
        peer = self.discovery.resolve(peer)
        while True:
            session = self._sessions.newest(peer)
            made = session is None
            if session is None:
                if is_guest(peer):
                    raise PeerUnreachable(
                        f"there is no session with {peer}, and guests are not dialled by name"
                    )
                session = await self._session_with(NodeId(peer))
            try:
                return await session.open_stream(protocol)
            except StreamBroken as error:
                if not session.closed:
                    raise PeerUnreachable(str(error)) from error
                self._end(session, "it was found dead")
                if made:
                    raise PeerUnreachable(f"the session with {peer} ended as it began: {error}") from error

    def serve(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        self._handlers[protocol] = handler
        self._advertise(protocol)

    def subscribe_peers(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        return self._sessions.subscribe(listener, guests=guests)

    # Listening and closing.

    async def _start_listening(self, swarm: Any) -> None:
        for text in self._listen:
            try:
                place = parse_address(text)
                await check_free(place)
                if not await swarm.listen(Multiaddr(place.transport())):
                    raise OSError("libp2p could not listen")
            except (InvalidAddress, OSError) as error:
                raise ListenFailed(f"cannot listen on {text}: {error}") from error
        found = [parse_address(str(a)) for a in self._host.get_transport_addrs()]
        places = dict.fromkeys(f"{p.transport()}/p2p/{self._peer_id}" for a in found for p in concrete(a))
        self._listening = tuple(places)

    async def _find_peers(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.discovery.run, self)
                if self._mdns:
                    nursery.start_soon(
                        announce_and_listen, self._network, self._listening, self.discovery.suggest
                    )

    async def _say_goodbye(self) -> None:
        with trio.move_on_after(SHUTDOWN_TIMEOUT) as scope:
            scope.shield = True
            async with trio.open_nursery() as nursery:
                for listener in list(self._host.get_network().listeners.values()):
                    nursery.start_soon(listener.close)
                for session in list(self._by_connection.values()):
                    nursery.start_soon(session.close)
        for session in self._sessions.all():
            self._sessions.end(session)

    # Sessions.

    def _connected(self, connection: Any) -> None:
        """Take a new connection in, whoever dialled: called by libp2p, and before its first stream is served."""
        if connection in self._by_connection or connection.is_closed:
            return
        nursery = self._nursery
        try:
            peer = node_id_of_peer(str(connection.muxed_conn.peer_id))
        except InvalidPeerId as error:
            _log.info("dropped a peer without a NodeId", node=self._node_id, reason=str(error))
            peer = None
        if nursery is None or peer is None or peer == self._node_id:
            if nursery is not None:
                nursery.start_soon(connection.close)
            return
        direction: Literal["in", "out"] = "in" if connection.direction.name == "INBOUND" else "out"
        session = self._by_connection[connection] = HostSession(connection, peer, nursery)
        info = PeerInfo(
            node_id=peer,
            address=remote_address(connection),
            direction=direction,
            since_ns=self._clock.utc_ns(),
        )
        self._sessions.open(session, info)
        nursery.start_soon(self._run_session, session)
        if direction == "in":
            self._door.accept(session, peer, nursery)

    async def _run_session(self, session: HostSession) -> None:
        try:
            await session.run()
        finally:
            self._sessions.end(session)
            self._by_connection.pop(session.connection, None)

    def _end(self, session: HostSession, reason: str) -> None:
        if session in self._sessions:
            _log.debug("ending a session", node=self._node_id, peer=session.peer, reason=reason)
            self._sessions.end(session)
            session.close_soon()

    async def _session_with(self, peer: NodeId) -> HostSession:
        """Dial `peer` where it is known to be, one address after the other."""
        if peer == self._node_id:
            raise ThisNode(f"{peer} is this node itself")
        addresses = self.discovery.policy.addresses_of(peer)
        if not addresses:
            raise PeerUnreachable(f"no address of {peer} is known: it was never dialled, nor told by a peer")
        failures: list[str] = []
        for address in addresses:
            try:
                place = parse_address(address)
                session = await self._session_at(place, peer)
                self.discovery.dialled(address, session.peer)
            except (InvalidAddress, PeerUnreachable) as error:
                self.discovery.failed(address)
                failures.append(f"{address}: {error}")
                continue
            if session.peer == peer:
                return session
            failures.append(f"{address}: {session.peer} is there")
        raise PeerUnreachable(f"{peer} cannot be reached: {'; '.join(failures)}")

    async def _session_at(self, place: TcpAddress, peer: NodeId | None = None) -> HostSession:
        """Return the session with whoever is at `place`, made if there is none."""
        expected = place.node_id or peer
        if expected == self._node_id:
            raise ThisNode(f"{place} is this node itself")
        async with self._dialling(expected or place.transport()):  # who waited finds the session made
            session = self._sessions.newest(expected) if expected else None
            if session is not None and not session.closed:
                return session
            session = await self._dial(place)
            known = self._sessions.newest(session.peer)
            if known is not None and place.node_id is None:
                self._end(session, "there is a session already")
                return known
            await self._door.enter_dialled(session, session.peer)
            return session

    async def _dial(self, place: TcpAddress) -> HostSession:
        if self._nursery is None:
            raise PeerUnreachable(f"cannot dial {place}: this overlay is not running")
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                connection = await self._host.get_network().dial_address(place.transport(), place.peer_id)
        except trio.TooSlowError as error:
            raise PeerUnreachable(f"nobody answered at {place} within {DIAL_TIMEOUT:g} s") from error
        except Exception as error:  # libp2p and its dependencies raise what they like
            raise PeerUnreachable(f"no session with {place}: {_innermost(error)}") from error
        session = self._by_connection.get(connection)
        if session is not None:
            return session
        if str(connection.muxed_conn.peer_id) == self._peer_id:
            raise ThisNode(f"{place} is this node itself")
        raise PeerUnreachable(f"{place} has no NodeId, or closed the session as it began")

    # Streams.

    def _advertise(self, protocol: str) -> None:
        """Have identify tell of a protocol; the stock handler in its place is never called."""
        self._host.set_stream_handler(protocol, None)

    async def _serve_inbound(self, net_stream: Any) -> None:
        """Serve a stream that a peer opened: called by libp2p, in a task of the connection."""
        self._connected(net_stream.swarm_conn)  # its first stream may be quicker than the notice
        session = self._by_connection.get(net_stream.swarm_conn)
        if session is None:
            await net_stream.reset()
            return
        stream = session.stream(net_stream.muxed_stream)
        session.inbound_streams += 1
        try:
            if session.inbound_streams > MAX_INBOUND_STREAMS:
                stream.reset()
                return
            await self._serve_stream(session, stream, net_stream)
        finally:
            session.inbound_streams -= 1

    async def _serve_stream(self, session: HostSession, stream: Stream, net_stream: Any) -> None:
        stock = self._host.multiselect.handlers
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                protocol = await respond(stream, stock)
        except (StreamBroken, ProtocolRefused, trio.TooSlowError):
            stream.reset()
            return
        except BaseException:
            stream.reset()
            raise
        if protocol == self.discovery.protocol:
            handler: StreamHandler = functools.partial(self._door.answer, session)
        elif protocol in self._handlers:
            handler = self._handlers[protocol]
            if not await self._sessions.admission(session):
                stream.reset()
                return
        else:
            await stock[protocol](net_stream)
            return
        await serve_stream(handler, stream, node=self._node_id, protocol=protocol)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
