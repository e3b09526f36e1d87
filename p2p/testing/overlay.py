"""`MemoryNetwork` and `MemoryOverlay`: the `Overlay` interface in memory, on trio's (virtual) time.

    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), link=Link(latency=0.05))
    a, b = network.overlay(key_a), network.overlay(key_b)
    async with a.running(), b.running():
        await a.connect(b.listen_addresses()[0])

The network holds the links and the faults: `partition`, `cut`, `isolate`, `heal`, `break_sessions`, `stall`,
and `links` for the rest. Sessions stand in for Noise: who is at the other end is taken as proven. Used by
tests and by simulations in node mode; knows nothing of libp2p.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.identity import InvalidNodeId, NodeId, parse_node_id
from p2p.overlay import (
    PeerChange,
    PeerInfo,
    PeerUnreachable,
    Stream,
    StreamHandler,
)
from p2p.testing.network import Inbox, Link, Links, MemorySession, MemoryStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.identity import Signer
    from p2p.testing.determinism import Auditor
    from p2p.testing.network.links import LinkSource

ADDRESS_PREFIX = "/memory/"
DIAL_TIMEOUT = 5.0
"""Seconds until a dial into silence is given up."""
HANDSHAKE_ROUND_TRIPS = 3
"""TCP, then Noise XX with the protocols' negotiation folded in: what our own session takes."""
MAX_STREAMS_PER_SESSION = 512
"""Inbound streams beyond this are refused, as a muxer does."""

_log = structlog.get_logger("p2p.testing")


