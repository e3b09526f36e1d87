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

import msgspec
import structlog
import trio

from p2p import ping
from p2p.discovery import Discovery, DiscoverySettings, Door, PeerStore, Sessions, ThisNode
from p2p.discovery.messages import OLDEST_VERSION, PROTOCOL_VERSION
from p2p.discovery.serving import OneAtATime, serve_stream
from p2p.events import logged, unreported
from p2p.host.addresses import InvalidAddress, is_acceptable, parse_address, parse_dialable
from p2p.host.dialer import Dialer, RelayDialler
from p2p.host.entrance import Entrance
from p2p.host.identify import protocols_of
from p2p.host.limits import Gate, HostLimits
from p2p.host.listening import allow_descriptors, check_free, concrete
from p2p.host.mdns import announce_and_listen
from p2p.host.reach import HostReach
from p2p.host.sessions import NEGOTIATION_TIMEOUT, HostSession
from p2p.host.swarm import make_host
from p2p.host.tcp import Place, accept_forever, listen, resolve
from p2p.identity import NodeId
from p2p.identity.peer_id import peer_id_of
from p2p.metrics import HostFigures
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
from p2p.session import YamuxSettings
from p2p.session.budget import DEFAULT_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.events import Report
    from p2p.identity import PrivateKey
    from p2p.identity.alias import AliasRecord
    from p2p.session import MuxedStream

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)
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
        limits: how many peers, and whom not.
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
        limits: HostLimits = HostLimits(),  # noqa: B008 - frozen
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
        self._listening: tuple[str, ...] = ()
        self._sources: list[Place] = []
        self._sessions: Sessions[HostSession] = Sessions(report or unreported)
        self._handlers: dict[str, tuple[StreamHandler, bool]] = {}
        self._early: set[str] = set()
        self._dialling = OneAtATime()
        self._nursery: trio.Nursery | None = None
        self._host = make_host(key)
        self._gate = Gate(limits, trust_loopback=network == "devnet")
        self._entrance = Entrance(
            key,
            self._sessions,
            self._host.get_network(),
            self._gate,
            clock=clock,
            entropy=entropy,
            memory_bytes=memory_bytes,
            yamux=yamux,
            report=report or logged,
            entered=self._entered,
            accept_stream=self._accept_stream,
        )
        self._dialer = Dialer(
            self._entrance.establish,
            self._entrance.end,
            gate=self._gate,
            source_for=self._source_for,
            private=lambda address: network == "devnet" or address in bootstrap,
            failed=lambda address: self.discovery.failed(address),
        )
        self._announced: tuple[str, ...] = ()
        self.find_addresses: Callable[[NodeId], Awaitable[Sequence[str]]] | None = None
        """Looks a node up in a directory, when nothing that is known works."""
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
        self._host.advertise(self.discovery.protocol)
        self.serve(ping.PROTOCOL, ping.answer, guests=True)
        self._door = Door(
            self._sessions,
            self.discovery,
            node=key.node_id,
            open_stream=HostSession.open_hello,
            served=protocols_of,
            close=self._entrance.end,
            report=report or logged,
            welcome=self._welcome,
        )
        self.reach_host = HostReach(
            self,
            key,
            sessions=self._sessions,
            entrance=self._entrance,
            door=self._door,
            gate=self._gate,
            sources=self._sources,
            source_for=self._source_for,
            early=self._early,
        )
        """The overlay as `p2p.reach` sees it."""

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
        allow_descriptors(self._gate.limits.connections)
        async with trio.open_nursery() as nursery:
            await self._start_listening(nursery)
            self._nursery = self._entrance.nursery = nursery
            finding = trio.CancelScope()
            nursery.start_soon(self._find_peers, finding)
            try:
                yield self
            finally:
                self._nursery = self._entrance.nursery = None
                finding.cancel()
                await self._say_goodbye()
                nursery.cancel_scope.cancel()

    def interface_addresses(self) -> Sequence[str]:
        """Return where this node listens itself: what `listen_addresses` has beside what is announced."""
        return self._listening

    def listen_addresses(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self._announced, *self._listening)))

    def peers(self) -> Sequence[PeerInfo]:
        return [self._measured(info) for info in self._sessions.peers()]

    def guests(self) -> Sequence[PeerInfo]:
        return [self._measured(info) for info in self._sessions.guests()]

    def aliases_of(self, peer: NodeId) -> frozenset[NodeId]:
        return self.discovery.aliases_of(peer)

    def keeps(self, peer: str) -> bool:
        """Return whether a session with `peer` is of use though it carries no stream."""
        return any(session.kept for session in self._sessions.of(peer))

    def speaking(self, peer: str) -> Sequence[str]:
        """Return the protocols of the streams that are open with a peer, both ways."""
        return [protocol for session in self._sessions.of(peer) for protocol in session.wire.speaking]

    async def connect(self, address: str) -> NodeId:
        try:
            place = parse_dialable(address)
        except InvalidAddress as error:
            raise PeerUnreachable(str(error)) from error
        if place.peer_id == self._peer_id:
            raise ThisNode(f"{address} is this node itself")
        async with self._dialling(place.node_id or place.transport()):  # who waited finds the session made
            session = self._session_of(place.node_id, place.peer_id)
            if session is None:
                session = await self._admitted_at([address], place.node_id)
        return NodeId(session.peer)

    async def disconnect(self, peer: str) -> None:
        for session in self._sessions.of(peer):
            self._entrance.end(session, "this node disconnected")
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
                self._entrance.end(session, "it was found dead")
                if made:
                    raise PeerUnreachable(f"the session with {peer} ended as it began: {error}") from error

    def serve(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        self._handlers[protocol] = handler, guests
        self._host.advertise(protocol)

    def withdraw(self, protocol: str) -> None:
        """Serve a protocol no longer; streams that are open go on."""
        self._handlers.pop(protocol, None)
        self._host.withdraw(protocol)

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
                    nursery.start_soon(accept_forever, listener, self._entrance.accept, nursery)
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

    def _entered(self, session: HostSession) -> None:
        """Have a new session admitted: called by the entrance."""
        if session.direction == "in" and self._nursery is not None:
            self._door.accept(session, session.peer, self._nursery)

    def _welcome(self, session: HostSession) -> str | None:
        """Admit a foreign program as a guest, or return why not: called by the door."""
        if len(self._sessions.guests()) >= self._gate.limits.guests:
            return f"this node has {self._gate.limits.guests} guests, and no more may be"
        if len(self._sessions.of(session.wire.peer_id)) >= self._gate.limits.per_peer:
            return f"it has {self._gate.limits.per_peer} sessions already"
        agent = "" if session.identified is None else session.identified.agent
        session.become_guest()
        self._sessions.admit(session, agent, guest=session.peer)
        return None

    def _session_of(self, *names: str | None) -> HostSession | None:
        """Return the session for new streams to whoever has one of these names."""
        for name in names:
            session = None if name is None else self._sessions.newest(name)
            if session is not None and not session.closed:
                return session
        return None

    async def _session_with(self, peer: NodeId) -> HostSession:
        """Return the session with `peer`, made from all that is known of it, and then from what a directory knows."""
        if peer == self._node_id:
            raise ThisNode(f"{peer} is this node itself")
        async with self._dialling(peer):
            session = self._session_of(peer) or await self._new_session_with(peer)
        if session.peer != peer:
            raise PeerUnreachable(f"{peer} is a foreign libp2p program, no golem-p2p node: {session.peer}")
        return session

    async def _new_session_with(self, peer: NodeId) -> HostSession:
        known = self.discovery.policy.addresses_of(peer)
        reasons: list[str] = []
        if known:
            try:
                return await self._admitted_at(known, peer)
            except PeerUnreachable as error:
                reasons.append(str(error))
        if self.find_addresses is not None:
            found = [address for address in await self.find_addresses(peer) if address not in known]
            if found:
                return await self._admitted_at(found, peer)
            if known:
                reasons.append("the directory has no other address")
            else:
                reasons.append("no address of it is known here, nor in the directory")
        elif not known:
            reasons.append("no address of it is known: it was never dialled, nor told by a peer")
        raise PeerUnreachable(f"{peer} cannot be reached: {'; '.join(reasons)}")

    async def _admitted_at(self, addresses: Sequence[str], peer: NodeId | None) -> HostSession:
        """Dial, and say hello. Raises PeerUnreachable."""
        if self._nursery is None:
            raise PeerUnreachable(f"cannot reach {peer or addresses[0]}: this overlay is not running")
        try:
            address, session = await self._dialer.dial(addresses, peer)
        except PeerUnreachable as error:
            raise PeerUnreachable(f"no session with {peer or addresses[0]}: {error}") from error
        known = self._session_of(session.peer, session.wire.peer_id) if peer is None else None
        if known is not None:
            self._entrance.end(session, "there is a session already")
            return known
        await self._door.enter_dialled(session, session.peer)
        self.discovery.dialled(address, NodeId(session.peer))
        return session

    def _source_for(self, target: Place) -> Place | None:
        """Return from where to dial: the port that is listened on, unless the target is this node itself.

        The address is left to the kernel, which knows the way there: bound to that of another interface, the dial
        would not get far.
        """
        own = {address.split("/p2p/")[0] for address in self._listening}
        if not self._reuse_port or str(target) in own:
            return None
        for source in self._sources:
            if source.version == target.version and (target.is_loopback or not source.is_loopback):
                return Place("::" if target.version == 6 else "0.0.0.0", source.port)  # noqa: S104
        return None

    # For reaching and being reached (`p2p.reach`).

    @property
    def dial_relayed(self) -> RelayDialler | None:
        """How to get through a relay; set by whoever can."""
        return self._dialer.dial_relayed

    @dial_relayed.setter
    def dial_relayed(self, dialler: RelayDialler | None) -> None:
        self._dialer.dial_relayed = dialler

    def announce(self, addresses: Sequence[str]) -> None:
        """Tell peers of further addresses of this node: mapped ones, or relays'. They replace what was announced.

        Args:
            addresses: multiaddrs that end in `/p2p/<peer id>`.
        """
        self._announced = tuple(addresses)
        self._host.set_addresses(self.listen_addresses())

    def figures(self) -> HostFigures:
        """Return how much the sessions hold and have carried."""
        budget = self._entrance.budget
        return HostFigures(
            connections=self._gate.total,
            handshakes=len(self._entrance.handshakes),
            streams=sum(session.wire.stream_count for session in self._sessions.all()),
            memory_limit=budget.limit,
            memory_held=budget.held,
            memory_reserved=budget.reserved,
            traffic=self._entrance.traffic.by_class,
            dials=self._dialer.outcomes,
        )

    def _measured(self, info: PeerInfo) -> PeerInfo:
        session = self._sessions.newest(info.node_id)
        rtt = None if session is None else session.wire.rtt
        return msgspec.structs.replace(info, rtt=rtt)

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
                protocol = await stream.respond(self._served_to(session))
        except (OverlayError, trio.TooSlowError, trio.ClosedResourceError):
            stream.reset()
            return
        except BaseException:
            stream.reset()
            raise
        session.count(stream, opened=False)
        if protocol == self.discovery.protocol:
            handler: StreamHandler = functools.partial(self._door.answer, session)
        elif protocol in self._handlers:
            handler, for_guests = self._handlers[protocol]
            if protocol not in self._early and (
                not await self._sessions.admission(session) or (is_guest(session.peer) and not for_guests)
            ):
                stream.reset()
                return
        else:
            handler = functools.partial(self._serve_stock, session, stream)
        await serve_stream(handler, stream, node=self._node_id, protocol=protocol)

    def _served_to(self, session: HostSession) -> Container[str]:
        served = self._host.served
        if not is_guest(session.peer):
            return served
        return {p for p in served if p not in self._handlers or self._handlers[p][1]}

    async def _serve_stock(self, session: HostSession, stream: MuxedStream, _: Stream) -> None:
        assert session.connection is not None
        await self._host.serve_stock(stream, session.connection)
