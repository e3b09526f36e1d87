"""`Entrance`: from a byte stream to a session that is in the books, within the limits.

Every session of an overlay comes through here, whoever dialled and whatever carries it: Noise proves who is there,
the gate says whether there is room, and until its end it is a task here and an entry in libp2p's tables. It is not
admitted yet: that is hello's (`p2p.discovery.admission`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from p2p.discovery import ThisNode
from p2p.events import HandshakeFailed
from p2p.host.limits import Handshakes, prune
from p2p.host.sessions import HostSession
from p2p.host.tcp import ends
from p2p.metrics import TrafficTable
from p2p.overlay import OverlayError, PeerInfo, PeerUnreachable
from p2p.session import (
    MemoryBudget,
    NoiseIdentity,
    ProtocolError,
    Secp256k1Identity,
    SessionError,
    upgrade,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.clock import Clock
    from p2p.discovery import Sessions
    from p2p.entropy import Entropy
    from p2p.events import HandshakeFault, Report
    from p2p.host.limits import Gate
    from p2p.host.swarm import OverlaySwarm
    from p2p.identity import PrivateKey
    from p2p.overlay import Direction, Path
    from p2p.session import MuxedStream, Session, YamuxSettings

UPGRADE_TIMEOUT = 10.0
"""Seconds that who connects has to prove who it is."""
SETTLING = 15.0
"""Seconds before a session is counted among those that may be ended to make room."""

_log = structlog.get_logger("p2p.host")


class Entrance:
    """Makes and runs the sessions of one overlay.

    Args:
        sessions: the overlay's table.
        books: libp2p's.
        report: is told of connections that came in and came to nothing.
        entered: called with each new session.
        accept_stream: called with each stream that a peer opens; must not block.
    """

    def __init__(
        self,
        key: PrivateKey,
        sessions: Sessions[HostSession],
        books: OverlaySwarm,
        gate: Gate,
        *,
        clock: Clock,
        entropy: Entropy,
        memory_bytes: int,
        yamux: YamuxSettings,
        report: Report,
        entered: Callable[[HostSession], None],
        accept_stream: Callable[[HostSession, MuxedStream], None],
    ) -> None:
        self.nursery: trio.Nursery | None = None
        """Where sessions run; None while the overlay does not."""
        self.budget = MemoryBudget(memory_bytes)
        """What all sessions together may promise to receive and hold unread."""
        self.traffic = TrafficTable()
        """What their streams have carried."""
        self.handshakes: Handshakes[trio.CancelScope] = Handshakes(gate.limits.upgrades)
        """Those of connections that arrived."""
        self._node_id = key.node_id
        self._identity = NoiseIdentity(Secp256k1Identity(key.secret), entropy)
        self._sessions = sessions
        self._books = books
        self._gate = gate
        self._clock = clock
        self._entropy = entropy
        self._yamux = yamux
        self._report = report
        self._entered = entered
        self._accept_stream = accept_stream

    async def accept(self, stream: trio.SocketStream) -> None:
        """Take in a TCP connection that arrived, or close it."""
        try:
            _, there = ends(stream)
            refused = self._gate.arrive(there.host)
        except OSError:
            await trio.aclose_forcefully(stream)  # it has hung up already
            return
        if refused is not None:
            self._report(HandshakeFailed(str(there), "limit", refused))
            await trio.aclose_forcefully(stream)
            return
        session = None
        gives_way = trio.CancelScope()
        given_up = self.handshakes.begin(gives_way, there.host, trio.current_time())
        if given_up is not None:
            given_up.cancel()
        try:
            with gives_way:
                try:
                    with trio.fail_after(UPGRADE_TIMEOUT):
                        session = await self.establish(
                            stream, initiator=False, address=str(there), arrived_from=there.host
                        )
                except (OverlayError, trio.TooSlowError) as error:
                    self._report(HandshakeFailed(str(there), _why(error), str(error) or "it took too long"))
            if gives_way.cancelled_caught:
                self._report(HandshakeFailed(str(there), "limit", "it gave way to others' handshakes"))
        finally:
            self.handshakes.end(gives_way)
            if session is None:
                self._gate.left(there.host)

    async def establish(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        initiator: bool,
        address: str,
        expected: str | None = None,
        path: Path = "direct",
        arrived_from: str | None = None,
    ) -> HostSession:
        """Make a session of a byte stream, which is closed if that fails. Timeouts belong to the caller.

        Raises:
            SessionError: the other end is not who it should be, or hung up.
            PeerUnreachable: it is nobody to talk to, or there is no room.
        """
        wire = await upgrade(
            stream,
            self._identity,
            initiator=initiator,
            entropy=self._entropy,
            budget=self.budget,
            settings=self._yamux,
            expected=expected,
        )
        try:
            return self._enter(wire, address, path, initiator=initiator, arrived_from=arrived_from)
        except BaseException:
            await wire.aclose()
            raise

    def end(self, session: HostSession, reason: str) -> None:
        """End a session, if it has not ended."""
        if session in self._sessions:
            _log.debug("ending a session", node=self._node_id, peer=session.peer, reason=reason)
            self._sessions.end(session, reason)
            if self.nursery is not None:
                self.nursery.start_soon(session.close)

    def _enter(
        self, wire: Session, address: str, path: Path, *, initiator: bool, arrived_from: str | None
    ) -> HostSession:
        peer = wire.name
        if self.nursery is None:
            raise PeerUnreachable("this overlay is not running")
        if peer == self._node_id:
            raise ThisNode(f"{address} is this node itself")
        refused = self._gate.refuses_peer(wire.peer_id, peer)
        if refused is None and arrived_from is None and self._gate.total >= self._gate.limits.connections:
            refused = f"this node has {self._gate.total} connections, and no more may be"
        if refused is not None:
            raise PeerUnreachable(refused)
        self._make_room(peer)
        if arrived_from is None:
            self._gate.made()
        direction: Direction = "out" if initiator else "in"
        session = HostSession(wire, peer, address, direction, path, trio.current_time(), arrived_from)
        session.traffic = self.traffic
        wire.core.traffic = self.traffic.of("")
        session.connection = self._books.enter(wire, address, initiator=initiator)
        info = PeerInfo(
            node_id=peer,
            address=address,
            direction=direction,
            since_ns=self._clock.utc_ns(),
            path=path,
            peer_id=wire.peer_id,
        )
        self._sessions.open(session, info)
        self.nursery.start_soon(self._run, session)
        self._entered(session)
        return session

    def _make_room(self, peer: str) -> None:
        """End what gives way to a further session with `peer`."""
        limits = self._gate.limits
        of_peer = self._sessions.of(peer)
        for (
            earlier
        ) in of_peer:  # the peer may have lost it: its machine began anew, or its address has changed
            earlier.wire.doubt()
        if len(of_peer) >= limits.per_peer:
            least = min(of_peer, key=lambda s: (s.path == "direct", s.since))
            self.end(least, f"the peer has {len(of_peer)} sessions")
        if len(self._sessions) >= limits.prune_above:
            settled = trio.current_time() - SETTLING
            held = [session.held() for session in self._sessions.all() if session.since <= settled]
            for worth_least in prune(held, len(self._sessions) + 1 - limits.prune_above):
                self.end(worth_least, "this node has too many peers")

    async def _run(self, session: HostSession) -> None:
        try:
            await session.wire.run(lambda stream: self._accept_stream(session, stream))
        finally:
            self._sessions.end(session, session.wire.ended or "")
            assert session.connection is not None
            self._books.forget(session.connection)
            self._gate.left(session.arrived_from)


def _why(error: Exception) -> HandshakeFault:
    """Return in a word why a connection that came in made no session."""
    match error:
        case trio.TooSlowError():
            return "time"
        case ProtocolError():
            return "protocol"
        case SessionError():
            return "lost"
    return "limit"
