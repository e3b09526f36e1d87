"""`LibP2POverlay`: the `Overlay` interface on libp2p's protocols. Importing this module imports libp2p.

Connections are TCP streams of trio that `p2p.session` makes sessions of; `p2p.host.swarm` keeps libp2p's books of
them. Who is admitted and whom to dial is decided by `p2p.discovery`; addresses are kept there too, libp2p's own peer
store stays empty.

Errors, beside those of `p2p.overlay`:
    ListenFailed    an address to listen on is taken or invalid
"""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.discovery import Discovery, DiscoverySettings, Door, PeerStore, Sessions, ThisNode
from p2p.discovery.messages import OLDEST_VERSION, PROTOCOL_VERSION
from p2p.discovery.serving import OneAtATime, serve_stream
from p2p.events import HandshakeFailed, logged, unreported
from p2p.host.addresses import InvalidAddress, is_acceptable, parse_address
from p2p.host.identify import protocols_of
from p2p.host.listening import check_free, concrete
from p2p.host.mdns import announce_and_listen
from p2p.host.sessions import NEGOTIATION_TIMEOUT, Direction, HostSession, Path
from p2p.host.swarm import make_host
from p2p.host.tcp import Place, accept_forever, dial, ends, listen, resolve
from p2p.identity import NodeId
from p2p.identity.peer_id import peer_id_of
from p2p.overlay import (
    OverlayError,
    PeerChange,
    PeerInfo,
    PeerUnreachable,
    Stream,
    StreamBroken,
    StreamHandler,
    is_guest,
)
from p2p.session import (
    MemoryBudget,
    NoiseIdentity,
    ProtocolError,
    Secp256k1Identity,
    SessionError,
    YamuxSettings,
    upgrade,
)
from p2p.session.budget import DEFAULT_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.events import HandshakeFault, Report
    from p2p.host.addresses import TcpAddress
    from p2p.identity import PrivateKey
    from p2p.identity.alias import AliasRecord
    from p2p.session import MuxedStream, Session

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)
DIAL_TIMEOUT = 10.0
"""Seconds from a dial's first packet to a session; hello has its own limit."""
UPGRADE_TIMEOUT = 10.0
"""Seconds that who connects has to prove who it is."""
DRAIN = 0.25
"""Seconds that open streams have to finish when the overlay closes; then each session has one more to say goodbye."""

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
        report: is told of what happens on the network; None logs what went wrong.
        reuse_port: whether dials leave from the port that is listened on, where that is possible.
        memory_bytes: what all sessions together may promise to receive and hold unread.
        yamux: limits and times of each session.
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
        reuse_port: bool = True,
        memory_bytes: int = DEFAULT_LIMIT_BYTES,
        yamux: YamuxSettings = YamuxSettings(),  # noqa: B008 - frozen
        version: int = PROTOCOL_VERSION,
        oldest: int = OLDEST_VERSION,
        aliases: Callable[[], Sequence[AliasRecord]] = tuple,
        report: Report | None = None,
    ) -> None:
        self._node_id = key.node_id
        self._peer_id = peer_id_of(key.public_key)
        self._network = network
        self._clock = clock
        self._listen = tuple(listen)
        self._mdns = mdns
        self._reuse_port = reuse_port
        self._yamux = yamux
        self._entropy = entropy
        self._listening: tuple[str, ...] = ()
        self._sources: list[Place] = []
        self._sessions: Sessions[HostSession] = Sessions(report or unreported)
        self._handlers: dict[str, StreamHandler] = {}
        self._dialling = OneAtATime()
        self._nursery: trio.Nursery | None = None
        self._identity = NoiseIdentity(Secp256k1Identity(key.secret), entropy)
        self._budget = MemoryBudget(memory_bytes)
        self._host = make_host(key)
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
            report=report or logged,
        )
        self._report = report or logged
        self._host.advertise(self.discovery.protocol)
        self._door = Door(
            self._sessions,
            self.discovery,
            node=key.node_id,
            open_stream=HostSession.open_stream,
            served=protocols_of,
            close=self._end,
            report=report or logged,
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
        async with trio.open_nursery() as nursery:
            await self._start_listening(nursery)
            self._nursery = nursery
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
        self.discovery.dialled(address, NodeId(session.peer))
        return NodeId(session.peer)

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
        self._host.advertise(protocol)

    def subscribe_peers(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        return self._sessions.subscribe(listener, guests=guests)

    # Listening and closing.

    async def _start_listening(self, nursery: trio.Nursery) -> None:
        told: dict[str, None] = {}
        for text in self._listen:
            try:
                address = parse_address(text)
                await check_free(address)
                for place in await resolve(address):
                    listener = await listen(place, shared=self._reuse_port)
                    nursery.start_soon(accept_forever, listener, self._accept_connection, nursery)
                    bound = Place(place.host, listener.socket.getsockname()[1])
                    self._sources.append(bound)
                    for mine in concrete(parse_address(str(bound))):
                        told[f"{mine.transport()}/p2p/{self._peer_id}"] = None
            except (InvalidAddress, OSError) as error:
                raise ListenFailed(f"cannot listen on {text}: {error}") from error
        self._listening = tuple(told)
        self._host.set_addresses(self._listening)

    async def _find_peers(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.discovery.run, self)
                if self._mdns:
                    nursery.start_soon(
                        announce_and_listen, self._network, self._listening, self.discovery.suggest
                    )

    async def _say_goodbye(self) -> None:
        async with trio.open_nursery() as nursery:
            for session in self._sessions.all():
                nursery.start_soon(session.close, DRAIN)
        for session in self._sessions.all():
            self._sessions.end(session, "this node is shutting down")

    # Sessions.

    async def _accept_connection(self, stream: trio.SocketStream) -> None:
        address = ""
        try:
            with trio.fail_after(UPGRADE_TIMEOUT):
                _, there = ends(stream)
                address = str(there)
                await self._establish(stream, initiator=False, address=address)
        except (OSError, OverlayError, trio.TooSlowError) as error:
            self._report(HandshakeFailed(address, _why(error), str(error) or "it took too long"))
            await trio.aclose_forcefully(stream)

    async def _establish(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        initiator: bool,
        address: str,
        expected: str | None = None,
        direction: Direction | None = None,
        path: Path = "direct",
    ) -> HostSession:
        """Make a session of a byte stream; it is not admitted yet.

        Raises:
            SessionError: the other end is not who it should be, or hung up.
            PeerUnreachable: it is nobody to talk to.
        """
        session = await upgrade(
            stream,
            self._identity,
            initiator=initiator,
            entropy=self._entropy,
            budget=self._budget,
            settings=self._yamux,
            expected=expected,
        )
        try:
            return self._enter(session, address, direction or ("out" if initiator else "in"), path, initiator)
        except BaseException:
            await session.aclose()
            raise

    def _enter(
        self, wire: Session, address: str, direction: Direction, path: Path, initiator: bool
    ) -> HostSession:
        nursery, peer = self._nursery, wire.peer_key.node_id
        if nursery is None:
            raise PeerUnreachable("this overlay is not running")
        if peer is None:
            _log.info("dropped a peer without a NodeId", node=self._node_id, peer=wire.peer_id)
            raise PeerUnreachable(f"{wire.peer_id} has no NodeId: its identity is not a secp256k1 key")
        if peer == self._node_id:
            raise ThisNode(f"{address} is this node itself")
        session = HostSession(wire, peer, address, direction, path, trio.current_time())
        session.connection = self._host.get_network().enter(wire, address, initiator=initiator)
        info = PeerInfo(
            node_id=peer, address=address, direction=direction, since_ns=self._clock.utc_ns(), path=path
        )
        self._sessions.open(session, info)
        nursery.start_soon(self._run_session, session)
        if direction == "in":
            self._door.accept(session, peer, nursery)
        return session

    async def _run_session(self, session: HostSession) -> None:
        try:
            await session.wire.run(functools.partial(self._accept_stream, session))
        finally:
            self._sessions.end(session, session.wire.ended or "")
            self._host.get_network().forget(session.connection)

    def _end(self, session: HostSession, reason: str) -> None:
        if session in self._sessions:
            _log.debug("ending a session", node=self._node_id, peer=session.peer, reason=reason)
            self._sessions.end(session, reason)
            if self._nursery is not None:
                self._nursery.start_soon(session.close)

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
                self.discovery.dialled(address, NodeId(session.peer))
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
            await self._door.enter_dialled(session, NodeId(session.peer))
            return session

    async def _dial(self, place: TcpAddress) -> HostSession:
        if self._nursery is None:
            raise PeerUnreachable(f"cannot dial {place}: this overlay is not running")
        failures: list[str] = []
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                for target in await resolve(place):
                    try:
                        stream = await dial(target, self._source_for(target))
                        return await self._establish(
                            stream, initiator=True, address=str(target), expected=place.peer_id
                        )
                    except (OSError, SessionError) as error:
                        failures.append(str(error))
        except trio.TooSlowError as error:
            raise PeerUnreachable(f"nobody answered at {place} within {DIAL_TIMEOUT:g} s") from error
        except OSError as error:
            raise PeerUnreachable(f"no session with {place}: {error}") from error
        raise PeerUnreachable(f"no session with {place}: {'; '.join(failures)}")

    def _source_for(self, target: Place) -> Place | None:
        """Return from where to dial: a place that is listened on, unless it is the target itself."""
        if not self._reuse_port:
            return None
        own = {address.split("/p2p/")[0] for address in self._listening}
        if str(target) in own:
            return None
        return next((source for source in self._sources if source.version == target.version), None)

    # Streams.

    def _accept_stream(self, session: HostSession, stream: MuxedStream) -> None:
        """Serve a stream that a peer opened: called by its session, and must not block."""
        if self._nursery is None:
            stream.reset()
        else:
            self._nursery.start_soon(self._serve_stream, session, stream)

    async def _serve_stream(self, session: HostSession, stream: MuxedStream) -> None:
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                protocol = await stream.respond(self._host.served)
        except (OverlayError, trio.TooSlowError, trio.ClosedResourceError):
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
            handler = functools.partial(self._serve_stock, session, stream)
        await serve_stream(handler, stream, node=self._node_id, protocol=protocol)

    async def _serve_stock(self, session: HostSession, stream: MuxedStream, _: Stream) -> None:
        assert session.connection is not None
        await self._host.serve_stock(stream, session.connection)


def _why(error: Exception) -> HandshakeFault:
    """Return in a word why a connection that came in made no session."""
    match error:
        case trio.TooSlowError():
            return "time"
        case ProtocolError():
            return "protocol"
        case OSError() | SessionError():
            return "lost"
    return "limit"