class MemoryNetwork:
    """The network that some `MemoryOverlay`s share.

    Args:
        clock: tells `PeerInfo.since_ns`.
        entropy: decides jitter, loss and breaks.
        link: what lies between any two nodes, or a function of both.
        directory: whether `open_stream` finds a node that was never dialled by its id alone, as if a
            directory had been asked. Without it, a node must be told an address first.
        window_bytes: what a stream may carry unread.
        detection: seconds until both ends of a session notice that the link between them went down.
        auditor: gets a line for each session, stream and dial.
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
        self._detection = detection
        self._auditor = auditor
        self._sessions: dict[MemorySession, None] = {}

    def overlay(self, who: Signer | NodeId, network: str = "devnet") -> MemoryOverlay:
        """Return a new node's overlay; it takes part while its `running()` is open."""
        return MemoryOverlay(self, who if isinstance(who, str) else who.node_id, network)

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

    def __init__(self, world: MemoryNetwork, node_id: NodeId, network: str) -> None:
        self.inbox = Inbox()
        self._world = world
        self._node_id = node_id
        self._network = network
        self._known: dict[NodeId, str] = {}
        self._sessions: dict[NodeId, list[MemorySession]] = {}
        self._handlers: dict[str, StreamHandler] = {}
        self._listeners: dict[object, Callable[[PeerChange], None]] = {}
        self._dialling: dict[NodeId, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<MemoryOverlay {self._node_id} on {self._network}, {len(self._sessions)} peers>"

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
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._world.running[self._node_id] = self
            self.inbox.open()
            nursery.start_soon(self.inbox.run)
            try:
                yield self
            finally:
                del self._world.running[self._node_id]
                for sessions in list(self._sessions.values()):
                    for session in list(sessions):
                        session.close(self, "this node is shutting down")
                self.inbox.close()
                self._nursery = None
                nursery.cancel_scope.cancel()

    def listen_addresses(self) -> Sequence[str]:
        return (ADDRESS_PREFIX + self._node_id,)

    def peers(self) -> Sequence[PeerInfo]:
        return [
            PeerInfo(
                node_id=node_id,
                address=ADDRESS_PREFIX + node_id,
                direction="out" if sessions[0].dialer is self else "in",
                since_ns=sessions[0].since_ns,
            )
            for node_id, sessions in self._sessions.items()
        ]

    async def connect(self, address: str) -> NodeId:
        target = _parse_address(address)
        self._known[target] = address
        await self._session_with(target)
        return target

    async def disconnect(self, peer: NodeId) -> None:
        for session in list(self._sessions.get(peer, ())):
            session.close(self, "this node disconnected")
        await trio.lowlevel.checkpoint()

    async def open_stream(self, peer: NodeId, protocol: str) -> Stream:
        session = await self._session_with(peer)
        stream = await session.open_stream(self, protocol)
        self._world.trace(self._node_id, f"opened {protocol} to {peer}")
        return stream

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    def subscribe_peers(self, listener: Callable[[PeerChange], None]) -> Callable[[], None]:
        key = object()
        self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None

    # What a session tells this end (`SessionOwner`).

    def stream_arrived(self, stream: MemoryStream) -> bool:
        """Serve an inbound stream, unless nobody serves its protocol or there are too many."""
        handler = self._handlers.get(stream.protocol)
        session_full = stream.count_beside() > MAX_STREAMS_PER_SESSION
        if handler is None or session_full or self._nursery is None:
            return False
        self._nursery.start_soon(self._serve_stream, handler, stream)
        return True

    def session_ended(self, session: MemorySession, reason: str) -> None:
        """Forget a session; the last one's end is the peer's."""
        peer = session.other(self).node_id
        sessions = self._sessions.get(peer, [])
        if session in sessions:
            sessions.remove(session)
        self._world.forget(session)
        if not sessions and self._sessions.pop(peer, None) is not None:
            self._world.trace(self._node_id, f"lost {peer}: {reason}")
            self._tell(PeerChange(node_id=peer, connected=False))

    # Dialling and serving.

    async def _session_with(self, peer: NodeId) -> MemorySession:
        if self._nursery is None:
            raise PeerUnreachable(f"cannot reach {peer}: this overlay is not running")
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:  # one dial at a time; who waited finds the session made
                sessions = self._sessions.get(peer)
                return sessions[0] if sessions else await self._dial(peer)
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dialling.pop(peer, None)

    async def _dial(self, peer: NodeId) -> MemorySession:
        world, me = self._world, self._node_id
        if peer == me:
            raise PeerUnreachable(f"{peer} is this node itself")
        if peer not in self._known and not world.directory:
            raise PeerUnreachable(f"no address of {peer} is known: it was never dialled, nor told by a peer")
        there, back = world.links.direction(me, peer), world.links.direction(peer, me)
        session: MemorySession | None = None
        try:
            for trip in range(HANDSHAKE_ROUND_TRIPS):
                await self._travel(there.arrival(trio.current_time(), 128), me, peer)
                listener = world.running.get(peer)
                if trip == HANDSHAKE_ROUND_TRIPS - 1 and listener is not None:
                    session = world.begin(self, listener)
                    listener._add(session)  # noqa: SLF001 - the other end of the same session
                await self._travel(back.arrival(trio.current_time(), 128), me, peer)
                if listener is None:
                    raise PeerUnreachable(f"{peer} is not running: its address refuses connections")
                if trip == 0 and not world.links.may_dial(peer):
                    raise PeerUnreachable(f"{peer} does not accept the connection")
            assert session is not None
            if not session.is_open(self):
                raise PeerUnreachable(f"{peer} closed the session as it began")
        except BaseException as error:
            world.trace(me, f"dial {peer} failed: {error}")
            if session is not None:
                session.close(self, "the dial was given up")
            raise
        self._add(session)
        return session

    async def _travel(self, arrival: float | None, me: NodeId, peer: NodeId) -> None:
        if arrival is None or not self._world.links.is_up(me, peer):
            await trio.sleep(DIAL_TIMEOUT)
            raise PeerUnreachable(f"{peer} did not answer within {DIAL_TIMEOUT:g} s")
        await trio.sleep_until(arrival)

    def _add(self, session: MemorySession) -> None:
        peer = session.other(self).node_id
        first = peer not in self._sessions
        self._sessions.setdefault(peer, []).append(session)
        if first:
            self._world.trace(self._node_id, f"met {peer}")
            self._tell(PeerChange(node_id=peer, connected=True))

    async def _serve_stream(self, handler: StreamHandler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
            await stream.aclose()
        except Exception as error:
            _log.warning(
                "a stream handler failed; its stream is reset",
                node=self._node_id,
                peer=stream.peer,
                protocol=stream.protocol,
                error=repr(error),
            )
            stream.reset()
        except BaseException:
            stream.reset()
            raise

    def _tell(self, change: PeerChange) -> None:
        for listener in list(self._listeners.values()):
            listener(change)


def _parse_address(address: str) -> NodeId:
    try:
        if not address.startswith(ADDRESS_PREFIX):
            raise InvalidNodeId(f"{address[:128]!r} is no address in memory")
        return parse_node_id(address.removeprefix(ADDRESS_PREFIX))
    except InvalidNodeId as error:
        raise PeerUnreachable(f"{error}: expected {ADDRESS_PREFIX}<node id>") from error
